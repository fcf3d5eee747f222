//! What nobody needs any more goes by itself.

use errand_tests::{Database, PATIENCE, Settings, TestApp, eventually, workflows};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::token_exchange;

on_both_databases! {
    a_session_ends_with_its_last_job_and_its_next_job_brings_it_back
    a_finished_job_is_deleted_once_it_is_old
    an_event_of_a_session_that_is_used_is_deleted_once_it_is_old
}

/// Waits until no row of `table` is left.
async fn until_gone(app: &TestApp, table: &str) {
    let deadline = Instant::now() + PATIENCE;
    while app.database.count(table).await > 0 {
        assert!(Instant::now() < deadline, "there are still rows: {table}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A worker that has just started looks at once.
async fn restart_worker(app: &mut TestApp) {
    assert_eq!(app.stop_worker().await, Some(0));
    app.start_worker().await;
}

pub(crate) async fn a_session_ends_with_its_last_job_and_its_next_job_brings_it_back(
    database: Database,
) {
    let mut app = TestApp::start(database).await;
    let alice = app.user("alice");
    let monday = json!({ "session_key": "monday" });
    let first = alice.submit_with(&workflows::process_data(1), &monday).await;
    alice.wait_until(&first, "completed").await;
    let needed = alice
        .submit_with(&workflows::process_data(3600), &json!({ "session_key": "tuesday" }))
        .await;
    alice.wait_until(&needed, "waiting").await;
    app.database
        .execute(
            "update jobs set finished_at = finished_at - 3600000000;
             update sessions set refreshed_at = refreshed_at - 3600000000",
            "with aged as (update jobs set finished_at = finished_at - interval '1 hour')
             update sessions set refreshed_at = refreshed_at - interval '1 hour'",
        )
        .await;
    restart_worker(&mut app).await;
    until_gone(&app, "grants join sessions on id = session_id where session_key = 'monday' and refresh_token is not null").await;
    assert_eq!(app.database.count("access_tokens").await, 1);
    let sessions = alice.get("/v1/sessions").await.body;
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1, "{sessions}");
    assert_eq!(sessions["sessions"][0]["key"], "tuesday");
    assert_eq!(alice.job(&first).await["session_key"], "monday", "its job is still there");

    let exchanges = app.exchanges().len();
    let second = alice.submit_with(&workflows::process_data(1), &monday).await;
    alice.wait_until(&second, "completed").await;
    assert_eq!(app.exchanges().len(), exchanges + 1);
    app.finish().await;
}

pub(crate) async fn a_finished_job_is_deleted_once_it_is_old(database: Database) {
    let mut app = TestApp::start(database).await;
    let alice = app.user("alice");
    let waiting = alice.submit(&workflows::process_data(3600)).await;
    alice.wait_until(&waiting, "waiting").await;
    let done = alice.submit(&workflows::process_data(1)).await;
    alice.wait_until(&done, "completed").await;
    app.database
        .execute(
            "update jobs set finished_at = finished_at - 30 * 86400 * 1000000",
            "update jobs set finished_at = finished_at - interval '30 days'",
        )
        .await;
    restart_worker(&mut app).await;
    until_gone(&app, "jobs where status = 'completed'").await;
    alice
        .get(&format!("/v1/jobs/{}", done["id"].as_str().unwrap()))
        .await
        .assert_problem(404, "not_found");
    assert_eq!(app.database.count("job_calls").await, 1, "those of the one that waits");
    assert_eq!(alice.job(&waiting).await["status"], "waiting");
    app.finish().await;
}

pub(crate) async fn an_event_of_a_session_that_is_used_is_deleted_once_it_is_old(
    database: Database,
) {
    let mut app = TestApp::start(database).await;
    let alice = app.user("alice");
    let waiting = alice.submit(&workflows::process_data(3600)).await;
    alice.wait_until(&waiting, "waiting").await;
    let before = app.database.count("session_events").await;
    app.database
        .execute(
            "insert into session_events (session_id, sequence, at, kind, data)
             select session_id, -1, at - 30 * 86400 * 1000000, kind, data
             from session_events limit 1",
            "insert into session_events (session_id, sequence, at, kind, data)
             select session_id, -1, at - interval '30 days', kind, data
             from session_events limit 1",
        )
        .await;
    restart_worker(&mut app).await;
    until_gone(&app, "session_events where sequence = -1").await;
    assert_eq!(app.database.count("session_events").await, before);
    app.finish().await;
}

#[tokio::test]
async fn tokens_of_a_session_that_ends_are_revoked_where_that_is_possible() {
    let settings = Settings {
        more: "[retention]\nsession_grace_minutes = 0\n".into(),
        ..token_exchange::settings("offline_access", 3600)
    };
    let mut app = TestApp::start_with(Database::Sqlite, settings).await;
    let alice = token_exchange::alice(&app);
    let job = alice.submit(&workflows::process_data(1)).await;
    alice.wait_until(&job, "completed").await;
    restart_worker(&mut app).await;
    until_gone(&app, "grants where refresh_token is not null").await;
    let revocations = || {
        let requests = app.simulator.realm_requests();
        requests.iter().filter(|request| request.grant_type.is_none()).count()
    };
    eventually("the revocation", || revocations() == 1).await;
    let stop = alice
        .request(Method::DELETE, &format!("/v1/sessions/{}", job["session_key"].as_str().unwrap()));
    alice.send(stop).await.assert_problem(404, "not_found");
    app.finish().await;
}
