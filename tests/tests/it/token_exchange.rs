//! A provider that is not Entra: token exchange, and refresh tokens that are bound to one API.

use std::{collections::BTreeSet, time::Duration};

use errand_simulator::RealmRequest;
use errand_tests::{Database, Settings, TestApp, User, workflows};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases! {
    a_job_of_two_apis_outlives_its_access_tokens
    without_refresh_tokens_a_job_goes_on_once_its_user_is_back
}

pub(crate) fn settings(refresh: &'static str, access_token_seconds: u64) -> Settings {
    let token_exchange = Some(refresh);
    let lifetime = Duration::from_secs(access_token_seconds);
    Settings { token_exchange, ..Settings::with_access_tokens_of(lifetime) }
}

/// With a fresh token that allows both APIs.
pub(crate) fn alice(app: &TestApp) -> User {
    let mut claims = app.simulator.realm_user_claims("alice");
    claims["scope"] = "Jobs.ReadWrite Ledger.Use".into();
    let mut header = app.simulator.token_header();
    header["typ"] = "at+jwt".into();
    app.user_with_token("alice", app.simulator.sign(&header, &claims))
}

fn ledger_get(name: &str, path: &str) -> Value {
    let mut task = workflows::get(name, path);
    task[name]["with"]["endpoint"]["authentication"]["use"] = "LedgerAPI".into();
    task
}

async fn a_job_of_two_apis_outlives_its_access_tokens(database: Database) {
    let app = TestApp::start_with(database, settings("offline_access", 2)).await;
    let alice = alice(&app);
    let definition = workflows::document(&json!([
        workflows::get("read", "api/read"),
        ledger_get("book", "api/book"),
        workflows::wait(3),
        workflows::post("write", "api/write"),
        ledger_get("check", "api/check"),
    ]));
    let job = alice.submit(&definition).await;
    assert_eq!(job["warnings"], json!([]));
    alice.wait_until(&job, "completed").await;

    let requests = app.simulator.realm_requests();
    let is_refresh =
        |request: &&RealmRequest| request.grant_type.as_deref() == Some("refresh_token");
    let exchanged = requests.iter().filter(|request| !is_refresh(request));
    let audiences: BTreeSet<_> = exchanged.clone().map(|request| &request.audience).collect();
    assert_eq!((exchanged.count(), audiences.len()), (2, 2), "one for each API: {requests:?}");
    // The realm refuses a refresh token that is presented twice, and the job would be suspended.
    let refreshes = requests.iter().filter(is_refresh).count();
    assert!(refreshes >= 2, "one of each API after the wait: {requests:?}");
    assert!(requests.iter().all(|request| request.status == Some(200)), "{requests:?}");
    assert_eq!(app.simulator.token_requests(), [], "the tenant has no part in it");
    app.finish().await;
}

async fn without_refresh_tokens_a_job_goes_on_once_its_user_is_back(database: Database) {
    let app = TestApp::start_with(database, settings("none", 6)).await;
    let user = alice(&app);
    let job = user.submit(&workflows::process_data(7)).await;
    assert_eq!(job["warnings"].as_array().unwrap().len(), 1, "{job}");
    let suspended = user.wait_until(&job, "suspended").await;
    assert_eq!(suspended["suspension"]["reason"], "session_revoked", "{suspended}");
    let before = suspended["progress"]["completed"].clone();

    let user = alice(&app);
    let path = format!("/v1/jobs/{}/resume", job["id"].as_str().unwrap());
    let resumed = user.send(user.request(Method::POST, &path)).await;
    assert_eq!(resumed.status, 202, "{}", resumed.text);
    user.wait_until(&job, "completed").await;
    assert_eq!(before, 2, "{suspended}");
    assert_eq!(app.calls("api/process/data").len(), 1, "what was finished is not repeated");
    app.finish().await;
}
