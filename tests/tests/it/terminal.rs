//! A user's jobs from a terminal.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Json, Router, routing::get};
use errand_tests::{Database, Ended, Settings, TestApp, run_to_end, workflows};
use serde_json::{Value, json};

/// Runs a command with a home of its own.
async fn errand(app: &TestApp, home: &Path, arguments: &[&str]) -> Ended {
    let environment =
        [("XDG_CONFIG_HOME", home.to_str().unwrap()), ("ERRAND_SERVER", app.address())];
    run_to_end("errand", arguments, &environment).await
}

fn file(home: &Path, name: &str, content: &str) -> String {
    let path = home.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[track_caller]
fn assert_code(ended: &Ended, code: i32) {
    assert_eq!(ended.code, Some(code), "{}{}", ended.stdout, ended.stderr);
    assert!(!ended.stdout.contains("eyJ") && !ended.stderr.contains("eyJ"), "a token is shown");
}

#[tokio::test]
async fn a_job_is_submitted_watched_listed_and_cancelled() {
    let app = TestApp::start(Database::Sqlite).await;
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let document = file(home, "job.json", &workflows::process_data(1).to_string());
    let token = file(home, "token", &app.simulator.user_token("alice"));
    assert_code(&errand(&app, home, &["submit", &document]).await, 2);

    assert_code(&errand(&app, home, &["login", "--token-file", &token]).await, 0);
    #[cfg(unix)]
    {
        let logins = fs::metadata(home.join("errand/logins.json")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&logins) & 0o777, 0o600);
    }
    let submitted = errand(&app, home, &["submit", &document, "--watch", "--json"]).await;
    assert_code(&submitted, 0);
    let job: Value = serde_json::from_str(&submitted.stdout).unwrap();
    assert_eq!(job["output"]["user"], "alice");
    let id = job["id"].as_str().unwrap();
    assert!(submitted.stderr.contains("3/3 completed"), "{}", submitted.stderr);

    let shown = errand(&app, home, &["job", id]).await;
    assert_code(&shown, 0);
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout).unwrap()["id"], id);
    let long = file(home, "long.json", &workflows::process_data(60).to_string());
    let submitted = errand(&app, home, &["submit", &long]).await;
    assert_code(&submitted, 0);
    let waiting = submitted.stdout.trim().to_owned();
    let listed = errand(&app, home, &["jobs"]).await;
    assert_code(&listed, 0);
    let lines: Vec<_> = listed.stdout.lines().collect();
    assert!(lines.len() == 3 && lines[1].starts_with(&waiting), "{}", listed.stdout);
    let listed = errand(&app, home, &["jobs", "--status", "completed", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["jobs"][0]["id"], id);

    let cancelled = errand(&app, home, &["cancel", &waiting]).await;
    assert_code(&cancelled, 0);
    assert_eq!(cancelled.stdout, "cancelled\n");
    let again = errand(&app, home, &["cancel", &waiting]).await;
    assert_code(&again, 1);
    assert!(again.stderr.contains("Already finished"), "{}", again.stderr);
    assert_code(&errand(&app, home, &["watch", &waiting]).await, 1);
    let resumed = errand(&app, home, &["resume", id]).await;
    assert_code(&resumed, 1);
    assert!(resumed.stderr.contains("Not suspended"), "{}", resumed.stderr);
    let sessions = errand(&app, home, &["sessions"]).await;
    assert_code(&sessions, 0);
    assert!(
        sessions.stdout.contains("1 cancelled, 1 completed")
            || sessions.stdout.contains("1 completed, 1 cancelled"),
        "{}",
        sessions.stdout
    );

    // The login is for that server and no other.
    let other = errand(&app, home, &["jobs", "--server", "http://127.0.0.1:9"]).await;
    assert_code(&other, 2);
    let plain = errand(&app, home, &["jobs", "--server", "http://errand.example.com"]).await;
    assert_code(&plain, 2);
    assert_code(&errand(&app, home, &["job", "not-an-id"]).await, 2);
    assert_code(&errand(&app, home, &["jobs", "--token-file", "/nowhere"]).await, 2);
    let bobs = file(home, "bob", &app.simulator.user_token("bob"));
    assert_code(&errand(&app, home, &["job", id, "--token-file", &bobs]).await, 1);
    let wrong = file(home, "wrong.json", r#"{"document":{},"do":[]}"#);
    let refused = errand(&app, home, &["submit", &wrong]).await;
    assert_code(&refused, 1);
    assert!(refused.stderr.contains("/definition/do"), "{}", refused.stderr);
    app.finish().await;
}

#[tokio::test]
async fn a_user_signs_in_on_another_device() {
    let settings = Settings { workers: 0, ..Settings::default() };
    let app = TestApp::start_with(Database::Sqlite, settings).await;
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = format!("http://{}", listener.local_addr().unwrap());
    let metadata = json!({
        "token_endpoint": format!("{provider}/token"),
        "device_authorization_endpoint": format!("{provider}/device"),
    });
    let device = json!({
        "device_code": "a-device", "user_code": "BDWP-HQPK", "expires_in": 60, "interval": 0,
        "verification_uri": format!("{provider}/activate"),
    });
    let (asked, token) = (Arc::new(AtomicUsize::new(0)), app.simulator.user_token("alice"));
    let answer = {
        let asked = Arc::clone(&asked);
        move |form: String| {
            assert!(form.contains("device_code=a-device") && form.contains("client_id=cli"));
            let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            let pending = json!({ "error": "authorization_pending" });
            let issued = json!({ "access_token": token, "expires_in": 3600 });
            async move { Json(if first { pending } else { issued }) }
        }
    };
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(async move || Json(metadata)))
        .route("/device", axum::routing::post(async move || Json(device)))
        .route("/token", axum::routing::post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let login =
        ["login", "--authority", &provider, "--client-id", "cli", "--scope", "api://errand/a"];
    let ended = errand(&app, folder.path(), &login).await;
    assert_code(&ended, 0);
    assert!(ended.stderr.contains("BDWP-HQPK"), "{}", ended.stderr);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_code(&errand(&app, folder.path(), &["jobs"]).await, 0);
    app.finish().await;
}
