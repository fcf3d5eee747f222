//! How many calls an API gets at once, and what its `Retry-After` holds.

use std::time::Duration;

use errand_shared::time::Timestamp;
use errand_simulator::{HttpAnswer, Reply, ScriptedAnswer, UserTokenRequest};
use errand_tests::{Database, Settings, TestApp, User, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

on_both_databases! {
    an_api_gets_no_more_calls_at_once_than_it_can_take
    a_call_that_is_given_up_gives_its_slot_back
    a_worker_that_stops_waits_for_no_slot
    who_waits_for_a_slot_keeps_no_place_from_others
    patience_with_one_user_holds_that_users_calls_to_that_api_only
}

/// A call that is answered long after the story's end.
const HANGING: Duration = Duration::from_secs(25);

async fn limited(database: Database, workers: usize, max_concurrency: u32) -> TestApp {
    TestApp::start_with(database, Settings { workers, max_concurrency, ..Settings::default() })
        .await
}

fn slow(app: &TestApp, delay: Duration) {
    let answer = ScriptedAnswer { reply: Reply::Usual, delay, after_processing: true };
    app.simulator.script_call_answer("GET", "/partner/api/read", answer);
}

fn one_get(path: &str) -> Value {
    workflows::document(&json!([workflows::get("read", path)]))
}

/// Who may use the second API, too.
fn user(app: &TestApp, name: &str) -> User {
    let scp = Some("Jobs.ReadWrite Ledger.Use".to_owned());
    let claims =
        app.simulator.user_claims(&UserTokenRequest { scp, ..UserTokenRequest::named(name) });
    app.user_with_token(name, app.simulator.sign(&app.simulator.token_header(), &claims))
}

fn get_of_ledger() -> Value {
    let mut ledger = one_get("api/read");
    ledger["do"][0]["read"]["with"]["endpoint"]["authentication"]["use"] = "LedgerAPI".into();
    ledger
}

async fn cancel(user: &User, job: &Value) {
    let path = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    let cancelled = user.send(user.request(Method::POST, &path)).await;
    assert!(cancelled.status < 300, "{}", cancelled.text);
}

async fn an_api_gets_no_more_calls_at_once_than_it_can_take(database: Database) {
    const CALLS: usize = 30;
    let app = limited(database, 2, 3).await;
    let alice = app.user("alice");
    let mut jobs = Vec::new();
    for _ in 0..CALLS {
        slow(&app, Duration::from_millis(200));
    }
    for _ in 0..CALLS {
        jobs.push(alice.submit(&one_get("api/read")).await);
    }
    for job in &jobs {
        let done = alice.wait_until(job, "completed").await;
        assert_eq!(done["attempts"], 1, "{done}");
    }
    assert_eq!(app.calls("api/read").len(), CALLS);
    assert_eq!(app.simulator.most_calls_at_once(), 3);
    app.finish().await;
}

async fn a_call_that_is_given_up_gives_its_slot_back(database: Database) {
    let app = limited(database, 2, 1).await;
    let alice = app.user("alice");
    slow(&app, HANGING);
    let began = Instant::now();
    let first = alice.submit(&one_get("api/read")).await;
    eventually("the first call", || app.calls("api/read").len() == 1).await;
    let second = alice.submit(&one_get("api/read")).await;
    alice.wait_until(&second, "running").await;
    cancel(&alice, &first).await;
    let done = alice.wait_until(&second, "completed").await;
    assert_eq!(done["attempts"], 1, "{done}");
    assert!(began.elapsed() < HANGING, "{:?}", began.elapsed());
    assert_eq!(app.simulator.most_calls_at_once(), 1);
    app.finish().await;
}

async fn a_worker_that_stops_waits_for_no_slot(database: Database) {
    let mut app = limited(database, 1, 1).await;
    let alice = app.user("alice");
    slow(&app, Duration::from_secs(3));
    let first = alice.submit(&one_get("api/read")).await;
    eventually("the first call", || app.calls("api/read").len() == 1).await;
    let second = alice.submit(&one_get("api/read")).await;
    alice.wait_until(&second, "running").await;
    assert_eq!(app.stop_worker().await, Some(0));
    assert_eq!(alice.job(&first).await["status"], "completed", "it was brought to its record");
    let waiting = alice.job(&second).await;
    assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("waiting"), &json!(0)));
    assert_eq!(app.calls("api/read").len(), 1);
    assert_eq!(app.database.count("call_slots where holder is not null").await, 0);
    app.start_worker().await;
    alice.wait_until(&second, "completed").await;
    app.finish().await;
}

async fn who_waits_for_a_slot_keeps_no_place_from_others(database: Database) {
    let mut app = limited(database, 0, 1).await;
    app.start_worker_with(&[("ERRAND__WORKER__CONCURRENCY", "2")]).await;
    let (alice, bob) = (user(&app, "alice"), user(&app, "bob"));
    slow(&app, HANGING);
    let began = Instant::now();
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(alice.submit(&one_get("api/read")).await);
    }
    eventually("the first call", || app.calls("api/read").len() == 1).await;
    let ledger = bob.submit(&get_of_ledger()).await;
    bob.wait_until(&ledger, "completed").await;
    assert!(began.elapsed() < HANGING, "{:?}", began.elapsed());
    assert_eq!(app.calls("api/read").len(), 1);
    for job in &jobs {
        cancel(&alice, job).await;
    }
    app.finish().await;
}

async fn patience_with_one_user_holds_that_users_calls_to_that_api_only(database: Database) {
    let app = TestApp::start(database).await;
    let (alice, bob) = (user(&app, "alice"), user(&app, "bob"));
    let is_held = |job: &Value| job["status"] == "waiting" && job["due_at"].is_string();
    let throttled = HttpAnswer::text(429, "").with_header("retry-after", "600");
    app.simulator.script_call_answer("GET", "/partner/api/first", throttled);
    let first = alice.submit(&one_get("api/first")).await;
    alice.wait_for(&first, "throttled", is_held).await;

    let second = alice.submit(&one_get("api/read")).await;
    let held = alice.wait_for(&second, "held", is_held).await;
    assert_eq!((&held["attempts"], app.calls("api/read").len()), (&json!(0), 0), "{held}");
    let time = |name: &str| held[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    let wait = time("due_at").since(time("created_at")).as_secs();
    assert!((500..=670).contains(&wait), "{held}");

    for (user, definition) in [(&alice, &get_of_ledger()), (&bob, &one_get("api/read"))] {
        let job = user.submit(definition).await;
        user.wait_until(&job, "completed").await;
    }
    for job in [&first, &second] {
        cancel(&alice, job).await;
    }
    app.finish().await;
}
