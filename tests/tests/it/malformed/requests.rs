use errand_tests::workflows;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn an_address_or_method_that_is_none_is_answered_as_such() {
    let app = super::api().await;
    let alice = app.user("alice");
    let id = "0193a3c8-0000-7000-8000-000000000000";
    for path in [
        "/",
        "/v1",
        "/v2/jobs",
        "/v1/jobs/",
        "/v1/job",
        "/admin",
        "/problems/%ff",
        "/problems/none",
        "//v1/jobs",
        "/v1/jobs/a/b/c",
    ] {
        alice.get(path).await.assert_problem(404, "not_found");
    }
    let job = format!("/v1/jobs/{id}");
    let resume = format!("{job}/resume");
    for (method, path) in [
        (Method::PUT, "/v1/jobs"),
        (Method::PATCH, "/v1/jobs"),
        (Method::TRACE, "/v1/jobs"),
        (Method::POST, &job),
        (Method::PUT, &job),
        (Method::GET, &resume),
        (Method::POST, "/livez"),
        (Method::POST, "/readyz"),
    ] {
        let answer = alice.send(alice.request(method.clone(), path)).await;
        answer.assert_problem(405, "method_not_allowed");
        assert!(!answer.header("allow").is_empty(), "{method} {path} names no allowed method");
    }
    app.finish().await;
}

#[tokio::test]
async fn an_id_that_is_none_is_not_found() {
    let app = super::api().await;
    let alice = app.user("alice");
    let long = "a".repeat(5000);
    for id in [
        "1",
        "00000000-0000-0000-0000-000000000000",
        "0193a3c8-0000-7000-8000-00000000000g",
        "%00",
        "%ff%fe",
        "'%20or%201=1--",
        "..%2f..%2fetc%2fpasswd",
        "%7B0193a3c8-0000-7000-8000-000000000000%7D",
        &long,
    ] {
        alice.get(&format!("/v1/jobs/{id}")).await.assert_some_problem(404);
        let resume = alice.request(Method::POST, &format!("/v1/jobs/{id}/resume"));
        alice.send(resume).await.assert_some_problem(404);
    }
    app.finish().await;
}

#[tokio::test]
async fn headers_that_make_no_sense_are_refused_or_ignored() {
    let app = super::api().await;
    let alice = app.user("alice");
    let submission = json!({ "definition": workflows::process_data(1) });
    let post = || alice.request(Method::POST, "/v1/jobs").json(&submission);

    let long = "k".repeat(256);
    for key in ["", &long, "schlüssel"] {
        let answer = alice.send(post().header("idempotency-key", key)).await;
        answer.assert_problem(400, "invalid_request");
    }
    let two = post().header("idempotency-key", "a").header("idempotency-key", "b");
    alice.send(two).await.assert_problem(400, "invalid_request");
    assert_eq!(app.database.count("jobs").await, 0);

    let job = alice.submit(&workflows::process_data(1)).await;
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    for (name, value) in [
        ("if-none-match", "unquoted"),
        ("if-none-match", "\"\u{e9}\""),
        ("prefer", "wait=-1"),
        ("prefer", "wait=99999999999999999999"),
        ("prefer", "wait"),
        ("traceparent", "00-not-a-trace"),
        ("accept", "text/html"),
        ("x-forwarded-host", "evil.example"),
        ("host", "evil.example"),
    ] {
        let answer = alice.send(alice.request(Method::GET, &path).header(name, value)).await;
        assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.text);
        assert!(!answer.text.contains("evil.example"), "{}", answer.text);
    }
    app.finish().await;
}
