//! A disk that is full for a while.

#![cfg(target_os = "linux")]

use std::time::Duration;

use errand_simulator::{Reply, ScriptedAnswer};
use errand_tests::{Database, Settings, TestApp, eventually, workflows};
use serde_json::json;
use tokio::time::Instant;

/// Longer than the call that is under way when the disk is full.
const FULL: Duration = Duration::from_secs(4);

#[tokio::test]
async fn submissions_are_refused_while_the_disk_is_full_and_nothing_is_lost() {
    let settings = Settings { may_fill_disk: true, ..Settings::default() };
    let app = TestApp::start_with(Database::Sqlite, settings).await;
    let alice = app.user("alice");
    let waiting = alice.submit(&workflows::process_data(3)).await;
    alice.wait_until(&waiting, "waiting").await;
    let answer = ScriptedAnswer {
        reply: Reply::Usual,
        delay: Duration::from_secs(1),
        after_processing: false,
    };
    app.simulator.script_call_answer("POST", "/partner/api/mail", answer);
    let mail = workflows::document(&json!([workflows::post("mail", "api/mail")]));
    let calling = alice.submit(&mail).await;
    eventually("the call", || app.calls("api/mail").len() == 1).await;

    app.fill_disk().await;
    let submission = json!({ "definition": mail });
    let began = Instant::now();
    while began.elapsed() < FULL {
        let refused = alice.post_job(&submission).await;
        refused.assert_problem(503, "unavailable");
        assert!(!refused.header("retry-after").is_empty());
        assert_eq!(alice.job(&calling).await["status"], "running", "what is stored can be read");
    }
    assert_eq!(alice.get("/livez").await.status, 200);
    app.free_disk().await;

    for job in [&waiting, &calling, &alice.submit(&mail).await] {
        alice.wait_until(job, "completed").await;
    }
    assert_eq!(
        app.calls("api/mail").len(),
        2,
        "an answer that could not be recorded at once is kept"
    );
    assert_eq!(app.database.count("jobs").await, 3, "what was refused is not there");
    let checked = "pragma_integrity_check where integrity_check <> 'ok'";
    assert_eq!(app.database.count(checked).await, 0);
    app.finish().await;
}
