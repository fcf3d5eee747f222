//! What is sent again, and what is not.

use std::time::Duration;

use errand_simulator::{HttpAnswer, Reply, ScriptedAnswer};
use errand_tests::{Database, Settings, TestApp, workflows};
use serde_json::{Value, json};

on_both_databases! {
    a_get_is_sent_again_after_a_failure_that_may_pass
    a_throttle_is_not_an_attempt
    a_job_faults_once_its_attempts_are_used_up
    a_post_whose_outcome_is_unknown_is_not_sent_again
    an_api_that_does_not_know_the_address_faults_the_job
    a_call_refused_with_401_is_repeated_once_with_a_fresh_token
    a_token_whose_time_was_over_on_its_way_costs_no_attempt
    a_claims_challenge_is_met_once_and_then_by_the_user
}

fn status(status: u16) -> HttpAnswer {
    HttpAnswer::text(status, "")
}

fn one_get() -> Value {
    workflows::document(&json!([workflows::get("read", "api/read")]))
}

fn one_post() -> Value {
    workflows::document(&json!([workflows::post("write", "api/write")]))
}

#[track_caller]
fn assert_communication(job: &Value, status: u16, title: &str) {
    let error = &job["error"];
    assert!(error["type"].as_str().unwrap().ends_with("/errors/communication"), "{error}");
    assert_eq!((&error["status"], &error["title"]), (&json!(status), &json!(title)));
}

async fn a_get_is_sent_again_after_a_failure_that_may_pass(database: Database) {
    let app = TestApp::start(database).await;
    for reply in [Reply::Answer(status(503)), Reply::Dropped] {
        app.simulator.script_call_answer("GET", "/partner/api/read", reply);
    }
    let alice = app.user("alice");
    let job = alice.submit(&one_get()).await;
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["attempts"], 3);
    let calls = app.calls("api/read");
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.idempotency_key == calls[0].idempotency_key));
    app.finish().await;
}

async fn a_throttle_is_not_an_attempt(database: Database) {
    let app = TestApp::start_with(database, Settings { max_attempts: 2, ..Settings::default() });
    let app = app.await;
    let throttled = status(429).with_header("retry-after", "1");
    for answer in [throttled.clone(), throttled, status(503)] {
        app.simulator.script_call_answer("GET", "/partner/api/read", answer);
    }
    let alice = app.user("alice");
    let job = alice.submit(&one_get()).await;
    let throttled = alice.wait_until(&job, "waiting").await;
    assert_eq!(throttled["attempts"], 0, "{throttled}");
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["attempts"], 2);
    assert_eq!(app.calls("api/read").len(), 4);
    app.finish().await;
}

async fn a_job_faults_once_its_attempts_are_used_up(database: Database) {
    let app = TestApp::start(database).await;
    for _ in 0..3 {
        app.simulator.script_call_answer("GET", "/partner/api/read", status(502));
    }
    let alice = app.user("alice");
    let job = alice.submit(&one_get()).await;
    let job = alice.wait_until(&job, "faulted").await;
    assert_communication(&job, 502, "Bad Gateway");
    assert_eq!((&job["attempts"], &job["task"]), (&json!(3), &json!("/do/0/read")));
    assert_eq!(app.calls("api/read").len(), 3);
    app.finish().await;
}

async fn a_post_whose_outcome_is_unknown_is_not_sent_again(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let lost = ScriptedAnswer { after_processing: true, ..Reply::Dropped.into() };
    for answer in [Reply::Answer(status(502)).into(), Reply::Answer(status(504)).into(), lost] {
        let before = app.calls("api/write").len();
        app.simulator.script_call_answer("POST", "/partner/api/write", answer);
        let job = alice.submit(&one_post()).await;
        let job = alice.wait_until(&job, "faulted").await;
        assert_communication(&job, 504, "Outcome unknown");
        assert_eq!(app.calls("api/write").len(), before + 1);
    }
    // Surely not processed: it is sent again.
    let throttled = status(503).with_header("retry-after", "1");
    app.simulator.script_call_answer("POST", "/partner/api/write", throttled);
    let job = alice.submit(&one_post()).await;
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}

async fn an_api_that_does_not_know_the_address_faults_the_job(database: Database) {
    let app = TestApp::start(database).await;
    app.simulator.script_call_answer("GET", "/partner/api/read", status(404));
    let alice = app.user("alice");
    let job = alice.submit(&one_get()).await;
    let job = alice.wait_until(&job, "faulted").await;
    assert_communication(&job, 404, "Not Found");
    assert_eq!(app.calls("api/read").len(), 1);
    app.finish().await;
}

async fn a_call_refused_with_401_is_repeated_once_with_a_fresh_token(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    app.simulator.script_call_answer("POST", "/partner/api/write", status(401));
    let job = alice.submit(&one_post()).await;
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["attempts"], 1);
    let calls = app.calls("api/write");
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0].token_id, calls[1].token_id);
    assert_eq!(app.refreshes().len(), 1);

    for _ in 0..2 {
        app.simulator.script_call_answer("POST", "/partner/api/write", status(401));
    }
    let job = alice.submit(&one_post()).await;
    let job = alice.wait_until(&job, "faulted").await;
    assert_communication(&job, 401, "Unauthorized");
    assert_eq!(app.calls("api/write").len(), 4, "a second 401 is final");
    app.finish().await;
}

async fn a_claims_challenge_is_met_once_and_then_by_the_user(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    // `{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}`
    let challenge = "Bearer realm=\"\", error=\"insufficient_claims\", claims=\"\
         eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZSwidmFsdWUiOiIxNzAwMDAwMDAwIn19fQ==\"";
    let challenged = status(401).with_header("www-authenticate", challenge);
    let expected = json!({ "essential": true, "value": "1700000000" });

    app.simulator.script_call_answer("POST", "/partner/api/write", challenged.clone());
    let job = alice.submit(&one_post()).await;
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["attempts"], 1);
    let calls = app.calls("api/write");
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0].token_id, calls[1].token_id);
    let refreshes = app.refreshes();
    let [refresh] = &refreshes[..] else { panic!("one refresh: {refreshes:?}") };
    let claims: Value = serde_json::from_str(refresh.claims.as_deref().unwrap()).unwrap();
    assert_eq!(claims["access_token"]["nbf"], expected);
    assert_eq!(claims["access_token"]["xms_cc"]["values"], json!(["cp1"]));

    // The token that met it is the stored one now.
    let job = alice.submit(&one_post()).await;
    alice.wait_until(&job, "completed").await;
    assert_eq!(app.calls("api/write")[2].token_id, calls[1].token_id);

    // A second challenge is final.
    for _ in 0..2 {
        app.simulator.script_call_answer("POST", "/partner/api/write", challenged.clone());
    }
    let job = alice.submit(&one_post()).await;
    let job = alice.wait_until(&job, "faulted").await;
    assert_communication(&job, 401, "Unauthorized");
    assert_eq!(app.calls("api/write").len(), 5);

    // Only the user can meet it.
    app.simulator.script_call_answer("POST", "/partner/api/write", challenged);
    let refusal = json!({ "error": "interaction_required", "suberror": "basic_action" });
    app.simulator.script_token_answer(HttpAnswer::json(400, &refusal));
    let job = alice.submit(&one_post()).await;
    let job = alice.wait_until(&job, "suspended").await;
    assert_eq!(job["attempts"], 0, "{job}");
    let suspension = &job["suspension"];
    assert_eq!(suspension["reason"], "interaction_required");
    let claims: Value = serde_json::from_str(suspension["claims"].as_str().unwrap()).unwrap();
    assert_eq!(claims["access_token"]["nbf"], expected);
    app.finish().await;
}

/// What a slow network or a busy machine does to tokens that live for two seconds.
async fn a_token_whose_time_was_over_on_its_way_costs_no_attempt(database: Database) {
    let life = Duration::from_secs(2);
    let settings = Settings { max_attempts: 1, ..Settings::with_access_tokens_of(life) };
    let app = TestApp::start_with(database, settings).await;
    for delay in [Duration::ZERO, life] {
        let reply = Reply::Answer(status(401));
        let answer = ScriptedAnswer { reply, delay, after_processing: false };
        app.simulator.script_call_answer("POST", "/partner/api/write", answer);
    }
    let alice = app.user("alice");
    let job = alice.submit(&one_post()).await;
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["attempts"], 1);
    assert_eq!(app.calls("api/write").len(), 3);
    app.finish().await;
}
