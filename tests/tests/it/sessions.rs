//! Whose grant a job acts with.

use errand_simulator::{Reply, UserTokenRequest};
use errand_tests::{Database, TestApp, workflows};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases! {
    one_token_is_exchanged_once_for_all_its_jobs
    another_token_under_the_same_key_is_a_new_grant
    two_users_never_meet_under_one_key
    somebody_elses_job_is_not_found
    a_document_without_calls_needs_no_grant
    without_a_refresh_token_nothing_is_accepted
    who_lacks_the_scope_of_an_api_may_not_name_it
    a_preflight_finds_out_what_a_later_call_would_miss
}

fn one_get() -> Value {
    workflows::document(&json!([workflows::get("read", "api/read")]))
}

async fn one_token_is_exchanged_once_for_all_its_jobs(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let first = alice.submit(&one_get()).await;
    let second = alice.submit_with(&one_get(), &json!({ "session_key": "AllocateForMe" })).await;
    let key = first["session_key"].as_str().unwrap();
    assert!(key.len() >= 16, "allocated keys cannot be guessed: {key}");
    assert_eq!(first["session_key"], second["session_key"]);
    assert_eq!(app.exchanges().len(), 1);

    let other_sign_in = alice.sign_in_again(&app.simulator);
    let third = other_sign_in.submit(&one_get()).await;
    assert_ne!(third["session_key"], first["session_key"]);
    assert_eq!(app.exchanges().len(), 2);
    for job in [first, second, third] {
        alice.wait_until(&job, "completed").await;
    }
    app.finish().await;
}

async fn another_token_under_the_same_key_is_a_new_grant(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let options = json!({ "session_key": "report-2026" });
    let mut jobs = Vec::new();
    for _ in 0..2 {
        jobs.push(alice.submit_with(&one_get(), &options).await);
    }
    assert_eq!(app.exchanges().len(), 1, "same key, same token");
    let alice = alice.sign_in_again(&app.simulator);
    jobs.push(alice.submit_with(&one_get(), &options).await);
    assert_eq!(app.exchanges().len(), 2, "same key, another token");
    for job in jobs {
        assert_eq!(job["session_key"], "report-2026");
        alice.wait_until(&job, "completed").await;
    }
    assert_eq!(app.database.count("sessions").await, 1);
    app.finish().await;
}

async fn two_users_never_meet_under_one_key(database: Database) {
    let app = TestApp::start(database).await;
    let options = json!({ "session_key": "inbox" });
    let mut jobs = Vec::new();
    for name in ["alice", "bob"] {
        let user = app.user(name);
        jobs.push((name, user.submit_with(&one_get(), &options).await, user));
    }
    for (name, job, user) in jobs {
        let job = user.wait_until(&job, "completed").await;
        assert_eq!(job["output"]["user"], name);
        assert_eq!(job["session_key"], "inbox");
    }
    assert_eq!(app.exchanges().len(), 2);
    assert_eq!(app.database.count("sessions").await, 2);
    app.finish().await;
}

async fn somebody_elses_job_is_not_found(database: Database) {
    let app = TestApp::start(database).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let job = alice.submit(&one_get()).await;
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    bob.get(&path).await.assert_problem(404, "not_found");
    let resume = bob.request(Method::POST, &format!("{path}/resume"));
    bob.send(resume).await.assert_problem(404, "not_found");
    let unknown = "/v1/jobs/0193a3c8-0000-7000-8000-000000000000";
    assert_eq!(bob.get(&path).await.text, bob.get(unknown).await.text, "as if it never was");

    alice.wait_until(&job, "completed").await;
    let resume = alice.request(Method::POST, &format!("{path}/resume"));
    alice.send(resume).await.assert_problem(409, "not_suspended");
    app.finish().await;
}

async fn a_document_without_calls_needs_no_grant(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let definition = workflows::document(&json!([{ "answer": { "set": { "value": 42 } } }]));
    let job = alice.submit(&definition).await;
    assert_eq!(job["session_key"], Value::Null);
    let job = alice.wait_until(&job, "completed").await;
    assert_eq!(job["output"], json!({ "value": 42 }));
    assert_eq!(app.simulator.token_requests(), []);
    app.finish().await;
}

async fn without_a_refresh_token_nothing_is_accepted(database: Database) {
    let app = TestApp::start(database).await;
    app.simulator.script_token_answer(Reply::Changed(json!({ "refresh_token": null })));
    let alice = app.user("alice");
    let refused = alice.post_job(&json!({ "definition": one_get() })).await;
    refused.assert_problem(502, "no_refresh_token");
    assert!(refused.body["detail"].as_str().unwrap().contains("offline_access"));
    for table in ["sessions", "access_tokens", "jobs"] {
        assert_eq!(app.database.count(table).await, 0, "{table}");
    }
    // Nothing of it stays: the same token is good once the operator has mended it.
    let job = alice.submit(&one_get()).await;
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}

async fn who_lacks_the_scope_of_an_api_may_not_name_it(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let mut definition = one_get();
    definition["do"][0]["read"]["with"]["endpoint"]["authentication"]["use"] = "LedgerAPI".into();
    let refused = alice.post_job(&json!({ "definition": definition })).await;
    refused.assert_problem(403, "forbidden");
    assert!(refused.header("www-authenticate").contains("insufficient_scope"));
    assert_eq!(app.simulator.token_requests(), []);
    app.finish().await;
}

async fn a_preflight_finds_out_what_a_later_call_would_miss(database: Database) {
    let app = TestApp::start(database).await;
    let scp = Some("Jobs.ReadWrite Ledger.Use".to_owned());
    let request = UserTokenRequest { scp, ..UserTokenRequest::named("alice") };
    let claims = app.simulator.user_claims(&request);
    let token = app.simulator.sign(&app.simulator.token_header(), &claims);
    let alice = app.user_with_token("alice", token);
    let mut definition =
        workflows::document(&json!([workflows::get("a", "api/a"), workflows::get("b", "api/b")]));
    definition["do"][1]["b"]["with"]["endpoint"]["authentication"]["use"] = "LedgerAPI".into();

    // The exchange for the second API, which only a preflight makes, is refused.
    app.simulator.script_token_answer(app.simulator.entra_error(65001));
    let refused = alice.post_job(&json!({ "definition": definition, "preflight": "all" })).await;
    refused.assert_problem(403, "consent_required");
    assert_eq!(refused.body["scopes"], json!(["api://ledger-api-id/read"]));
    assert_eq!(app.database.count("jobs").await, 0);

    let job = alice.submit_with(&definition, &json!({ "preflight": "all" })).await;
    assert_eq!(app.exchanges().len(), 3);
    alice.wait_until(&job, "completed").await;
    app.finish().await;
}
