//! Workers that are asked to stop.

use std::time::Duration;

use errand_simulator::{Reply, ScriptedAnswer};
use errand_tests::{Database, PATIENCE, Settings, TestApp, eventually, workflows};
use serde_json::json;
use sqlx::postgres::PgListener;
use tokio::time::Instant;

on_both_databases! {
    a_stopped_worker_hands_back_what_it_had
    a_stopping_worker_lets_a_call_finish
}

async fn a_stopped_worker_hands_back_what_it_had(database: Database) {
    // A lease that nobody waits for: a job that goes on soon was handed back.
    let settings = Settings {
        lease_seconds: 600,
        drain_seconds: 1,
        timeout_seconds: 120,
        ..Settings::default()
    };
    let mut app = TestApp::start_with(database, settings).await;
    let slow = ScriptedAnswer { delay: Duration::from_mins(1), ..Reply::Usual.into() };
    app.simulator.script_call_answer("GET", "/partner/api/slow", slow);
    let alice = app.user("alice");
    let waiting = alice.submit(&workflows::process_data(3)).await;
    alice.wait_until(&waiting, "waiting").await;
    let definition = workflows::document(&json!([workflows::get("slow", "api/slow")]));
    let calling = alice.submit(&definition).await;
    eventually("the slow call", || app.calls("api/slow").len() == 1).await;

    assert_eq!(app.stop_worker().await, Some(0));
    let handed_back = alice.job(&calling).await;
    assert_eq!(handed_back["status"], "waiting", "{handed_back}");
    let pending = alice.submit(&definition).await;

    let began = Instant::now();
    app.start_worker().await;
    for job in [&calling, &pending, &waiting] {
        let job = alice.wait_until(job, "completed").await;
        assert!(job["attempts"].as_u64().unwrap() <= 1, "a stop burns no attempt: {job}");
    }
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(app.calls("api/process/data").len(), 1);
    app.finish().await;
}

async fn a_stopping_worker_lets_a_call_finish(database: Database) {
    let mut app = TestApp::start(database).await;
    let slow = ScriptedAnswer { delay: Duration::from_secs(1), ..Reply::Usual.into() };
    app.simulator.script_call_answer("POST", "/partner/api/mail", slow);
    let alice = app.user("alice");
    let definition = workflows::document(&json!([
        workflows::post("mail", "api/mail"),
        workflows::post("complete", "api/process/complete"),
    ]));
    let job = alice.submit(&definition).await;
    eventually("the call", || app.calls("api/mail").len() == 1).await;
    assert_eq!(app.stop_worker().await, Some(0));
    let stopped = alice.job(&job).await;
    assert_eq!(stopped["progress"]["completed"], 1, "the answer is recorded: {stopped}");
    assert_eq!(stopped["status"], "waiting", "and nothing new is begun: {stopped}");
    app.start_worker().await;
    alice.wait_until(&job, "completed").await;
    assert_eq!(app.calls("api/mail").len(), 1);
    app.finish().await;
}

#[tokio::test]
async fn other_workers_are_told_of_what_a_stopped_one_hands_back() {
    let settings = Settings { drain_seconds: 1, timeout_seconds: 120, ..Settings::default() };
    let mut app = TestApp::start_with(Database::Postgres, settings).await;
    let slow = ScriptedAnswer { delay: Duration::from_mins(1), ..Reply::Usual.into() };
    app.simulator.script_call_answer("GET", "/partner/api/slow", slow);
    let alice = app.user("alice");
    let definition = workflows::document(&json!([workflows::get("slow", "api/slow")]));
    let job = alice.submit(&definition).await;
    eventually("the slow call", || app.calls("api/slow").len() == 1).await;

    let mut listener = PgListener::connect(&app.database.url).await.unwrap();
    listener.listen("errand_jobs").await.unwrap();
    assert_eq!(app.stop_worker().await, Some(0));
    let told = tokio::time::timeout(PATIENCE, listener.recv()).await;
    assert!(told.is_ok_and(|told| told.is_ok()), "nobody was told");
    drop(listener);
    app.start_worker().await;
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}
