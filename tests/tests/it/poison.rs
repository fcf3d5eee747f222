//! A job whose workers die, one after the other.

use std::time::Duration;

use errand_simulator::{Reply, ScriptedAnswer};
use errand_tests::{Database, PATIENCE, Settings, TestApp, workflows};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

on_both_databases! {
    a_job_that_kills_its_workers_is_given_up_until_its_user_lets_it_go_on
}

/// As many as the product puts up with.
const WORKERS: usize = 5;

/// The pauses between its runs, which grow to minutes, are over.
async fn until_called(app: &TestApp, times: usize) {
    let deadline = Instant::now() + PATIENCE;
    while app.calls("api/deadly").len() < times {
        assert!(Instant::now() < deadline, "not called {times} times");
        let over =
            "update jobs set due_at = updated_at where status = 'waiting' and interruptions > 1";
        app.database.execute(over, over).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn a_job_that_kills_its_workers_is_given_up_until_its_user_lets_it_go_on(database: Database) {
    let settings = Settings { lease_seconds: 3, timeout_seconds: 120, ..Settings::default() };
    let mut app = TestApp::start_with(database, settings).await;
    for _ in 0..WORKERS {
        let delay = Duration::from_mins(1);
        let answer = ScriptedAnswer { delay, ..Reply::Usual.into() };
        app.simulator.script_call_answer("GET", "/partner/api/deadly", answer);
    }
    let alice = app.user("alice");
    let definition = workflows::document(&json!([
        workflows::get("first", "api/first"),
        workflows::get("deadly", "api/deadly"),
    ]));
    let job = alice.submit(&definition).await;
    for times in 1..=WORKERS {
        until_called(&app, times).await;
        app.kill_worker().await;
        app.start_worker().await;
    }
    let faulted = alice.wait_until(&job, "faulted").await;
    let error = &faulted["error"];
    assert_eq!((&error["status"], &error["title"]), (&json!(500), &json!("Interrupted too often")));
    let detail = error["detail"].as_str().unwrap();
    assert!(detail.contains("5 times in a row") && detail.contains("retry"), "{detail}");
    assert_eq!(faulted["progress"]["completed"], 1, "{faulted}");

    let path = format!("/v1/jobs/{}/retry", job["id"].as_str().unwrap());
    let retried = alice.send(alice.request(Method::POST, &path)).await;
    assert_eq!(retried.status, 202, "{}", retried.text);
    alice.wait_until(&job, "completed").await;
    assert_eq!(app.calls("api/first").len(), 1, "what was finished is not repeated");
    assert_eq!(app.calls("api/deadly").len(), WORKERS + 1);
    app.finish().await;
}
