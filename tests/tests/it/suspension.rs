//! Jobs that stand still until their user returns.

use std::time::Duration;

use errand_shared::time::Timestamp;
use errand_simulator::{HttpAnswer, Reply, UserTokenRequest};
use errand_tests::{Database, Settings, TestApp, User, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases! {
    a_job_whose_grant_does_not_do_waits_for_its_user
    a_resume_wakes_every_suspended_job_of_the_session
    all_jobs_of_a_session_go_on_after_one_resume_of_their_own_user
    a_resume_goes_on_after_the_last_finished_call_whatever_was_missing
    a_suspended_job_whose_user_does_not_come_faults_at_its_deadline
    a_resume_that_is_cut_off_wakes_all_jobs_or_none
    what_the_user_must_do_first_is_said_at_submission
}

/// Of two seconds: a worker refreshes after the wait of [`workflows::process_data`].
fn settings() -> Settings {
    Settings::with_access_tokens_of(Duration::from_secs(2))
}

fn key(session_key: &str) -> Value {
    json!({ "session_key": session_key })
}

/// Refuses the refresh that a waiting job needs, and waits until that has suspended it.
async fn suspended(app: &TestApp, user: &User, job: &Value, refusal: HttpAnswer) -> Value {
    let waiting = user.wait_for(job, "after its first call", |job| job["task"] == "/do/1/pause");
    let waiting = waiting.await;
    app.simulator.script_token_answer(refusal);
    let suspended = user.wait_until(job, "suspended").await;
    assert_eq!(suspended["task"], "/do/2/complete");
    assert_eq!(suspended["attempts"], 0, "{suspended}, before: {waiting}");
    assert_eq!(suspended["progress"], json!({ "completed": 2, "total": 3 }));
    let resume_url = suspended["suspension"]["resume_url"].as_str().unwrap();
    assert_eq!(
        resume_url,
        format!("{}/v1/jobs/{}/resume", app.address(), job["id"].as_str().unwrap())
    );
    suspended
}

pub(crate) async fn a_job_whose_grant_does_not_do_waits_for_its_user(database: Database) {
    let app = TestApp::start_with(database, settings()).await;
    for (code, reason) in
        [(65001, "consent_required"), (50076, "interaction_required"), (50173, "session_revoked")]
    {
        let user = app.user(reason);
        let job = user.submit_with(&workflows::process_data(2), &key("report")).await;
        let refusal = app.simulator.entra_error(code);
        let suspended = suspended(&app, &user, &job, refusal).await;
        let suspension = &suspended["suspension"];
        assert_eq!(suspension["reason"], reason, "{code}");
        assert_eq!(suspension["api"], "PartnerAPI");
        assert_eq!(suspension["scopes"], json!(["api://partner-api-id/read"]));
        assert_eq!(suspension["claims"].is_string(), code == 50076, "{suspension}");
        assert_eq!(suspension["consent_url"].is_string(), code == 65001, "{suspension}");

        // Submitting again under the same key, with a fresh token, wakes it.
        let user = user.sign_in_again(&app.simulator);
        let other = user.submit_with(&workflows::process_data(1), &key("report")).await;
        let completed = user.wait_until(&job, "completed").await;
        assert_eq!(completed["output"]["user"], reason);
        assert_eq!(completed["suspension"], Value::Null);
        user.wait_until(&other, "completed").await;
        let calls = app.calls("api/process/data");
        let gets = calls.iter().filter(|call| call.user == reason).count();
        assert_eq!(gets, 2, "one of each job: what was finished is not repeated");
    }
    app.finish().await;
}

pub(crate) async fn a_resume_wakes_every_suspended_job_of_the_session(database: Database) {
    let app = TestApp::start_with(database, settings()).await;
    let alice = app.user("alice");
    let first = alice.submit(&workflows::process_data(2)).await;
    suspended(&app, &alice, &first, app.simulator.entra_error(50173)).await;
    let path = format!("/v1/jobs/{}/resume", first["id"].as_str().unwrap());

    // An exchange that is refused leaves the job as it is.
    app.simulator.script_token_answer(app.simulator.entra_error(50076));
    let alice = alice.sign_in_again(&app.simulator);
    let refused = alice.send(alice.request(Method::POST, &path)).await;
    refused.assert_problem(401, "interaction_required");
    assert!(refused.header("www-authenticate").contains("claims="));
    assert_eq!(alice.job(&first).await["status"], "suspended");

    let resumed = alice.send(alice.request(Method::POST, &path)).await;
    assert_eq!(resumed.status, 202, "{}", resumed.text);
    let job = alice.wait_until(&first, "completed").await;
    assert_eq!(job["output"]["user"], "alice");
    assert_eq!(app.calls("api/process/data").len(), 1);
    app.finish().await;
}

async fn a_resume_goes_on_after_the_last_finished_call_whatever_was_missing(database: Database) {
    let app = TestApp::start(database).await;
    for (code, reason) in
        [(65001, "consent_required"), (50076, "interaction_required"), (50173, "session_revoked")]
    {
        let user = app.user(reason);
        let path = |name: &str| format!("api/{name}/{code}");
        let definition = workflows::document(&json!([
            workflows::get("read", &path("read")),
            workflows::post("write", &path("write")),
            workflows::post("finish", &path("finish")),
        ]));
        // The third call needs another token, and that is refused.
        let unauthorized = HttpAnswer::text(401, "");
        let finish = format!("/partner/{}", path("finish"));
        app.simulator.script_call_answer("POST", &finish, unauthorized);
        app.simulator.script_token_answer(Reply::Usual);
        app.simulator.script_token_answer(app.simulator.entra_error(code));
        let job = user.submit(&definition).await;
        let suspended = user.wait_until(&job, "suspended").await;
        let suspension = &suspended["suspension"];
        assert_eq!(suspension["reason"], reason, "{suspended}");
        assert_eq!(suspension["claims"].is_string(), code == 50076, "{suspension}");
        assert_eq!(suspended["progress"], json!({ "completed": 2, "total": 3 }));

        let user = user.sign_in_again(&app.simulator);
        let resume = format!("/v1/jobs/{}/resume", job["id"].as_str().unwrap());
        let resumed = user.send(user.request(Method::POST, &resume)).await;
        assert_eq!(resumed.status, 202, "{}", resumed.text);
        let completed = user.wait_until(&job, "completed").await;
        assert_eq!(completed["attempts"], 1, "{completed}");
        assert_eq!(completed["suspension"], Value::Null);
        let calls = ["read", "write", "finish"].map(|name| app.calls(&path(name)).len());
        assert_eq!(calls, [1, 1, 2], "only what was refused is repeated");
    }
    app.finish().await;
}

async fn a_suspended_job_whose_user_does_not_come_faults_at_its_deadline(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let unauthorized = HttpAnswer::text(401, "");
    app.simulator.script_call_answer("GET", "/partner/api/read", unauthorized);
    app.simulator.script_token_answer(Reply::Usual);
    app.simulator.script_token_answer(app.simulator.entra_error(65001));
    let definition = workflows::document(&json!([workflows::get("read", "api/read")]));
    let job = alice.submit_with(&definition, &json!({ "deadline": "PT10S" })).await;
    let suspended = alice.wait_until(&job, "suspended").await;
    let time = |text: &Value| text.as_str().unwrap().parse::<Timestamp>().unwrap();
    let deadline = time(&job["created_at"]) + Duration::from_secs(10);
    assert_eq!(time(&suspended["suspension"]["until"]), deadline, "{suspended}");

    let faulted = alice.wait_until(&job, "faulted").await;
    assert!(faulted["error"]["type"].as_str().unwrap().ends_with("/errors/timeout"), "{faulted}");
    assert_eq!((&faulted["suspension"], &faulted["due_at"]), (&Value::Null, &Value::Null));
    assert!(time(&faulted["finished_at"]) >= deadline, "{faulted}");
    assert_eq!(app.calls("api/read").len(), 1, "it is not called in the end");
    // It is too late now.
    let resume = format!("/v1/jobs/{}/resume", job["id"].as_str().unwrap());
    let alice = alice.sign_in_again(&app.simulator);
    let refused = alice.send(alice.request(Method::POST, &resume)).await;
    refused.assert_problem(409, "not_suspended");
    app.finish().await;
}

/// Ten jobs of one session, all suspended.
async fn ten_suspended(app: &TestApp, session_key: &str) -> (User, Vec<Value>) {
    let user = app.user("alice");
    let mut jobs = Vec::new();
    for _ in 0..10 {
        let definition = workflows::document(&json!([workflows::get("read", "api/read")]));
        jobs.push(user.submit_with(&definition, &key(session_key)).await);
    }
    let stop = user.request(Method::DELETE, &format!("/v1/sessions/{session_key}"));
    assert_eq!(user.send(stop).await.status, 204);
    (user.sign_in_again(&app.simulator), jobs)
}

async fn a_resume_that_is_cut_off_wakes_all_jobs_or_none(database: Database) {
    let settings = Settings { workers: 0, ..Settings::default() };
    let mut app = TestApp::start_with(database, settings).await;
    let still_suspended = "jobs where status = 'suspended'";
    let resume = |user: &User, jobs: &[Value]| {
        user.request(Method::POST, &format!("/v1/jobs/{}/resume", jobs[0]["id"].as_str().unwrap()))
    };
    // The API is killed so many milliseconds after the exchange; nobody works meanwhile.
    let mut all = Vec::new();
    for milliseconds in [0, 1, 3, 9, 27] {
        let (user, jobs) = ten_suspended(&app, &format!("after-{milliseconds}")).await;
        let exchanges = app.exchanges().len();
        let resuming = tokio::spawn(resume(&user, &jobs).send());
        while app.exchanges().len() == exchanges {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        app.kill_api().await;
        // Whether it was answered or not: the client may not know.
        let _ = resuming.await.unwrap();
        app.start_api().await;
        match app.database.count(still_suspended).await {
            0 => {}
            10 => {
                let resumed = user.send(resume(&user, &jobs)).await;
                assert_eq!(resumed.status, 202, "{}", resumed.text);
                assert_eq!(app.database.count(still_suspended).await, 0);
            }
            some => panic!("{some} of 10 are left"),
        }
        all.extend(jobs);
    }
    app.start_worker().await;
    let user = app.user("alice");
    for job in &all {
        user.wait_until(job, "completed").await;
    }

    // A worker that has nothing to do is told by nobody: the API is killed as soon as the commit is
    // seen.
    app.kill_worker().await;
    let (user, jobs) = ten_suspended(&app, "told-by-nobody").await;
    app.start_worker().await;
    let resuming = tokio::spawn(resume(&user, &jobs).send());
    while app.database.count(still_suspended).await > 0 {
        tokio::task::yield_now().await;
    }
    app.kill_api().await;
    let _ = resuming.await.unwrap();
    eventually("every job's call", || app.calls("api/read").len() == all.len() + jobs.len()).await;
    app.start_api().await;
    for job in &jobs {
        user.wait_until(job, "completed").await;
    }
    app.finish().await;
}

async fn all_jobs_of_a_session_go_on_after_one_resume_of_their_own_user(database: Database) {
    const JOBS: usize = 20;
    // The worker comes later: a submission after the grant's end would be its renewal.
    let settings = Settings { any_tenant: true, workers: 0, ..Settings::default() };
    let mut app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    // The exchange, and then the first refresh of any of them.
    app.simulator.script_token_answer(Reply::Usual);
    app.simulator.script_token_answer(app.simulator.entra_error(50173));
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        let path = format!("api/finish/{number}");
        let unauthorized = HttpAnswer::text(401, "");
        app.simulator.script_call_answer("POST", &format!("/partner/{path}"), unauthorized);
        let definition = workflows::document(&json!([
            workflows::get("read", "api/read"),
            workflows::post("finish", &path),
        ]));
        jobs.push(alice.submit_with(&definition, &key("report")).await);
    }
    app.start_worker().await;
    for job in &jobs {
        let suspended = alice.wait_until(job, "suspended").await;
        assert_eq!(suspended["suspension"]["reason"], "session_revoked", "{suspended}");
        assert_eq!(suspended["attempts"], 0, "{suspended}");
    }

    let path = format!("/v1/jobs/{}/resume", jobs[0]["id"].as_str().unwrap());
    let same_name_elsewhere = UserTokenRequest {
        tenant: Some("5f0f3a52-7c0e-4a3c-9d39-3a2f1a3c1e11".to_owned()),
        ..UserTokenRequest::named("alice")
    };
    let claims = app.simulator.user_claims(&same_name_elsewhere);
    let token = app.simulator.sign(&app.simulator.token_header(), &claims);
    for stranger in [app.user("bob"), app.user_with_token("alice", token)] {
        let refused = stranger.send(stranger.request(Method::POST, &path)).await;
        refused.assert_problem(404, "not_found");
    }
    assert_eq!(app.exchanges().len(), 1, "nobody's token was exchanged");

    let alice = alice.sign_in_again(&app.simulator);
    let resumed = alice.send(alice.request(Method::POST, &path)).await;
    assert_eq!(resumed.status, 202, "{}", resumed.text);
    for job in &jobs {
        let completed = alice.wait_until(job, "completed").await;
        assert_eq!(completed["attempts"], 1, "{completed}");
    }
    assert_eq!(app.exchanges().len(), 2);
    assert_eq!(app.calls("api/read").len(), JOBS, "what was finished is not repeated");
    app.finish().await;
}

async fn what_the_user_must_do_first_is_said_at_submission(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let submission = json!({ "definition": workflows::process_data(1) });
    for (code, status, problem) in [
        (65001, 403, "consent_required"),
        (50076, 401, "interaction_required"),
        (53003, 403, "admin_action_required"),
        (50013, 401, "unauthorized"),
        (90033, 503, "unavailable"),
        // The last, because it holds whatever comes after it.
        (7_000_215, 502, "identity_provider_refused"),
    ] {
        app.simulator.script_token_answer(app.simulator.entra_error(code));
        let refused = alice.post_job(&submission).await;
        refused.assert_problem(status, problem);
        let challenge = refused.header("www-authenticate");
        assert_eq!(code == 65001, challenge.contains("consentUri="), "{code}: {challenge}");
        assert_eq!(refused.body["claims"].is_string(), code == 50076, "{code}: {}", refused.text);
        if status == 502 {
            assert!(!refused.text.contains("AADSTS") && !refused.text.contains("secret"));
        }
    }
    assert_eq!(app.database.count("jobs").await, 0);
    app.finish().await;
}
