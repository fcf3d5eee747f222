//! Every story looks for secrets where it has left bytes; this one makes the logs say all they can.

use errand_simulator::HttpAnswer;
use errand_tests::{Database, Settings, TestApp, workflows};
use serde_json::json;

on_both_databases! {
    no_log_level_shows_a_token
}

async fn no_log_level_shows_a_token(database: Database) {
    let settings = Settings { log_levels: "trace", ..Settings::default() };
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    // A call that is refused, a refresh, a challenge at submission, a token that is not accepted.
    app.simulator.script_call_answer("GET", "/partner/api/read", HttpAnswer::text(401, ""));
    let definition = workflows::document(&json!([workflows::get("read", "api/read")]));
    let job = alice.submit(&definition).await;
    alice.wait_until(&job, "completed").await;
    app.simulator.script_token_answer(app.simulator.entra_error(50076));
    let again = alice.sign_in_again(&app.simulator);
    let submission = json!({ "definition": definition });
    again.post_job(&submission).await.assert_problem(401, "interaction_required");
    let mut token = app.simulator.user_token("alice");
    token.truncate(token.len() - 10);
    let forger = app.user_with_token("alice", token);
    forger.post_job(&submission).await.assert_problem(401, "unauthorized");
    assert!(app.logs().iter().any(|(_, log)| log.contains("TRACE")), "the level has no effect");
    app.finish().await;
}
