//! Several calls of one job at once.

use std::time::Duration;

use errand_simulator::{HttpAnswer, Reply, ScriptedAnswer};
use errand_tests::{Database, TestApp, User, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

on_both_databases! {
    branches_call_at_the_same_time
    the_loser_of_a_race_is_given_up
    a_call_is_given_up_when_its_time_is_over
    a_call_that_a_fault_cut_off_is_not_sent_again_unasked
}

/// A call that is answered long after the story's end.
const HANGING: Duration = Duration::from_secs(25);

fn slow(app: &TestApp, path: &str, delay: Duration) {
    let answer = ScriptedAnswer { reply: Reply::Usual, delay, after_processing: true };
    app.simulator.script_call_answer("GET", &format!("/partner/{path}"), answer);
}

/// The outcomes of the calls to `path`, as the job's owner sees them.
async fn outcomes(user: &User, job: &Value, path: &str) -> Vec<String> {
    let id = job["id"].as_str().unwrap();
    let calls = user.get(&format!("/v1/jobs/{id}/calls")).await;
    let calls = calls.body["calls"].as_array().unwrap().clone();
    let of_path = calls.into_iter().filter(|call| call["path"] == format!("/{path}"));
    of_path.map(|call| call["outcome"].as_str().unwrap().to_owned()).collect()
}

async fn branches_call_at_the_same_time(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let paths = ["api/a", "api/b", "api/c"];
    for path in paths {
        slow(&app, path, Duration::from_secs(2));
    }
    let branches: Vec<Value> = paths.map(|path| workflows::get(&path[4..], path)).to_vec();
    let gather = json!([{ "gather": {
        "fork": { "branches": branches },
        "output": { "as": "${ [.[0].path, .[1].path, .[2].path] }" }
    } }]);
    let job = alice.submit(&workflows::document(&gather)).await;
    let under_way = || paths.iter().all(|path| app.calls(path).len() == 1);
    eventually("all three calls", under_way).await;
    let running = alice.job(&job).await;
    let branch = |number, name| format!("/do/0/gather/fork/branches/{number}/{name}");
    let expected = json!([branch(0, "a"), branch(1, "b"), branch(2, "c")]);
    assert_eq!(running["tasks"], expected, "{running}");
    let completed = alice.wait_until(&job, "completed").await;
    assert_eq!(completed["output"].as_array().map(Vec::len), Some(3), "{completed}");
    for path in paths {
        assert_eq!(app.calls(path).len(), 1);
    }
    app.finish().await;
}

async fn the_loser_of_a_race_is_given_up(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    slow(&app, "api/slow", HANGING);
    slow(&app, "api/fast", Duration::from_secs(1));
    let branches =
        [workflows::get("slow", "api/slow"), workflows::get("fast", "api/fast")].to_vec();
    let race = json!([{ "race": { "fork": { "compete": true, "branches": branches } } }]);
    let began = Instant::now();
    let job = alice.submit(&workflows::document(&race)).await;
    alice.wait_until(&job, "completed").await;
    assert!(began.elapsed() < HANGING, "{:?}", began.elapsed());
    assert_eq!(outcomes(&alice, &job, "api/fast").await, ["answered"]);
    assert_eq!(outcomes(&alice, &job, "api/slow").await, ["aborted"]);
    app.finish().await;
}

async fn a_call_is_given_up_when_its_time_is_over(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    slow(&app, "api/slow", HANGING);
    let attempt = json!([{ "attempt": {
        "try": workflows::bounded(&workflows::get("slow", "api/slow"), "PT1S"),
        "catch": { "do": [{ "late": { "set": { "late": "${ $error.status }" } } }] }
    } }]);
    let began = Instant::now();
    let job = alice.submit(&workflows::document(&attempt)).await;
    let completed = alice.wait_until(&job, "completed").await;
    assert_eq!(completed["output"], json!({ "late": 408 }), "{completed}");
    assert!(began.elapsed() < HANGING, "{:?}", began.elapsed());
    assert_eq!(outcomes(&alice, &job, "api/slow").await, ["aborted"]);
    app.finish().await;
}

async fn a_call_that_a_fault_cut_off_is_not_sent_again_unasked(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let answer = ScriptedAnswer { reply: Reply::Usual, delay: HANGING, after_processing: true };
    app.simulator.script_call_answer("POST", "/partner/api/order", answer);
    let not_there = ScriptedAnswer {
        reply: Reply::Answer(HttpAnswer::text(404, "")),
        delay: Duration::from_secs(1),
        after_processing: false,
    };
    app.simulator.script_call_answer("GET", "/partner/api/read", not_there);
    let branches =
        [workflows::post("order", "api/order"), workflows::get("read", "api/read")].to_vec();
    let both = json!([{ "both": { "fork": { "branches": branches } } }]);
    let job = alice.submit(&workflows::document(&both)).await;
    let faulted = alice.wait_for(&job, "faulted", |job| job["status"] == "faulted").await;
    assert_eq!(faulted["error"]["status"], 404, "{faulted}");

    // Nobody knows what became of the order: its user may go on, and is told so.
    let retry = format!("/v1/jobs/{}/retry", job["id"].as_str().unwrap());
    let retried = alice.send(alice.request(Method::POST, &retry)).await;
    assert_eq!(retried.status, 202, "{}", retried.text);
    let faulted = alice.wait_for(&job, "faulted", |job| job["status"] == "faulted").await;
    assert_eq!(faulted["error"]["title"], "Outcome unknown", "{faulted}");
    assert_eq!(app.calls("api/order").len(), 1);
    app.finish().await;
}
