//! What keeps a process from starting is said in one line, with exit code 2.

use std::{fs, net::TcpListener};

use errand_tests::{Ended, run_to_end};

const BINARIES: [&str; 2] = ["errand-api", "errand-worker"];

/// A configuration with which both start, but for the database.
fn configuration(database: &str, listen: &str) -> String {
    format!(
        r#"
[database]
url = "{database}"
[encryption]
keys = ["k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
[api]
listen = "{listen}"
[worker]
listen = "{listen}"
[identity]
instance = "http://localhost:9/"
tenant_id = "11111111-2222-3333-4444-555555555555"
client_id = "66666666-7777-8888-9999-000000000000"
client_credentials = [{{ source_type = "ClientSecret", client_secret = "a~canary-of-a-secret" }}]
"#
    )
}

async fn start(binary: &str, configuration: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("errand.toml");
    let content = configuration.replace("FOLDER", folder.path().to_str().unwrap());
    fs::write(&path, content).unwrap();
    run_to_end(binary, &["--config", path.to_str().unwrap()], &[]).await
}

/// Fails unless it ended with one line on stderr, exit code 2, and all of `words` in the line.
#[track_caller]
fn assert_one_line(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "no `{word}` in: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("canary"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for binary in BINARIES {
        let ended = start(binary, &configuration("sqlite://FOLDER/errand.db", &address)).await;
        assert_one_line(&ended, &["listen", &address, "in use"]);
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_named_without_its_password() {
    for (url, word) in [
        ("postgres://errand:canary@127.0.0.1:9/errand", "[database] url"),
        ("sqlite:///dev/null/errand.db", "[database] url"),
        ("mysql://errand:canary@127.0.0.1/errand", "url"),
    ] {
        for binary in BINARIES {
            let ended = start(binary, &configuration(url, "127.0.0.1:0")).await;
            assert_one_line(&ended, &[word]);
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_configuration_is_named() {
    let good = configuration("sqlite://FOLDER/errand.db", "127.0.0.1:0");
    let without_key = good.replace("keys =", "#");
    let short_key = good.replace("AAAAAAAA", "canary");
    let misspelt =
        good.replace("client_id", "clientid").replace("[worker]", "[worker]\nlease_secs = 9");
    for binary in BINARIES {
        assert_one_line(
            &start(binary, &without_key).await,
            &["errand.toml", "[encryption]", "keys"],
        );
        assert_one_line(&start(binary, &short_key).await, &["[encryption]", "BASE64-OF-32-BYTES"]);
        assert_one_line(&start(binary, "[database\n").await, &["errand.toml"]);
        // Every problem at once, one a line.
        let ended = start(binary, &misspelt).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        for words in [["lease_secs", "lease_seconds"], ["clientid", "client_id"]] {
            let is_said = |line: &str| words.iter().all(|word| line.contains(word));
            assert!(ended.stderr.lines().any(is_said), "{words:?}: {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn a_missing_file_and_a_wrong_argument_are_named() {
    for binary in BINARIES {
        let ended = run_to_end(binary, &["--config", "/nowhere/errand.toml"], &[]).await;
        assert_one_line(&ended, &["/nowhere/errand.toml"]);
        let ended = run_to_end(binary, &["--confg", "x"], &[]).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("--confg"), "{}", ended.stderr);
    }
}
