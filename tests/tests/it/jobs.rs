//! What the product is about, and that its parts may come and go.

use std::{collections::HashSet, time::Duration};

use errand_tests::{Database, Settings, TestApp, User, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases! {
    a_submitted_job_calls_waits_calls_and_completes_as_its_user
    a_job_that_outlives_its_access_token_goes_on_with_a_refreshed_one
    a_job_completes_while_the_api_is_stopped
    a_client_waits_for_news_instead_of_asking_again_and_again
}

async fn a_submitted_job_calls_waits_calls_and_completes_as_its_user(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let submission =
        json!({ "definition": workflows::process_data(1), "tags": { "order": "4711" } });
    let accepted = alice.post_job(&submission).await;

    assert_eq!(accepted.status, 202, "{}", accepted.text);
    let id = accepted.body["id"].as_str().unwrap();
    assert_eq!(accepted.header("location"), format!("{}/v1/jobs/{id}", app.address()));
    assert!(accepted.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(accepted.body["tags"], json!({ "order": "4711" }));
    assert_eq!(accepted.body["links"]["self"], accepted.header("location"));

    let job = alice.wait_until(&accepted.body, "completed").await;
    let received = json!({
        "user": "alice", "items": [{ "id": 1, "amount": 120 }, { "id": 2, "amount": 80 }],
    });
    let expected = json!({ "status": "completed", "user": "alice", "received": received });
    assert_eq!(job["output"], expected);
    assert_eq!(job["progress"], json!({ "completed": 3, "total": 3 }));
    assert_eq!((&job["error"], &job["suspension"]), (&Value::Null, &Value::Null));
    for time in ["created_at", "started_at", "updated_at", "finished_at"] {
        assert!(job[time].is_string(), "{time}: {job}");
    }

    let calls = app.simulator.calls();
    let methods: Vec<_> = calls.iter().map(|call| call.method.as_str()).collect();
    assert_eq!(methods, ["GET", "POST"]);
    let keys: HashSet<_> = calls.iter().map(|call| call.idempotency_key.clone()).collect();
    assert_eq!(keys.len(), 2, "each call has an idempotency key of its own");
    for call in &calls {
        assert!(call.idempotency_key.as_ref().unwrap().starts_with(&format!("{id}.")));
        assert!(call.headers["user-agent"].starts_with("errand/"));
        assert!(call.traceparent.is_some());
    }
    assert_eq!((app.exchanges().len(), app.refreshes().len()), (1, 0));
    app.finish().await;
}

async fn a_job_that_outlives_its_access_token_goes_on_with_a_refreshed_one(database: Database) {
    let settings = Settings::with_access_tokens_of(Duration::from_secs(2));
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(4)).await;
    alice.wait_until(&job, "completed").await;

    assert_eq!(app.exchanges().len(), 1, "the user's token is exchanged once");
    let refreshes = app.refreshes();
    assert!(!refreshes.is_empty());
    let presented: HashSet<_> =
        refreshes.iter().map(|request| request.refresh_token_hash.clone().unwrap()).collect();
    assert_eq!(presented.len(), refreshes.len(), "no refresh token is presented twice");
    assert!(refreshes.iter().all(|request| !request.reuse && request.status == Some(200)));
    let token_of_last = |path| app.calls(path).last().unwrap().token_id.clone();
    assert_ne!(token_of_last("api/process/data"), token_of_last("api/process/complete"));
    app.finish().await;
}

async fn a_job_completes_while_the_api_is_stopped(database: Database) {
    let mut app = TestApp::start(database).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(1)).await;
    app.stop_api().await;
    eventually("the last call", || app.calls("api/process/complete").len() == 1).await;
    app.start_api().await;
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["output"]["user"], "alice");
    app.finish().await;
}

async fn a_client_waits_for_news_instead_of_asking_again_and_again(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(3)).await;
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    alice.wait_until(&job, "waiting").await;

    let waiting = alice.get(&path).await;
    let etag = waiting.header("etag");
    let ask = |user: &User| user.request(Method::GET, &path).header("if-none-match", etag);
    let unchanged = alice.send(ask(&alice)).await;
    assert_eq!((unchanged.status, unchanged.text.as_str()), (304, ""));
    assert_eq!(unchanged.header("etag"), etag);
    let held = alice.send(ask(&alice).header("prefer", "wait=1")).await;
    assert_eq!(held.status, 304, "nothing happens within a second: {}", held.text);

    let changed = alice.send(ask(&alice).header("prefer", "wait=20")).await;
    assert_eq!(changed.status, 200, "the job goes on within the time: {}", changed.text);
    assert_ne!(changed.header("etag"), etag);
    assert_eq!(changed.header("preference-applied"), "wait");
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}
