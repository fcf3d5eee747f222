//! `errand`, the one binary that people call by hand.

use std::fs;

use errand_tests::{Database, Settings, TestApp, run_to_end, workflows};
use serde_json::{Value, json};

#[tokio::test]
async fn the_quickstart_completes_a_job_and_prints_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let port = errand_tests::free_address().port().to_string();
    let arguments = ["quickstart", "--exit", "--data", data, "--port", &port];
    let ended = run_to_end("errand", &arguments, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let job: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(job["status"], "completed", "{job}");
    assert_eq!(job["output"]["user"], "alice", "{job}");
    assert!(!ended.stdout.contains("eyJ") && !ended.stderr.contains("eyJ"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_taken_port_of_the_quickstart_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let arguments = ["quickstart", "--exit", "--data", data, "--port", &port];
    let ended = run_to_end("errand", &arguments, &[]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains(&port), "{}", ended.stderr);
}

#[tokio::test]
async fn a_document_is_checked_before_it_is_submitted() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good.json", &workflows::process_data(1).to_string());
    let ended = run_to_end("errand", &["workflow", "check", &good], &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let definition = workflows::document(&json!([{ "a": { "wait": { "minuts": 1 } } }, {}]));
    let wrong = file("wrong.json", &definition.to_string());
    let ended = run_to_end("errand", &["workflow", "check", &wrong], &[]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("/do/0/a/wait/minuts: ")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("/do/1: ")), "{lines:?}");

    for arguments in [["workflow", "check", "/nowhere.json"], ["workflow", "chek", &good]] {
        let ended = run_to_end("errand", &arguments, &[]).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn one_process_that_serves_and_works_is_killed_and_goes_on() {
    let settings = Settings { workers: 0, lease_seconds: 3, ..Settings::default() };
    let mut app = TestApp::start_with(Database::Sqlite, settings).await;
    app.stop_api().await;
    app.start_serving().await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(2)).await;
    alice.wait_until(&job, "waiting").await;
    app.kill_api().await;
    app.start_serving().await;
    alice.wait_until(&job, "completed").await;
    let counts = ["api/process/data", "api/process/complete"].map(|path| app.calls(path).len());
    assert_eq!(counts, [1, 1]);
    app.finish().await;
}

#[tokio::test]
async fn an_installation_is_examined_and_a_missing_key_named() {
    let app = TestApp::start(Database::Sqlite).await;
    let alice = app.user("alice");
    let job = alice.submit(&workflows::process_data(1)).await;
    alice.wait_until(&job, "completed").await;
    let path = app.configuration();
    let config = ["--config", path.to_str().unwrap()];
    let doctor = [&["doctor"], &config[..]].concat();
    let ended = run_to_end("errand", &doctor, &[]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.lines().all(|line| line.starts_with("ok   ")), "{}", ended.stdout);
    assert!(ended.stdout.contains("client credential 1"), "{}", ended.stdout);

    let new_key = format!("new:{}=", "A".repeat(43));
    let alone = [("ERRAND__ENCRYPTION__KEYS", new_key.as_str())];
    let wrong = [alone[0], ("ERRAND__IDENTITY__CLIENT_CREDENTIALS__0__CLIENT_SECRET", "not-it")];
    let ended = run_to_end("errand", &doctor, &wrong).await;
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    for failed in ["FAIL encryption keys: ", "FAIL client credential 1: invalid_client"] {
        assert!(ended.stdout.contains(failed), "{}", ended.stdout);
    }
    assert!(!ended.stdout.contains("not-it") && !ended.stderr.contains("not-it"));

    let rotate = [&["keys", "rotate"], &config[..]].concat();
    let ended = run_to_end("errand", &rotate, &alone).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("`jobs.definition` of "), "{}", ended.stderr);
    app.finish().await;
}
