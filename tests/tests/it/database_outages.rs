//! A database that goes away for a moment.

use errand_tests::{Database, TestApp, workflows};

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
