//! Submissions that are sent twice.

use errand_tests::{Answer, Database, TestApp, User, workflows};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases! {
    a_submission_sent_twice_is_one_job
    submissions_with_one_key_that_arrive_together_are_one_job
}

async fn submit_with_key(user: &User, key: &str, submission: &Value) -> Answer {
    let request = user.request(Method::POST, "/v1/jobs").header("idempotency-key", key);
    user.send(request.json(submission)).await
}

async fn a_submission_sent_twice_is_one_job(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let submission = json!({ "definition": workflows::process_data(1) });
    let first = submit_with_key(&alice, "order-4711", &submission).await;
    assert_eq!(first.status, 202, "{}", first.text);
    alice.wait_until(&first.body, "completed").await;

    // Also with a fresh token; in its present state.
    let again = alice.sign_in_again(&app.simulator);
    let second = submit_with_key(&again, "order-4711", &submission).await;
    assert_eq!((second.status, &second.body["id"]), (202, &first.body["id"]));
    assert_eq!(second.header("location"), first.header("location"));
    assert_eq!(second.body["status"], "completed");
    assert_eq!(app.exchanges().len(), 1, "a repetition is not exchanged");

    let other = json!({ "definition": workflows::process_data(1), "input": { "n": 2 } });
    let reused = submit_with_key(&alice, "order-4711", &other).await;
    reused.assert_problem(422, "idempotency_key_reused");

    // Keys are each user's own.
    let bobs = submit_with_key(&app.user("bob"), "order-4711", &other).await;
    assert_eq!(bobs.status, 202, "{}", bobs.text);
    assert_ne!(bobs.body["id"], first.body["id"]);

    // A refusal is not kept: the same key is good for what is submitted next.
    let wrong = submit_with_key(&alice, "order-4712", &json!({})).await;
    wrong.assert_problem(400, "invalid_body");
    let mended = submit_with_key(&alice, "order-4712", &submission).await;
    assert_eq!(mended.status, 202, "{}", mended.text);

    app.user("bob").wait_until(&bobs.body, "completed").await;
    alice.wait_until(&mended.body, "completed").await;
    assert_eq!(app.calls("api/process/data").len(), 3);
    app.finish().await;
}

pub(crate) async fn submissions_with_one_key_that_arrive_together_are_one_job(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let submission = json!({ "definition": workflows::process_data(1) });
    let (a, b, c, d) = tokio::join!(
        submit_with_key(&alice, "together", &submission),
        submit_with_key(&alice, "together", &submission),
        submit_with_key(&alice, "together", &submission),
        submit_with_key(&alice, "together", &submission),
    );
    for answer in [&a, &b, &c, &d] {
        assert_eq!(answer.status, 202, "{}", answer.text);
        assert_eq!(answer.body["id"], a.body["id"]);
    }
    alice.wait_until(&a.body, "completed").await;
    assert_eq!(app.calls("api/process/data").len(), 1);
    assert_eq!(app.exchanges().len(), 1);
    app.finish().await;
}
