//! An identity provider that cannot be reached.

use std::time::Duration;

use errand_simulator::{Reply, ScriptedAnswer};
use errand_tests::{Database, Settings, TestApp, eventually, workflows};
use serde_json::{Value, json};

on_both_databases! {
    a_submission_during_an_outage_is_asked_to_come_back
    a_running_job_outlasts_an_outage
    a_refresh_whose_answer_was_lost_is_made_once_more
}

async fn a_submission_during_an_outage_is_asked_to_come_back(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    app.simulator.set_unreachable(true);
    let refused = alice.post_job(&json!({ "definition": workflows::process_data(1) })).await;
    refused.assert_problem(503, "unavailable");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(app.database.count("jobs").await, 0);

    app.simulator.set_unreachable(false);
    let job = alice.submit(&workflows::process_data(1)).await;
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}

async fn a_running_job_outlasts_an_outage(database: Database) {
    let settings = Settings::with_access_tokens_of(Duration::from_secs(2));
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(2)).await;
    alice.wait_for(&job, "after its first call", |job| job["task"] == "/do/1/pause").await;
    app.simulator.set_unreachable(true);
    let is_held = |job: &Value| job["task"] == "/do/2/complete" && job["status"] == "waiting";
    let held = alice.wait_for(&job, "held", is_held).await;
    assert!(held["due_at"].is_string(), "{held}");
    assert_eq!(held["attempts"], 0, "{held}");
    // It keeps trying, and nothing comes of it.
    let revision = held["updated_at"].clone();
    let held =
        alice.wait_for(&job, "held again", |job| is_held(job) && job["updated_at"] != revision);
    held.await;
    assert_eq!(app.calls("api/process/complete").len(), 0);

    app.simulator.set_unreachable(false);
    alice.wait_until(&job, "completed").await;
    eventually("one call", || app.calls("api/process/complete").len() == 1).await;
    app.finish().await;
}

async fn a_refresh_whose_answer_was_lost_is_made_once_more(database: Database) {
    let mut settings = Settings::with_access_tokens_of(Duration::from_secs(2));
    // As at Entra: a replaced refresh token stays usable for a while.
    settings.simulator.reuse_detection = false;
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(2)).await;
    alice.wait_for(&job, "after its first call", |job| job["task"] == "/do/1/pause").await;
    let lost = ScriptedAnswer { after_processing: true, ..Reply::Dropped.into() };
    app.simulator.script_token_answer(lost);
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["attempts"], 1);
    let refreshes = app.refreshes();
    let lost = refreshes.iter().position(|request| request.status.is_none()).unwrap();
    assert_eq!(refreshes[lost].refresh_token_hash, refreshes[lost + 1].refresh_token_hash);
    assert_eq!(refreshes.iter().filter(|request| request.reuse).count(), 1);
    app.finish().await;
}
