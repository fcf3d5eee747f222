//! Workers that die. What they had in hand is another's after `lease_seconds`.

use std::{collections::HashSet, time::Duration};

use errand_simulator::{HttpAnswer, Reply, ScriptedAnswer};
use errand_tests::{Database, Settings, TestApp, eventually, workflows};
use serde_json::{Value, json};

on_both_databases! {
    a_job_whose_worker_dies_while_it_waits_goes_on_elsewhere
    a_job_whose_worker_dies_in_a_call_goes_on_with_that_call
    a_post_on_its_way_is_sent_again_to_an_api_that_honours_its_key
    a_post_on_its_way_is_otherwise_not_sent_again
}

/// Long enough for a worker to be killed meanwhile; whoever has sent such a call gets no answer.
const SLOW: Duration = Duration::from_mins(1);

fn slow_answer() -> ScriptedAnswer {
    ScriptedAnswer { delay: SLOW, ..Reply::Usual.into() }
}

fn with_short_leases() -> Settings {
    Settings { lease_seconds: 3, timeout_seconds: 120, ..Settings::default() }
}

async fn a_job_whose_worker_dies_while_it_waits_goes_on_elsewhere(database: Database) {
    let mut app = TestApp::start_with(database, with_short_leases()).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(2)).await;
    alice.wait_until(&job, "waiting").await;
    app.kill_worker().await;
    app.start_worker().await;
    alice.wait_until(&job, "completed").await;
    let counts = ["api/process/data", "api/process/complete"].map(|path| app.calls(path).len());
    assert_eq!(counts, [1, 1]);
    app.finish().await;
}

pub(crate) async fn a_job_whose_worker_dies_in_a_call_goes_on_with_that_call(database: Database) {
    let mut app = TestApp::start_with(database, with_short_leases()).await;
    app.simulator.script_call_answer("GET", "/partner/api/second", slow_answer());
    let alice = app.user("alice");
    let definition = workflows::document(&json!([
        workflows::get("first", "api/first"),
        workflows::get("second", "api/second"),
        workflows::post("third", "api/third"),
    ]));
    let job = alice.submit(&definition).await;
    eventually("the second call", || app.calls("api/second").len() == 1).await;
    app.kill_worker().await;
    app.start_worker().await;
    let job = alice.wait_until(&job, "completed").await;

    let counts = ["api/first", "api/second", "api/third"].map(|path| app.calls(path).len());
    assert_eq!(counts, [1, 2, 1], "only what had no answer is sent again");
    let second = app.calls("api/second");
    assert_eq!(second[0].idempotency_key, second[1].idempotency_key);
    assert_eq!(job["output"]["body"]["path"], "/partner/api/second");
    app.finish().await;
}

async fn a_post_on_its_way_is_sent_again_to_an_api_that_honours_its_key(database: Database) {
    let settings = Settings { honours_idempotency_key: true, ..with_short_leases() };
    let (app, job) = killed_during_a_post(database, settings).await;
    let alice = app.user("alice");
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["output"]["path"], "/partner/api/mail");

    let calls = app.calls("api/mail");
    assert_eq!(calls.len(), 2);
    let keys: HashSet<_> = calls.iter().map(|call| call.idempotency_key.clone().unwrap()).collect();
    assert_eq!(keys.len(), 1, "the same key");
    assert_eq!(calls.iter().filter(|call| call.effect).count(), 1, "one effect");
    assert_eq!(app.calls("api/process/data").len(), 1);
    app.finish().await;
}

async fn a_post_on_its_way_is_otherwise_not_sent_again(database: Database) {
    let (app, job) = killed_during_a_post(database, with_short_leases()).await;
    let alice = app.user("alice");
    let job = alice.wait_until(&job, "faulted").await;
    let error = &job["error"];
    assert!(error["type"].as_str().unwrap().ends_with("/errors/communication"), "{error}");
    assert_eq!((&error["status"], &error["title"]), (&json!(504), &json!("Outcome unknown")));
    assert_eq!(error["instance"], "/do/1/mail");
    assert_eq!(app.calls("api/mail").len(), 1);
    app.finish().await;
}

/// On SQLite there is no other worker.
#[tokio::test]
async fn a_worker_that_stood_still_sends_nothing_any_more() {
    let mut app = TestApp::start_with(Database::Postgres, with_short_leases()).await;
    let alice = app.user("alice");
    // Refused, it asks for another token, and before it has that it stands still.
    app.simulator.script_call_answer("GET", "/partner/api/data", HttpAnswer::text(401, ""));
    // The first is that of the submission.
    for delay in [Duration::ZERO, Duration::from_secs(1)] {
        let answer = ScriptedAnswer { reply: Reply::Usual, delay, after_processing: true };
        app.simulator.script_token_answer(answer);
    }
    let data = json!([workflows::get("data", "api/data")]);
    let job = alice.submit(&workflows::document(&data)).await;
    eventually("the refresh", || app.refreshes().len() == 1).await;
    app.freeze_worker().await;
    app.start_worker().await;
    alice.wait_until(&job, "completed").await;
    app.thaw_worker("the lease was lost").await;
    let sent = app.calls("api/data").len();
    assert_eq!(sent, 2, "once by each worker");
    app.finish().await;
}

/// A job whose worker was killed after it had sent a POST, and another worker.
async fn killed_during_a_post(database: Database, settings: Settings) -> (TestApp, Value) {
    let mut app = TestApp::start_with(database, settings).await;
    app.simulator.script_call_answer("POST", "/partner/api/mail", slow_answer());
    let definition = workflows::document(&json!([
        workflows::get("getData", "api/process/data"),
        workflows::post("mail", "api/mail"),
    ]));
    let job = app.user("alice").submit(&definition).await;
    eventually("the POST", || app.calls("api/mail").len() == 1).await;
    app.kill_worker().await;
    app.start_worker().await;
    (app, job)
}
