//! What a client can read of a job afterwards, or as it happens.

use errand_simulator::UserTokenRequest;
use errand_tests::{Answer, Database, PATIENCE, Settings, TestApp, User, workflows};
use reqwest::Method;
use serde_json::{Value, json};

on_both_databases! {
    what_happened_to_a_job_is_told_in_order
    a_stream_goes_on_where_it_was_lost
    a_user_holds_so_many_streams_open
    calls_are_listed_without_what_was_said
}

fn path_of(job: &Value, what: &str) -> String {
    format!("/v1/jobs/{}/{what}", job["id"].as_str().unwrap())
}

async fn stream(user: &User, path: &str, last_event_id: Option<&str>) -> Answer {
    let mut request = user.request(Method::GET, path).header("accept", "text/event-stream");
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    user.send(request).await
}

/// The values of a field, message by message.
fn field<'a>(stream: &'a Answer, name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}: ");
    stream.text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
}

async fn what_happened_to_a_job_is_told_in_order(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(1)).await;
    alice.wait_until(&job, "completed").await;
    let path = path_of(&job, "events");
    let list = alice.get(&path).await;
    assert_eq!(list.status, 200, "{}", list.text);
    let events = list.body["events"].as_array().unwrap();
    let of_job = events.iter().map(|event| event["type"].as_str().unwrap());
    let of_job: Vec<_> = of_job.filter(|kind| *kind != "exchanged").collect();
    let of_get = ["task_started", "task_completed"];
    let of_pause = ["task_started", "waiting", "task_completed"];
    let expected =
        [&["submitted", "started"], &of_get[..], &of_pause, &of_get, &["completed"]].concat();
    assert_eq!(of_job, expected, "{}", list.text);
    assert_eq!(events.len(), of_job.len() + 1, "and one exchange: {}", list.text);
    let client = app.simulator.user_claims(&UserTokenRequest::named("alice"))["azp"].clone();
    assert_eq!(events[0]["client"], client, "{}", list.text);
    assert!(!list.text.contains("items"), "no output: {}", list.text);
    app.user("bob").get(&path).await.assert_problem(404, "not_found");
    app.finish().await;
}

async fn a_stream_goes_on_where_it_was_lost(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(1)).await;
    let path = path_of(&job, "events");
    // It ends by itself after the final event.
    let all = stream(&alice, &path, None).await;
    assert_eq!(all.header("content-type"), "text/event-stream", "{}", all.text);
    let (ids, kinds) = (field(&all, "id"), field(&all, "event"));
    assert_eq!(kinds.last(), Some(&"completed"), "{}", all.text);
    for (seen, id) in ids.iter().enumerate() {
        let rest = stream(&alice, &path, Some(id)).await;
        assert_eq!(field(&rest, "id"), ids[seen + 1..], "after {id}: {}", rest.text);
        let is_last = seen + 1 == ids.len();
        assert_eq!(rest.status, if is_last { 204 } else { 200 }, "after {id}");
    }
    stream(&alice, &path, Some("yesterday")).await.assert_some_problem(400);
    stream(&app.user("bob"), &path, None).await.assert_problem(404, "not_found");
    app.finish().await;
}

async fn a_user_holds_so_many_streams_open(database: Database) {
    let more = "[limits]\nstreams_per_user = 2\n".to_owned();
    let app = TestApp::start_with(database, Settings { more, ..Settings::default() }).await;
    let alice = app.user("alice");
    let waiting = workflows::document(&json!([workflows::wait(3_600)]));
    let job = alice.submit(&waiting).await;
    let path = path_of(&job, "events");
    let open = || alice.request(Method::GET, &path).header("accept", "text/event-stream").send();
    let (first, second) = (open().await.unwrap(), open().await.unwrap());
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let third = alice.request(Method::GET, &path).header("accept", "text/event-stream");
    alice.send(third).await.assert_problem(429, "too_many_streams");
    // A list is none.
    assert_eq!(alice.get(&path).await.status, 200);
    drop(first);
    let place = async { while open().await.unwrap().status() != 200 {} };
    tokio::time::timeout(PATIENCE, place).await.expect("a stream that was left makes room");
    drop(second);
    app.finish().await;
}

async fn calls_are_listed_without_what_was_said(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let definition = workflows::document(&json!([
        workflows::get("read", "api/read?account=4711"),
        workflows::post("write", "api/write"),
    ]));
    let job = alice.submit(&definition).await;
    alice.wait_until(&job, "completed").await;
    let path = path_of(&job, "calls");
    let list = alice.get(&path).await;
    assert_eq!(list.status, 200, "{}", list.text);
    let calls = list.body["calls"].as_array().unwrap();
    let summary: Vec<_> = calls
        .iter()
        .map(|call| json!([call["task"], call["method"], call["path"], call["status"]]))
        .collect();
    let expected = [
        json!(["/do/0/read", "GET", "/api/read", 200]),
        json!(["/do/1/write", "POST", "/api/write", 200]),
    ];
    assert_eq!(summary, expected, "{}", list.text);
    assert_eq!(app.calls("api/read")[0].query.as_deref(), Some("account=4711"));
    assert!(!list.text.contains("account") && !list.text.contains("headers"), "{}", list.text);
    assert_eq!(calls[0]["scopes"], json!(["api://partner-api-id/read"]));
    app.user("bob").get(&path).await.assert_problem(404, "not_found");
    app.finish().await;
}
