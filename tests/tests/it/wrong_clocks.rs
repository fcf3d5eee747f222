//! A machine whose clock is wrong by minutes.

use std::{path::PathBuf, time::Duration};

use errand_shared::time::{Clock, SystemClock, Timestamp};
use errand_tests::{Database, Settings, TestApp, workflows};
use serde_json::Value;

/// As [`workflows::process_data`] says.
const WAIT: Duration = Duration::from_secs(3);

/// What a busy machine may take for two calls, two refreshes and as many polls.
const MOST: Duration = Duration::from_secs(20);

/// Debian's libfaketime. `./test` says so if it is missing; nobody else passes over the story.
fn libfaketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut files = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let found: Option<PathBuf> = files.find(|file| file.exists());
    let without = std::env::var("TEST_WITHOUT").unwrap_or_default();
    assert!(
        found.is_some() || without.split(' ').any(|package| package == "libfaketime"),
        "no libfaketime: run ./test, or set TEST_WITHOUT=libfaketime"
    );
    found.map(|file| file.display().to_string())
}

/// On SQLite all processes have the clock of their one machine.
#[tokio::test]
async fn a_worker_with_a_wrong_clock_wakes_its_jobs_in_time_and_loses_no_session() {
    let Some(libfaketime) = libfaketime() else { return };
    for (offset, seconds) in [("+300", 300), ("-300", -300)] {
        let settings =
            Settings { workers: 0, ..Settings::with_access_tokens_of(Duration::from_secs(2)) };
        let mut app = TestApp::start_with(Database::Postgres, settings).await;
        app.start_worker_with(&[
            ("LD_PRELOAD", &libfaketime),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ])
        .await;
        let alice = app.user("alice");
        let mut jobs = Vec::new();
        for _ in 0..5 {
            jobs.push(alice.submit(&workflows::process_data(3)).await);
        }
        for job in &jobs {
            let job = alice.wait_until(job, "completed").await;
            let time = |name: &str| timestamp(&job[name]);
            let length = time("finished_at").since(time("started_at"));
            assert!(WAIT <= length && length < MOST, "{offset}: {length:?}");
        }
        assert_eq!(alice.get("/v1/sessions").await.body["sessions"][0]["state"], "active");
        assert!(!app.refreshes().is_empty(), "{offset}: its tokens end during the wait");
        assert!(app.refreshes().iter().all(|request| !request.reuse), "{offset}");
        assert_eq!(app.calls("api/process/complete").iter().filter(|call| call.effect).count(), 5);
        let off = own_time(&app).seconds() - SystemClock.now().seconds();
        assert!((off - seconds).abs() < 60, "the worker's clock is off by {off} s");
        app.finish().await;
    }
}

/// What time it is, as the worker's last line in its log says.
fn own_time(app: &TestApp) -> Timestamp {
    let logs = app.logs();
    let (_, log) = logs.iter().find(|(name, _)| name.ends_with("errand-worker.log")).unwrap();
    let line = log.lines().rfind(|line| line.starts_with("20")).unwrap();
    timestamp(&line.split(' ').next().unwrap().into())
}

fn timestamp(value: &Value) -> Timestamp {
    serde_json::from_value(value.clone()).unwrap()
}
