//! A database that goes away for a moment.

use std::time::Duration;

use errand_simulator::{Options, Reply, ScriptedAnswer};
use errand_tests::{Database, Settings, TestApp, eventually, workflows};
use serde_json::json;

/// Longer than Errand waits for a locked SQLite file before it counts as an error.
const OUTAGE: Duration = Duration::from_secs(12);

#[tokio::test]
async fn lost_connections_are_made_again_and_no_process_has_to_be_restarted() {
    let app = TestApp::start(Database::Postgres).await;
    let alice = app.user("alice");
    let waiting = alice.submit(&workflows::process_data(2)).await;
    alice.wait_until(&waiting, "waiting").await;
    app.database.end_connections().await;
    let next = alice.submit(&workflows::process_data(1)).await;
    app.database.end_connections().await;
    for job in [waiting, next] {
        alice.wait_until(&job, "completed").await;
    }
    assert_eq!(app.calls("api/process/complete").len(), 2);
    app.finish().await;
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_through_an_outage() {
    let simulator = Options {
        reuse_detection: true,
        access_token_lifetime: Duration::from_secs(2),
        ..Options::default()
    };
    let app =
        TestApp::start_with(Database::Sqlite, Settings { simulator, ..Settings::default() }).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(3)).await;
    alice.wait_until(&job, "waiting").await;
    app.simulator.set_access_token_lifetime(Duration::from_hours(1));
    app.simulator.script_token_answer(ScriptedAnswer {
        reply: Reply::Usual,
        delay: Duration::from_secs(2),
        after_processing: true,
    });
    eventually("the refresh", || !app.refreshes().is_empty()).await;
    let lock = app.database.lock().await;
    tokio::time::sleep(OUTAGE).await;
    drop(lock);
    alice.wait_until(&job, "completed").await;
    assert_eq!(app.refreshes().len(), 1, "what the provider answered was not lost");
    app.finish().await;
}

#[tokio::test]
async fn a_provider_that_repeats_its_token_is_not_asked_for_ever() {
    let app = TestApp::start(Database::Sqlite).await;
    for _ in 0..20 {
        // Not a token of the partner API, which answers 401 to it each time.
        let repeated = Reply::Changed(json!({ "access_token": "always-the-same" }));
        app.simulator.script_token_answer(repeated);
    }
    let alice = app.user("alice");
    let definition = workflows::document(&json!([workflows::get("read", "api/read")]));
    let job = alice.submit(&definition).await;
    let job = alice.wait_until(&job, "faulted").await;
    assert_eq!(job["error"]["status"], 401);
    assert_eq!(app.refreshes().len(), 1);
    app.finish().await;
}
