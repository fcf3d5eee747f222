use errand_tests::{TestApp, workflows};
use reqwest::Method;
use serde_json::{Value, json};

/// A body with the pointer of its first problem.
type BadBody = (&'static str, Vec<u8>, &'static str);

#[tokio::test]
async fn a_bad_body_is_answered_with_the_place_that_is_wrong() {
    let app = super::api().await;
    let alice = app.user("alice");
    let mut wrong = Vec::new();
    for (what, body, pointer) in texts().into_iter().chain(envelopes()).chain(documents()) {
        let request = alice.request(Method::POST, "/v1/jobs");
        let request = request.header("content-type", "application/json").body(body);
        let answer = alice.send(request).await;
        let errors = answer.body["errors"].as_array().cloned().unwrap_or_default();
        let is_named =
            errors.iter().any(|error| error["pointer"] == pointer && error["detail"] != "");
        if answer.status == 400 && is_named {
            answer.assert_problem(400, "invalid_body");
        } else {
            wrong.push(format!("{what}: not `{pointer}`, but {}", answer.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_nothing_came_of_it(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn a_body_too_large_or_of_another_type_is_not_read() {
    let app = super::api().await;
    let alice = app.user("alice");
    let good = json!({ "definition": workflows::process_data(1) }).to_string();
    let post = || alice.request(Method::POST, "/v1/jobs");

    let large = format!("{good}{}", " ".repeat(300_000));
    let request = post().header("content-type", "application/json").body(large);
    alice.send(request).await.assert_problem(413, "body_too_large");

    for media_type in
        ["text/plain", "application/xml", "application/x-www-form-urlencoded", "json", ""]
    {
        let request = post().header("content-type", media_type).body(good.clone());
        alice.send(request).await.assert_problem(415, "unsupported_media_type");
    }
    alice.send(post().body(good.clone())).await.assert_problem(415, "unsupported_media_type");
    let request =
        post().header("content-type", "application/json").header("content-encoding", "gzip");
    alice.send(request.body(good)).await.assert_problem(415, "unsupported_media_type");
    assert_nothing_came_of_it(&app).await;
    app.finish().await;
}

async fn assert_nothing_came_of_it(app: &TestApp) {
    assert_eq!(app.simulator.token_requests(), []);
    assert_eq!(app.database.count("jobs").await, 0);
}

/// What is no JSON, or no object.
fn texts() -> Vec<BadBody> {
    let good = json!({ "definition": workflows::process_data(1) }).to_string();
    let text = |what, text: &str| (what, text.as_bytes().to_vec(), "");
    vec![
        text("nothing", ""),
        text("blanks", " \n"),
        text("no JSON", "definition: yes"),
        ("half of it", br#"{"definition": {"do""#.to_vec(), "/definition/do"),
        text("more than one value", &format!("{good}{good}")),
        text("a byte order mark", &format!("\u{feff}{good}")),
        ("not UTF-8", b"{\"a\": \"\xff\"}".to_vec(), "/a"),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect(), ""),
        text("a list", "[]"),
        text("null", "null"),
        text("a text", "\"job\""),
        text("a number beyond all", "1e999999"),
        ("a duplicate key", br#"{"input": 1, "input": 2}"#.to_vec(), "/input"),
        ("a duplicate key deeper", br#"{"input": [{"a": 1, "a": 2}]}"#.to_vec(), "/input/0/a"),
        ("a lone surrogate", br#"{"input": "\ud800"}"#.to_vec(), "/input"),
    ]
}

/// What is wrong around the document.
fn envelopes() -> Vec<BadBody> {
    let with = |what, name: &str, value: Value, pointer| {
        let mut body = json!({ "definition": workflows::process_data(1) });
        body[name] = value;
        (what, body.to_string().into_bytes(), pointer)
    };
    let long_key = "k".repeat(201);
    vec![
        ("no document", b"{}".to_vec(), "/definition"),
        with("an unknown member", "sessionkey", json!("a"), "/sessionkey"),
        with("an unknown member with a slash", "a/b~c", json!("a"), "/a~1b~0c"),
        with("an empty session key", "session_key", json!(""), "/session_key"),
        with("a long session key", "session_key", json!(long_key), "/session_key"),
        with("a session key with a slash", "session_key", json!("a/b"), "/session_key"),
        with("a session key with a zero", "session_key", json!("a\u{0}"), "/session_key"),
        with("a session key with a line break", "session_key", json!("a\r\nX: y"), "/session_key"),
        with("a session key in another script", "session_key", json!("ключ"), "/session_key"),
        with("a session key that is a number", "session_key", json!(7), "/session_key"),
        with("a time that is none", "run_at", json!("tomorrow"), "/run_at"),
        with("a time without zone", "run_at", json!("2026-11-21T06:00:00"), "/run_at"),
        with("no such day", "run_at", json!("2026-02-30T06:00:00Z"), "/run_at"),
        with("a deadline that is none", "deadline", json!("soon"), "/deadline"),
        with("a deadline at once", "deadline", json!("PT0S"), "/deadline"),
        with("a deadline too far", "deadline", json!("P401D"), "/deadline"),
        with("a deadline beyond all", "deadline", json!("P99999999999999999999D"), "/deadline"),
        with("tags that are a list", "tags", json!(["a"]), "/tags"),
        with("a tag that is a number", "tags", json!({ "n": 1 }), "/tags/n"),
        with("a tag without a name", "tags", json!({ "": "a" }), "/tags/"),
        with("a tag as long as a book", "tags", json!({ "n": "x".repeat(257) }), "/tags/n"),
    ]
}

/// What is wrong in the document.
fn documents() -> Vec<BadBody> {
    let document = |what, definition: Value, pointer| {
        let body = json!({ "definition": definition });
        (what, body.to_string().into_bytes(), pointer)
    };
    let with_tasks =
        |what, tasks: Value, pointer| document(what, workflows::document(&tasks), pointer);
    let with_uri = |what, uri: &str| {
        with_tasks(what, json!([workflows::get("a", uri)]), "/definition/do/0/a/with/endpoint/uri")
    };
    let call = |with: Value| json!([workflows::call("a", &with)]);
    let endpoint = |api: &str| json!({ "uri": "api/a", "authentication": { "use": api } });
    let mut other_version = workflows::process_data(1);
    other_version["document"]["dsl"] = "2.0.0".into();
    let nested = format!(r#"{{"definition": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let deep_pointer = format!("/definition{}", "/0".repeat(126));
    let too_many: Vec<Value> =
        (0..201).map(|n| json!({ format!("t{n}"): { "set": { "n": n } } })).collect();
    vec![
        document("a document that is a text", json!("document"), "/definition"),
        document("a document that is empty", json!({}), "/definition"),
        document("another version of the language", other_version, "/definition/document/dsl"),
        ("a document nested deeply", nested.into_bytes(), Box::leak(deep_pointer.into_boxed_str())),
        with_tasks("no tasks", json!([]), "/definition/do"),
        with_tasks("too many tasks", too_many.into(), "/definition/do/200"),
        with_tasks("tasks that are an object", json!({}), "/definition/do"),
        with_tasks(
            "a task of two kinds",
            json!([{ "a": { "set": { "b": 1 }, "wait": { "seconds": 1 } } }]),
            "/definition/do/0/a",
        ),
        with_tasks(
            "a task of an unknown kind",
            json!([{ "a": { "run": { "shell": "rm" } } }]),
            "/definition/do/0/a/run",
        ),
        with_tasks(
            "a misspelt property",
            call(json!({ "methd": "get", "endpoint": endpoint("PartnerAPI") })),
            "/definition/do/0/a/with/methd",
        ),
        with_tasks(
            "an API that is not configured",
            call(json!({ "method": "get", "endpoint": endpoint("EvilAPI") })),
            "/definition/do/0/a/with/endpoint/authentication/use",
        ),
        with_tasks(
            "a header that is not the document's",
            call(
                json!({ "method": "get", "endpoint": endpoint("PartnerAPI"), "headers": { "Authorization": "Bearer x" } }),
            ),
            "/definition/do/0/a/with/headers/Authorization",
        ),
        with_tasks(
            "a method that is not allowed",
            call(json!({ "method": "delete", "endpoint": endpoint("PartnerAPI") })),
            "/definition/do/0/a/with/method",
        ),
        with_tasks(
            "an expression that is none",
            json!([{ "a": { "set": { "b": "${ .[ }" } } }]),
            "/definition/do/0/a/set/b",
        ),
        with_tasks(
            "an expression of the environment",
            json!([{ "a": { "set": { "b": "${ env }" } } }]),
            "/definition/do/0/a/set/b",
        ),
        with_tasks(
            "a jump to nowhere",
            json!([{ "a": { "set": { "b": 1 }, "then": "nowhere" } }]),
            "/definition/do/0/a/then",
        ),
        with_tasks(
            "a wait below zero",
            json!([{ "a": { "wait": { "seconds": -1 } } }]),
            "/definition/do/0/a/wait/seconds",
        ),
        with_uri("another host", "https://evil.example/api"),
        with_uri("another host without scheme", "//evil.example/api"),
        with_uri("the metadata service", "http://169.254.169.254/metadata"),
        with_uri("a way up", "../ledger/api"),
        with_uri("a way up, encoded", "api/%2e%2e/%2e%2e/ledger"),
        with_uri("a slash, encoded", "api%2f..%2fledger"),
        with_uri("a backslash", "api\\..\\ledger"),
        with_uri("a file", "file:///etc/passwd"),
    ]
}
