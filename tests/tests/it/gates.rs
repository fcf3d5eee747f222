//! One refusal keeps others from asking for the same.

use std::time::Duration;

use errand_shared::time::{Clock, SystemClock};
use errand_simulator::{HttpAnswer, Reply, UserTokenRequest};
use errand_tests::{Answer, Database, Settings, TestApp, User, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

on_both_databases! {
    a_throttle_holds_the_submissions_of_its_tenant_and_no_others
    a_job_that_is_held_burns_no_attempt_and_goes_on_when_the_gate_opens
    an_api_that_is_configured_wrongly_holds_no_other
    a_grant_that_a_waiting_job_needs_is_kept_alive_by_one_worker
}

async fn start(database: Database) -> TestApp {
    TestApp::start_with(database, Settings { any_tenant: true, ..Settings::default() }).await
}

/// A user of that tenant, who may name every API.
fn user(app: &TestApp, name: &str, tenant: &str) -> User {
    let request = UserTokenRequest {
        scp: Some("Jobs.ReadWrite Ledger.Use".to_owned()),
        tenant: Some(tenant.to_owned()),
        ..UserTokenRequest::named(name)
    };
    let claims = app.simulator.user_claims(&request);
    let token = app.simulator.sign(&app.simulator.token_header(), &claims);
    app.user_with_token(name, token)
}

fn tenant() -> String {
    Uuid::now_v7().to_string()
}

fn get(path: &str) -> Value {
    workflows::document(&json!([workflows::get("read", path)]))
}

fn throttled() -> HttpAnswer {
    HttpAnswer::text(429, "Too Many Requests").with_header("retry-after", "600")
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").parse().unwrap()
}

/// The time of every gate is over.
async fn end_gates(app: &TestApp) {
    let now = "update gates set not_before = now()";
    app.database.execute("update gates set not_before = 0", now).await;
}

/// Every job that waits for a time is due.
async fn end_waits(app: &TestApp) {
    let sqlite = "update jobs set due_at = 0 where status in ('pending', 'waiting')";
    let postgres = "update jobs set due_at = now() where status in ('pending', 'waiting')";
    app.database.execute(sqlite, postgres).await;
}

async fn a_throttle_holds_the_submissions_of_its_tenant_and_no_others(database: Database) {
    let app = start(database).await;
    let (contoso, fabrikam) = (tenant(), tenant());
    let alice = user(&app, "alice", &contoso);
    app.simulator.script_token_answer(throttled());
    let submission = json!({ "definition": get("api/read") });
    let refused = alice.post_job(&submission).await;
    refused.assert_problem(503, "unavailable");
    assert_eq!(retry_after(&refused), 600);

    for (name, tenant) in [("bob", &contoso), ("alice", &contoso)] {
        let refused = user(&app, name, tenant).post_job(&submission).await;
        refused.assert_problem(503, "unavailable");
        assert!((500..=600).contains(&retry_after(&refused)), "{}", refused.text);
    }
    assert_eq!(app.exchanges().len(), 1, "only the first one was sent");
    let carol = user(&app, "carol", &fabrikam);
    let job = carol.submit(&get("api/read")).await;
    carol.wait_until(&job, "completed").await;

    end_gates(&app).await;
    let bob = user(&app, "bob", &contoso);
    let job = bob.submit(&get("api/read")).await;
    bob.wait_until(&job, "completed").await;
    assert_eq!(app.database.count("gates").await, 0, "whoever goes first opens it");
    let job = alice.submit(&get("api/read")).await;
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}

async fn a_job_that_is_held_burns_no_attempt_and_goes_on_when_the_gate_opens(database: Database) {
    let app = start(database).await;
    let tenant = tenant();
    let mut jobs = Vec::new();
    for name in ["alice", "bob"] {
        let user = user(&app, name, &tenant);
        let path = format!("api/{name}");
        let answer = HttpAnswer::text(401, "");
        app.simulator.script_call_answer("GET", &format!("/partner/{path}"), answer);
        jobs.push((user, get(&path)));
    }
    // Both have a grant, and a call that takes another token.
    let (alice, first) = &jobs[0];
    let (bob, second) = &jobs[1];
    app.simulator.script_token_answer(Reply::Usual);
    app.simulator.script_token_answer(throttled());
    let first = alice.submit(first).await;
    let is_held = |job: &Value| job["status"] == "waiting" && job["due_at"].is_string();
    alice.wait_for(&first, "throttled", is_held).await;
    let asked = app.simulator.token_requests().len();

    end_gates(&app).await;
    let second = bob.submit(second).await;
    let done = bob.wait_until(&second, "completed").await;
    assert_eq!(done["attempts"], 1);
    assert_eq!(app.simulator.token_requests().len() - asked, 2, "exchange and refresh");

    // Closed again: whoever needs a token waits without asking.
    let sqlite = "insert into gates select client_id, tenant, '', 'throttled', \
                  created_at + 3600000000 from sessions limit 1";
    let postgres = "insert into gates select client_id, tenant, '', 'throttled', \
                    created_at + interval '1 hour' from sessions limit 1";
    app.database.execute(sqlite, postgres).await;
    let asked = app.simulator.token_requests().len();
    let path = "/partner/api/later";
    app.simulator.script_call_answer("GET", path, HttpAnswer::text(401, ""));
    let third = bob.submit(&get("api/later")).await;
    let held = bob.wait_for(&third, "held", is_held).await;
    assert_eq!((held["attempts"].clone(), held["suspension"].clone()), (0.into(), Value::Null));
    assert_eq!(app.simulator.token_requests().len(), asked);

    end_gates(&app).await;
    end_waits(&app).await;
    for (user, job) in [(alice, first), (bob, third)] {
        let done = user.wait_until(&job, "completed").await;
        assert_eq!(done["attempts"], 1, "{done}");
    }
    app.finish().await;
}

async fn an_api_that_is_configured_wrongly_holds_no_other(database: Database) {
    let app = start(database).await;
    let tenant = tenant();
    let (alice, bob) = (user(&app, "alice", &tenant), user(&app, "bob", &tenant));
    let mut ledger = get("api/read");
    ledger["do"][0]["read"]["with"]["endpoint"]["authentication"]["use"] = "LedgerAPI".into();
    let ledger = json!({ "definition": ledger });
    app.simulator.script_token_answer(app.simulator.entra_error(500_011));
    alice.post_job(&ledger).await.assert_problem(502, "identity_provider_refused");
    bob.post_job(&ledger).await.assert_problem(502, "identity_provider_refused");
    assert_eq!(app.exchanges().len(), 1, "only the first one was sent");
    for user in [&alice, &bob] {
        let job = user.submit(&get("api/read")).await;
        user.wait_until(&job, "completed").await;
    }
    assert_eq!(app.exchanges().len(), 3);

    end_gates(&app).await;
    let job = bob.submit_with(&ledger["definition"], &json!({ "session_key": "ledger" })).await;
    bob.wait_until(&job, "completed").await;
    assert_eq!(app.database.count("gates").await, 0);
    app.finish().await;
}

async fn a_grant_that_a_waiting_job_needs_is_kept_alive_by_one_worker(database: Database) {
    let mut app = start(database).await;
    let (alice, bob) = (user(&app, "alice", &tenant()), user(&app, "bob", &tenant()));
    let run_at = SystemClock.now() + Duration::from_hours(1);
    let job = alice.submit_with(&get("api/read"), &json!({ "run_at": run_at })).await;
    let done = bob.submit(&get("api/read")).await;
    bob.wait_until(&done, "completed").await;
    assert_eq!(app.stop_worker().await, Some(0));
    app.database
        .execute(
            "update grants set refreshed_at = refreshed_at - 31 * 86400000000",
            "update grants set refreshed_at = refreshed_at - interval '31 days'",
        )
        .await;
    assert_eq!(app.refreshes().len(), 0);
    for _ in 0..2 {
        app.start_worker().await;
    }
    eventually("a refresh", || !app.refreshes().is_empty()).await;

    // Her job goes on with what it brought, and nobody needed his.
    end_waits(&app).await;
    alice.wait_until(&job, "completed").await;
    assert_eq!(app.refreshes().len(), 1);
    let sessions = alice.send(alice.request(Method::GET, "/v1/sessions")).await;
    assert_eq!(sessions.body["sessions"][0]["state"], "active", "{}", sessions.text);
    app.finish().await;
}
