//! What each failure of the token endpoint comes to, at submission and in the worker.

mod codes;
mod credentials;
mod fixtures;
mod words;

use std::time::Duration;

use errand_shared::time::Timestamp;
use errand_simulator::{HttpAnswer, Reply, UserTokenRequest};
use errand_tests::{Answer, Database, Settings, TestApp, User, workflows};
use serde_json::{Value, json};
use uuid::Uuid;

/// A failure, and what has to come of it.
struct Failure {
    /// Also its user and the path of its call.
    name: String,
    answer: HttpAnswer,
    at_submission: Refusal,
    in_worker: Consequence,
    /// Token requests that are made in all, at submission and in the worker.
    asked: (usize, usize),
}

/// What a submitter is told.
#[derive(Clone, Copy)]
enum Refusal {
    /// The token is no good: get another one.
    Token,
    Consent,
    /// Sign in with these claims.
    Claims,
    SignIn,
    Administrator,
    /// Nothing helps this caller.
    Caller,
    Operator,
    Unavailable {
        retry_after: u64,
    },
}

/// What becomes of a job.
#[derive(Clone, Copy)]
enum Consequence {
    /// It tries again by itself, not before so many seconds.
    Waits(u64),
    /// It goes on so soon that the wait is hard to see.
    Recovers,
    /// For this reason, with a refresh token that may do for others.
    Suspends(&'static str),
    /// The refresh token is dead.
    Revoked,
    Faults,
    /// The refresh token is dead too.
    FaultsAndRevokes,
}

impl Failure {
    fn new(
        name: String,
        answer: HttpAnswer,
        at_submission: Refusal,
        in_worker: Consequence,
    ) -> Self {
        Self { name, answer, at_submission, in_worker, asked: (1, 1) }
    }

    /// The same with more token requests than one.
    fn asked(self, at_submission: usize, in_worker: usize) -> Self {
        Self { asked: (at_submission, in_worker), ..self }
    }

    fn definition(&self) -> Value {
        workflows::document(&json!([workflows::get("read", &format!("api/{}", self.name))]))
    }

    /// Somebody of a tenant of their own: what a failure holds back from others, it holds back from
    /// nobody else in its story.
    fn user(&self, app: &TestApp) -> User {
        let tenant = Some(Uuid::new_v4().to_string());
        let request = UserTokenRequest { tenant, ..UserTokenRequest::named(&self.name) };
        let claims = app.simulator.user_claims(&request);
        let token = app.simulator.sign(&app.simulator.token_header(), &claims);
        app.user_with_token(&self.name, token)
    }

    /// The next call is refused, so that the worker needs another token.
    fn script_unauthorized(&self, app: &TestApp) {
        let path = format!("/partner/api/{}", self.name);
        app.simulator.script_call_answer("GET", &path, HttpAnswer::text(401, ""));
    }
}

/// Users of every tenant may come.
fn settings() -> Settings {
    Settings { any_tenant: true, ..Settings::default() }
}

/// Nothing of a refused submission is kept, however it was refused.
async fn assert_refused_at_submission(app: &TestApp, failures: &[Failure]) {
    for failure in failures {
        for _ in 0..failure.asked.0 {
            app.simulator.script_token_answer(failure.answer.clone());
        }
        let before = app.exchanges().len();
        let user = failure.user(app);
        let refused = user.post_job(&json!({ "definition": failure.definition() })).await;
        assert_told(&refused, failure);
        assert_eq!(app.exchanges().len() - before, failure.asked.0, "{}", failure.name);
    }
    for table in ["sessions", "access_tokens", "jobs"] {
        assert_eq!(app.database.count(table).await, 0, "{table}");
    }
}

#[track_caller]
fn assert_told(refused: &Answer, failure: &Failure) {
    let (status, problem, challenge) = match failure.at_submission {
        Refusal::Token => (401, "unauthorized", r#"Bearer error="invalid_token""#),
        Refusal::Consent => (403, "consent_required", r#"Bearer proposedAction="consent""#),
        Refusal::Claims => (401, "interaction_required", r#"Bearer error="insufficient_claims""#),
        Refusal::SignIn => (401, "interaction_required", r#"Bearer error="interaction_required""#),
        Refusal::Administrator => (403, "admin_action_required", ""),
        Refusal::Caller => (403, "forbidden", ""),
        Refusal::Operator => (502, "identity_provider_refused", ""),
        Refusal::Unavailable { .. } => (503, "unavailable", ""),
    };
    let Failure { name, at_submission, .. } = failure;
    assert_eq!(refused.status, status, "{name}: {}", refused.text);
    refused.assert_problem(status, problem);
    let header = refused.header("www-authenticate");
    assert_eq!(header.split(',').next(), Some(challenge), "{name}: {header}");
    assert!(!refused.text.contains("AADSTS"), "{name}: {}", refused.text);

    let body = &refused.body;
    let needs_user = matches!(at_submission, Refusal::Consent | Refusal::Claims | Refusal::SignIn);
    let needs_consent = matches!(at_submission, Refusal::Consent);
    if needs_user {
        assert_eq!(body["interaction_required"], true, "{name}");
        assert_eq!(body["consent_required"], needs_consent, "{name}");
        assert_eq!(body["scopes"], json!(["api://partner-api-id/read"]), "{name}");
    }
    assert_eq!(body["consent_url"].is_string(), needs_consent, "{name}");
    assert_eq!(header.contains(r#"consentUri="http"#), needs_consent, "{name}");
    let has_claims = matches!(at_submission, Refusal::Claims);
    assert_eq!(body["claims"].is_string(), has_claims, "{name}");
    assert_eq!(header.contains("claims=\""), has_claims, "{name}");
    let retry_after = match at_submission {
        Refusal::Unavailable { retry_after } => retry_after.to_string(),
        _ => String::new(),
    };
    assert_eq!(refused.header("retry-after"), retry_after, "{name}");
}

/// No failure burns an attempt, and none that may pass costs the refresh token.
async fn assert_consequence_in_worker(app: &TestApp, failures: &[Failure]) {
    for failure in failures {
        assert_consequence(app, failure).await;
    }
}

/// API and worker in one process, where a submission wakes the worker at once on SQLite too: one job
/// comes after the other here.
async fn start_in_one_process(database: Database, settings: Settings) -> TestApp {
    let settings = Settings { workers: 0, ..settings };
    let mut app = TestApp::start_with(database, settings).await;
    app.stop_api().await;
    app.start_serving().await;
    app
}

async fn assert_consequence(app: &TestApp, failure: &Failure) {
    let Failure { name, in_worker, .. } = failure;
    let user = failure.user(app);
    let options = json!({ "session_key": "failures" });
    let (exchanges, refreshes) = (app.exchanges().len(), app.refreshes().len());
    app.simulator.script_token_answer(Reply::Usual);
    for _ in 0..failure.asked.1 {
        app.simulator.script_token_answer(failure.answer.clone());
    }
    failure.script_unauthorized(app);
    let job = user.submit_with(&failure.definition(), &options).await;
    let status = match in_worker {
        Consequence::Waits(_) => "waiting",
        Consequence::Recovers => "completed",
        Consequence::Suspends(_) | Consequence::Revoked => "suspended",
        Consequence::Faults | Consequence::FaultsAndRevokes => "faulted",
    };
    let seen = user.wait_for(&job, name, |job| job["status"] == status).await;
    let attempts = u32::from(matches!(in_worker, Consequence::Recovers));
    assert_eq!(seen["attempts"], attempts, "{name}: {seen}");
    assert_eq!(app.refreshes().len() - refreshes, failure.asked.1, "{name}");
    match *in_worker {
        Consequence::Waits(seconds) => {
            let time = |member: &str| seen[member].as_str().unwrap().parse::<Timestamp>().unwrap();
            // The database's clock and the worker's own stopwatch may differ a little.
            let waits = time("due_at").since(time("updated_at")) + Duration::from_secs(2);
            assert!(waits >= Duration::from_secs(seconds), "{name}: {seen}");
            assert!(waits <= Duration::from_secs(2 * seconds + 4), "{name}: {seen}");
        }
        Consequence::Recovers => return,
        Consequence::Suspends(reason) => assert_eq!(seen["suspension"]["reason"], reason, "{name}"),
        Consequence::Revoked => {
            assert_eq!(seen["suspension"]["reason"], "session_revoked", "{name}");
        }
        Consequence::Faults | Consequence::FaultsAndRevokes => {
            let kind = seen["error"]["type"].as_str().unwrap();
            assert!(kind.ends_with("/errors/authentication"), "{name}: {seen}");
        }
    }

    // What is left of the session shows in what its next job does.
    let may_refresh = !matches!(in_worker, Consequence::Waits(_));
    if may_refresh {
        failure.script_unauthorized(app);
    }
    let next = user.submit_with(&failure.definition(), &options).await;
    user.wait_until(&next, "completed").await;
    // A new grant goes to those who were waiting for one, and either job may be the one to refresh it.
    let status = if matches!(in_worker, Consequence::Revoked) { "completed" } else { status };
    user.wait_until(&job, status).await;
    let is_dead = matches!(in_worker, Consequence::Revoked | Consequence::FaultsAndRevokes);
    assert_eq!(app.exchanges().len() - exchanges, 1 + usize::from(is_dead), "{name}");
    if may_refresh {
        let presented = app.refreshes();
        let (refused, next) = (&presented[refreshes], &presented[refreshes + failure.asked.1]);
        let is_same = refused.refresh_token_hash == next.refresh_token_hash;
        assert_eq!(is_same, !is_dead, "{name}");
    }
}
