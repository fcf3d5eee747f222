//! Submitters who are told instead of asking.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use errand_simulator::{HttpAnswer, Reply};
use errand_tests::{Database, Settings, TestApp, WEBHOOK_SECRET, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};
use standardwebhooks::Webhook;

on_both_databases! {
    a_submitter_is_told_of_what_it_asked_for
    nobody_is_told_at_a_host_that_is_not_configured
}

/// Headers and bodies in the order of their arrival.
type Received = Arc<Mutex<Vec<(HeaderMap, String)>>>;

/// Answers 500 to the first request and 204 to all others.
async fn hook(State(received): State<Received>, headers: HeaderMap, body: String) -> StatusCode {
    let mut received = received.lock().unwrap();
    received.push((headers, body));
    if received.len() == 1 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }
}

pub(crate) async fn a_submitter_is_told_of_what_it_asked_for(database: Database) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let received = Received::default();
    let router = Router::new().fallback(hook).with_state(Arc::clone(&received));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let settings = Settings { webhook_host: Some(host.clone()), ..Settings::default() };
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    app.simulator.script_call_answer("GET", "/partner/api/read", HttpAnswer::text(401, ""));
    app.simulator.script_token_answer(Reply::Usual);
    app.simulator.script_token_answer(app.simulator.entra_error(50076));
    let definition = workflows::document(&json!([workflows::get("read", "api/read")]));
    let callback = json!({
        "url": format!("http://{host}/jobs?of=alice"), "events": ["suspended", "completed"],
    });
    let job = alice.submit_with(&definition, &json!({ "callback": callback })).await;
    // The first try was refused: the same is sent again.
    eventually("a second try", || received.lock().unwrap().len() == 2).await;
    let resume = format!("/v1/jobs/{}/resume", job["id"].as_str().unwrap());
    let resumed = alice.send(alice.request(Method::POST, &resume)).await;
    assert_eq!(resumed.status, 202, "{}", resumed.text);
    alice.wait_until(&job, "completed").await;
    eventually("the end", || received.lock().unwrap().len() == 3).await;

    let received = received.lock().unwrap().clone();
    let webhook = Webhook::new(WEBHOOK_SECRET).unwrap();
    let mut types = Vec::new();
    for (headers, body) in &received {
        webhook.verify(body.as_bytes(), headers).unwrap();
        assert!(!body.contains("capolids"), "no claims: {body}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["data"]["id"], job["id"]);
        types.push(body["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(types, ["job.suspended", "job.suspended", "job.completed"]);
    let ids: Vec<_> = received.iter().map(|(headers, _)| &headers["webhook-id"]).collect();
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "receivers tell repetitions by it: {ids:?}");
    app.finish().await;
}

async fn nobody_is_told_at_a_host_that_is_not_configured(database: Database) {
    let host = Some("hooks.example.com".to_owned());
    let settings = Settings { webhook_host: host, workers: 0, ..Settings::default() };
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    let submission = json!({
        "definition": workflows::process_data(1),
        "callback": { "url": "https://hooks.example.com.evil.example/", "events": ["completed"] },
    });
    let refused = alice.post_job(&submission).await;
    refused.assert_some_problem(400);
    assert_eq!(refused.body["errors"][0]["pointer"], "/callback/url", "{}", refused.text);
    assert_eq!(app.exchanges(), []);
    app.finish().await;
}
