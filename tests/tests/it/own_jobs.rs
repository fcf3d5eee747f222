//! What a user does with jobs that are there, and what an operator does.

use std::time::Duration;

use errand_simulator::{Reply, ScriptedAnswer, Simulator, UserTokenRequest};
use errand_tests::{Answer, Database, Settings, TestApp, User, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

on_both_databases! {
    jobs_are_found_by_status_session_and_tag
    a_cancelled_job_stops_its_call_and_starts_no_other
    a_finished_job_can_be_erased
    a_faulted_job_can_be_tried_again
    a_batch_is_submitted_as_one
    priorities_order_ones_own_jobs
    an_operator_sees_jobs_without_what_is_in_them
}

/// A call that is answered long after the story's end.
const HANGING: Duration = Duration::from_secs(25);

fn path_of(job: &Value) -> String {
    format!("/v1/jobs/{}", job["id"].as_str().unwrap())
}

async fn post(user: &User, path: &str) -> Answer {
    user.send(user.request(Method::POST, path)).await
}

async fn delete(user: &User, path: &str) -> Answer {
    user.send(user.request(Method::DELETE, path)).await
}

fn ids(list: &Answer) -> Vec<&str> {
    assert_eq!(list.status, 200, "{}", list.text);
    list.body["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect()
}

fn one_get() -> Value {
    workflows::document(&json!([workflows::get("read", "api/read")]))
}

async fn jobs_are_found_by_status_session_and_tag(database: Database) {
    let app = TestApp::start_with(database, Settings { workers: 0, ..Settings::default() }).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let mut submitted = Vec::new();
    for number in 0..5 {
        let options = json!({
            "session_key": format!("session-{}", number % 2), "tags": { "order": number.to_string() },
        });
        let job = alice.submit_with(&one_get(), &options).await;
        submitted.insert(0, job["id"].as_str().unwrap().to_owned());
    }
    let all = alice.get("/v1/jobs").await;
    assert_eq!(ids(&all), submitted);
    assert_eq!(all.body["next_cursor"], Value::Null);
    assert!(all.body["jobs"][0].get("output").is_none(), "{}", all.text);
    assert_eq!(bob.get("/v1/jobs").await.body, json!({ "jobs": [], "next_cursor": null }));

    let mut pages = Vec::new();
    let mut path = "/v1/jobs?limit=2".to_owned();
    loop {
        let page = alice.get(&path).await;
        pages.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        path = format!("/v1/jobs?limit=2&cursor={cursor}");
        // What comes later is not on a later page.
        alice.submit(&one_get()).await;
    }
    assert_eq!(pages, submitted);

    let tagged = alice.get("/v1/jobs?tag=order%3A3").await;
    assert_eq!(ids(&tagged), [submitted[1].as_str()]);
    let of_session = alice.get("/v1/jobs?session_key=session-1").await;
    assert_eq!(ids(&of_session), [submitted[1].as_str(), submitted[3].as_str()]);
    let cancelled = post(&alice, &format!("/v1/jobs/{}/cancel", submitted[1])).await;
    assert_eq!(cancelled.status, 202, "{}", cancelled.text);
    let of_both = alice.get("/v1/jobs?session_key=session-1&status=cancelled").await;
    assert_eq!(ids(&of_both), [submitted[1].as_str()]);
    assert!(ids(&bob.get("/v1/jobs?tag=order:3").await).is_empty());
    for wrong in [
        "status=done",
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "tag=order",
        "colour=red",
        "limit=1&limit=1",
        "session_key=%00",
        "tag=%00:a",
        "cursor=%ff",
    ] {
        let answer = alice.get(&format!("/v1/jobs?{wrong}")).await;
        answer.assert_problem(400, "invalid_request");
    }
    app.finish().await;
}

pub(crate) async fn a_cancelled_job_stops_its_call_and_starts_no_other(database: Database) {
    let mut app =
        TestApp::start_with(database, Settings { workers: 0, ..Settings::default() }).await;
    app.start_worker_with(&[("ERRAND__WORKER__CONCURRENCY", "1")]).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let hanging = ScriptedAnswer { reply: Reply::Usual, delay: HANGING, after_processing: true };
    app.simulator.script_call_answer("GET", "/partner/api/process/data", hanging);
    let job = alice.submit(&workflows::process_data(1)).await;
    eventually("the call", || app.calls("api/process/data").len() == 1).await;
    // There is one place, and it is taken.
    let next = bob.submit(&one_get()).await;
    let cancel = format!("{}/cancel", path_of(&job));
    post(&bob, &cancel).await.assert_problem(404, "not_found");

    let began = Instant::now();
    let cancelled = post(&alice, &cancel).await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (202, &json!("cancelled")));
    assert!(cancelled.body["finished_at"].is_string(), "{}", cancelled.text);
    post(&alice, &cancel).await.assert_problem(409, "already_finished");
    bob.wait_until(&next, "completed").await;
    assert!(began.elapsed() < Duration::from_secs(10), "the place is free: {:?}", began.elapsed());
    assert_eq!(alice.job(&job).await["status"], "cancelled");
    assert!(app.calls("api/process/complete").is_empty());
    let events = alice.get(&format!("{}/events", path_of(&job))).await;
    let last = events.body["events"].as_array().unwrap().last().unwrap();
    assert_eq!(last["type"], "cancelled", "{}", events.text);
    app.finish().await;
}

async fn a_finished_job_can_be_erased(database: Database) {
    let app = TestApp::start(database).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let submission = json!({ "definition": workflows::process_data(1), "tags": { "order": "1" } });
    let request = || alice.request(Method::POST, "/v1/jobs").json(&submission);
    let job = alice.send(request().header("idempotency-key", "once")).await.body;
    alice.wait_until(&job, "waiting").await;
    delete(&alice, &path_of(&job)).await.assert_problem(409, "unfinished");
    alice.wait_until(&job, "completed").await;
    delete(&bob, &path_of(&job)).await.assert_problem(404, "not_found");
    let deleted = delete(&alice, &path_of(&job)).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    for path in ["", "/events", "/calls"] {
        alice.get(&format!("{}{path}", path_of(&job))).await.assert_problem(404, "not_found");
    }
    delete(&alice, &path_of(&job)).await.assert_problem(404, "not_found");
    for table in ["jobs", "job_events", "job_calls", "job_tags", "idempotency_keys"] {
        assert_eq!(app.database.count(table).await, 0, "{table}");
    }
    app.finish().await;
}

async fn a_faulted_job_can_be_tried_again(database: Database) {
    let mut app = TestApp::start(database).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let not_there = errand_simulator::HttpAnswer::text(404, "");
    app.simulator.script_call_answer("GET", "/partner/api/read", not_there);
    let job = alice.submit(&one_get()).await;
    let retry = format!("{}/retry", path_of(&job));
    let faulted = alice.wait_for(&job, "faulted", |job| job["status"] == "faulted").await;
    assert_eq!(app.stop_worker().await, Some(0));
    post(&bob, &retry).await.assert_problem(404, "not_found");
    let retried = post(&alice, &retry).await;
    assert_eq!((retried.status, &retried.body["status"]), (202, &json!("waiting")));
    assert_eq!(
        (&retried.body["error"], &retried.body["finished_at"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(retried.body["task"], faulted["task"], "{}", retried.text);
    post(&alice, &retry).await.assert_problem(409, "not_faulted");

    // It goes on from the task that failed, with a call of its own.
    app.start_worker().await;
    alice.wait_until(&job, "completed").await;
    let calls = app.calls("api/read");
    let keys: Vec<_> = calls.iter().map(|call| call.idempotency_key.as_deref()).collect();
    assert_eq!(keys.len(), 2, "{calls:?}");
    assert_ne!(keys[0], keys[1]);
    app.finish().await;
}

pub(crate) async fn a_batch_is_submitted_as_one(database: Database) {
    let app = TestApp::start(database).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let job = |key: &str| json!({ "definition": workflows::process_data(1), "session_key": key });
    let set = workflows::document(&json!([{ "note": { "set": { "a": 1 } } }]));
    let batch = json!({ "jobs": [job("b"), { "definition": set }, job("a"), job("b")] });
    let send = |user: &User, key: &str, body: &Value| {
        let request = user.request(Method::POST, "/v1/jobs/batch").json(body);
        let (user, request) = (user.clone(), request.header("idempotency-key", key));
        async move { user.send(request).await }
    };
    let accepted = send(&alice, "batch-1", &batch).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    let jobs = accepted.body["jobs"].as_array().unwrap();
    let keys: Vec<_> = jobs.iter().map(|job| job["session_key"].as_str()).collect();
    assert_eq!(keys, [Some("b"), None, Some("a"), Some("b")]);
    assert_eq!(app.exchanges().len(), 2, "one for each session");
    let again = send(&alice, "batch-1", &batch).await;
    assert_eq!(again.status, 202, "{}", again.text);
    let first_ids: Vec<_> = jobs.iter().map(|job| &job["id"]).collect();
    let again_ids: Vec<_> =
        again.body["jobs"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert_eq!(first_ids, again_ids);
    let other = json!({ "jobs": [job("b")] });
    send(&alice, "batch-1", &other).await.assert_problem(422, "idempotency_key_reused");
    assert_eq!(send(&bob, "batch-1", &other).await.status, 202);

    let mut wrong = job("a");
    wrong["definition"]["do"][0]["getData"]["with"]["methd"] = "get".into();
    let mut wrong_too = job("a");
    wrong_too["priority"] = "high".into();
    let answer = send(&alice, "batch-2", &json!({ "jobs": [job("a"), wrong, wrong_too] })).await;
    answer.assert_problem(400, "invalid_body");
    let pointers: Vec<_> =
        answer.body["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/jobs/1/definition/do/0/getData/with/methd", "/jobs/2/priority"]);
    let mut large = job("a");
    large["input"] = json!("x".repeat(300_000));
    let answer = send(&alice, "batch-3", &json!({ "jobs": [job("a"), large] })).await;
    answer.assert_problem(413, "body_too_large");
    assert_eq!(answer.body["errors"][0]["pointer"], "/jobs/1");
    for body in [json!([]), json!({ "jobs": [] }), json!({ "jobs": [1], "job": 2 }), json!(null)] {
        send(&alice, "batch-4", &body).await.assert_problem(400, "invalid_body");
    }
    assert_eq!(app.database.count("jobs").await, 5, "all or none");
    for job in jobs {
        alice.wait_until(job, "completed").await;
    }
    app.finish().await;
}

pub(crate) async fn priorities_order_ones_own_jobs(database: Database) {
    let mut app =
        TestApp::start_with(database, Settings { workers: 0, ..Settings::default() }).await;
    let (alice, bob) = (app.user("alice"), app.user("bob"));
    let submit = |user: &User, priority: u32| {
        let (user, options) = (user.clone(), json!({ "priority": priority }));
        async move { user.submit_with(&one_get(), &options).await }
    };
    let last = submit(&alice, 0).await;
    let bobs = submit(&bob, 0).await;
    let (middle, first) = (submit(&alice, 1).await, submit(&alice, 100).await);
    for priority in [json!(-1), json!(101), json!(1.5), json!("1")] {
        let answer =
            alice.post_job(&json!({ "definition": one_get(), "priority": priority })).await;
        answer.assert_problem(400, "invalid_body");
    }
    app.start_worker_with(&[("ERRAND__WORKER__CONCURRENCY", "1")]).await;
    for (user, job) in [(&alice, &last), (&bob, &bobs)] {
        user.wait_until(job, "completed").await;
    }
    let key = |job: &Value| format!("{}.", job["id"].as_str().unwrap());
    let mut order: Vec<usize> = app
        .calls("api/read")
        .iter()
        .map(|call| {
            let idempotency_key = call.idempotency_key.clone().unwrap();
            let jobs = [&first, &bobs, &middle, &last];
            jobs.iter().position(|job| idempotency_key.starts_with(&key(job))).unwrap()
        })
        .collect();
    assert!(order[..2].contains(&1), "the two take turns: {order:?}");
    order.retain(|job| *job != 1);
    assert_eq!(order, [0, 2, 3], "alice's jobs come by their priority");
    app.finish().await;
}

fn operator_token(simulator: &Simulator, change: &Value) -> String {
    let app = UserTokenRequest { app: true, ..UserTokenRequest::named("operations") };
    let mut claims = simulator.user_claims(&app);
    claims["roles"] = json!(["Errand.Operator"]);
    for (name, value) in change.as_object().into_iter().flatten() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    simulator.sign(&simulator.token_header(), &claims)
}

async fn an_operator_sees_jobs_without_what_is_in_them(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    let options = json!({ "tags": { "secret-tag": "secret-value" } });
    let done = alice.submit_with(&workflows::process_data(1), &options).await;
    let waiting = alice.submit_with(&workflows::process_data(60), &options).await;
    let not_there = errand_simulator::HttpAnswer::text(404, "secret-answer");
    app.simulator.script_call_answer("GET", "/partner/api/read", not_there);
    let faulted = alice.submit_with(&one_get(), &options).await;
    alice.wait_until(&done, "completed").await;
    alice.wait_until(&faulted, "faulted").await;
    alice.wait_until(&waiting, "waiting").await;

    let token = |change: Value| operator_token(&app.simulator, &change);
    let operator = app.user_with_token("operations", token(json!({})));
    let list = operator.get("/v1/operator/jobs").await;
    let all = [&faulted, &waiting, &done].map(|job| job["id"].as_str().unwrap());
    assert_eq!(ids(&list), all);
    let page = operator.get("/v1/operator/jobs?limit=1&status=waiting").await;
    assert_eq!(ids(&page), [waiting["id"].as_str().unwrap()]);
    let one = operator.get(&format!("/v1/operator/jobs/{}", all[0])).await;
    assert_eq!(one.body["error"]["status"], 404, "{}", one.text);
    for answer in [&list, &page, &one] {
        for hidden in ["secret-", "output", "input", "detail", "claims", "tags", "api/read"] {
            assert!(!answer.text.contains(hidden), "{hidden}: {}", answer.text);
        }
    }
    for wrong in ["tag=a:b", "session_key=a", "status=x", "cursor=x", "limit=0"] {
        let answer = operator.get(&format!("/v1/operator/jobs?{wrong}")).await;
        answer.assert_problem(400, "invalid_request");
    }
    operator.get("/v1/operator/jobs/1").await.assert_problem(404, "not_found");
    // The role alone makes nobody a user.
    operator.get("/v1/jobs").await.assert_problem(403, "forbidden");

    for (change, status) in [
        (json!({ "roles": null }), 403),
        (json!({ "roles": "Errand.Operator" }), 403),
        (json!({ "roles": ["errand.operator"] }), 403),
        (json!({ "roles": ["Errand.Operators"] }), 403),
        (json!({ "scp": "Jobs.Read", "idtyp": null }), 403),
        (json!({ "aud": "api://partner-api-id" }), 401),
        (json!({ "exp": 1_000_000_000 }), 401),
        (json!({ "tid": "99999999-9999-4999-8999-999999999999" }), 401),
        (json!({ "nonce": "n" }), 401),
    ] {
        let impostor = app.user_with_token("impostor", token(change.clone()));
        for path in ["/v1/operator/jobs".to_owned(), format!("/v1/operator/jobs/{}", all[0])] {
            let answer = impostor.get(&path).await;
            assert_eq!(answer.status, status, "{change}: {}", answer.text);
        }
        let cancel = format!("/v1/operator/jobs/{}/cancel", all[1]);
        assert_eq!(post(&impostor, &cancel).await.status, status, "{change}");
    }
    alice.get("/v1/operator/jobs").await.assert_problem(403, "forbidden");

    let person =
        app.user_with_token("person", token(json!({ "scp": "Jobs.ReadWrite", "idtyp": null })));
    let cancel = format!("/v1/operator/jobs/{}/cancel", all[1]);
    let cancelled = post(&person, &cancel).await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (202, &json!("cancelled")));
    post(&person, &cancel).await.assert_problem(409, "already_finished");
    assert_eq!(alice.job(&waiting).await["status"], "cancelled");
    app.finish().await;
}
