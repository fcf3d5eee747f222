//! What operators and programs can read without a token.

use std::collections::BTreeMap;

use errand_tests::{Database, Settings, TestApp, workflows};

/// The samples by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_process_counts_what_it_does_and_names_nobody() {
    let settings = Settings { workers: 0, ..Settings::default() };
    let mut app = TestApp::start_with(Database::Sqlite, settings).await;
    app.stop_api().await;
    app.start_serving().await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(1)).await;
    alice.wait_until(&job, "completed").await;
    alice.get("/v1/jobs/1").await.assert_problem(404, "not_found");
    alice.get("/nowhere/4711").await.assert_problem(404, "not_found");

    let answer = alice.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let counted = samples(&answer.text);
    for (name, value) in [
        (r#"errand_http_requests_total{method="POST",route="/v1/jobs",status="202"}"#, 1.0),
        (r#"errand_http_requests_total{method="GET",route="/v1/jobs/{id}",status="404"}"#, 1.0),
        (r#"errand_http_requests_total{method="GET",route="none",status="404"}"#, 1.0),
        ("errand_jobs_submitted_total", 1.0),
        ("errand_jobs_claimed_total", 2.0),
        (r#"errand_records_total{status="completed"}"#, 1.0),
        (r#"errand_records_total{status="waiting"}"#, 1.0),
        (r#"errand_calls_total{api="PartnerAPI",outcome="answered"}"#, 2.0),
        (r#"errand_call_duration_seconds_count{api="PartnerAPI"}"#, 2.0),
        (r#"errand_token_requests_total{kind="exchange",outcome="issued"}"#, 1.0),
        (r#"errand_jobs{status="running"}"#, 0.0),
        ("errand_queue_lag_seconds", 0.0),
    ] {
        assert_eq!(counted.get(name), Some(&value), "{name}: {}", answer.text);
    }
    let id = job["id"].as_str().unwrap();
    let session = job["session_key"].as_str().unwrap();
    for named in [id, session, "alice", "4711"] {
        assert!(!answer.text.contains(named), "{named}: {}", answer.text);
    }
    app.finish().await;
}

#[tokio::test]
async fn the_interface_describes_itself() {
    let settings = Settings { workers: 0, ..Settings::default() };
    let app = TestApp::start_with(Database::Sqlite, settings).await;
    let nobody = app.user_with_token("nobody", String::new());
    let document = nobody.get("/openapi.json").await;
    assert_eq!((document.status, &document.body["openapi"]), (200, &"3.1.0".into()));
    let page = nobody.get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    app.finish().await;
}
