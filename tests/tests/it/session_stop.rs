//! A user who takes back what was granted.

use std::collections::BTreeSet;

use errand_tests::{Database, TestApp, workflows};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases! {
    a_stopped_session_makes_its_jobs_wait_for_their_user
    no_call_after_a_return_carries_a_token_from_before_the_stop
    only_its_user_sees_and_stops_a_session
}

async fn a_stopped_session_makes_its_jobs_wait_for_their_user(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let options = json!({ "session_key": "monday" });
    let waiting = alice.submit_with(&workflows::process_data(2), &options).await;
    alice.wait_until(&waiting, "waiting").await;

    let sessions = alice.get("/v1/sessions").await;
    assert_eq!(sessions.body["sessions"][0]["key"], "monday");
    assert_eq!(sessions.body["sessions"][0]["state"], "active");
    assert_eq!(sessions.body["sessions"][0]["jobs"], json!({ "waiting": 1 }));
    let stopped = alice.send(alice.request(Method::DELETE, "/v1/sessions/monday")).await;
    assert_eq!(stopped.status, 204);
    alice
        .send(alice.request(Method::DELETE, "/v1/sessions/monday"))
        .await
        .assert_problem(404, "not_found");
    assert_eq!(alice.get("/v1/sessions/monday").await.body["state"], "stopped");

    let job = alice.job(&waiting).await;
    assert_eq!(job["status"], "suspended");
    assert_eq!(job["suspension"]["reason"], "session_revoked");
    assert_eq!(job["suspension"]["api"], "PartnerAPI");
    assert_eq!(app.database.count("access_tokens").await, 0);

    let alice = alice.sign_in_again(&app.simulator);
    let id = waiting["id"].as_str().unwrap();
    let resumed = alice.send(alice.request(Method::POST, &format!("/v1/jobs/{id}/resume"))).await;
    assert_eq!(resumed.status, 202, "{resumed:?}");
    let job = alice.wait_until(&waiting, "completed").await;
    assert_eq!(job["suspension"], Value::Null);
    assert_eq!(app.calls("api/process/data").len(), 1, "what was finished is not repeated");
    app.finish().await;
}

async fn no_call_after_a_return_carries_a_token_from_before_the_stop(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let options = json!({ "session_key": "monday" });
    let finished = alice.submit_with(&workflows::process_data(1), &options).await;
    alice.wait_until(&finished, "completed").await;
    let waiting = alice.submit_with(&workflows::process_data(6), &options).await;
    alice.wait_until(&waiting, "waiting").await;
    let tokens = |from: usize| -> BTreeSet<String> {
        app.simulator.calls().split_off(from).into_iter().map(|call| call.token_id).collect()
    };
    let made = app.simulator.calls().len();
    let before = tokens(0);
    assert_eq!(
        (made, before.len()),
        (3, 1),
        "the worker has one token, and it is good for an hour"
    );

    let stopped = alice.send(alice.request(Method::DELETE, "/v1/sessions/monday")).await;
    assert_eq!(stopped.status, 204);
    let alice = alice.sign_in_again(&app.simulator);
    let id = waiting["id"].as_str().unwrap();
    let resumed = alice.send(alice.request(Method::POST, &format!("/v1/jobs/{id}/resume"))).await;
    assert_eq!(resumed.status, 202, "{resumed:?}");
    let later = alice.submit_with(&workflows::process_data(1), &options).await;
    for job in [&waiting, &later] {
        alice.wait_until(job, "completed").await;
    }
    let after = tokens(made);
    assert_eq!((app.simulator.calls().len(), after.len()), (made + 3, 1));
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    app.finish().await;
}

async fn only_its_user_sees_and_stops_a_session(database: Database) {
    let app = TestApp::start(database).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let options = json!({ "session_key": "monday" });
    let job = alice.submit_with(&workflows::process_data(1), &options).await;
    assert_eq!(bob.get("/v1/sessions").await.body, json!({ "sessions": [] }));
    bob.get("/v1/sessions/monday").await.assert_problem(404, "not_found");
    bob.send(bob.request(Method::DELETE, "/v1/sessions/monday"))
        .await
        .assert_problem(404, "not_found");
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}
