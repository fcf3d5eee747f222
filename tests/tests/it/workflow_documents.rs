//! The documents of `docs/workflows.md`, and what becomes of hostile ones, by `errand workflow dry-run`.

use std::{fs, path::Path};

use errand_tests::{run_to_end, workflows};
use serde_json::{Value, json};

/// Runs one of the documents with what lies beside it.
async fn example(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/workflows");
    let path = |end: &str| folder.join(format!("{name}{end}")).to_str().unwrap().to_owned();
    let (document, input, responses) =
        (path(".yaml"), path(".input.json"), path(".responses.json"));
    let mut arguments = vec!["workflow", "dry-run", &document, "--responses", &responses];
    if Path::new(&input).exists() {
        arguments.extend(["--input", &input]);
    }
    let ended = run_to_end("errand", &arguments, &[]).await;
    assert_eq!(ended.code, Some(0), "{name}: {}{}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[tokio::test]
async fn the_examples_do_what_their_page_says() {
    for (name, output, waited_seconds, calls) in [
        ("process-data", json!({"accepted": true}), 300, 2),
        (
            "dashboard",
            json!({"user": {"name": "Alice"}, "data": [1, 2, 3], "settings": {"theme": "dark"}}),
            0,
            3,
        ),
        ("poll-operation", json!({"report": {"total": 4711}}), 150, 4),
        ("all-pages", json!({"orders": 3, "amount": 205}), 0, 3),
        ("book-trip", json!({"booked": false, "because": 409}), 6, 5),
        ("best-offer", json!({"best": {"from": "north", "price": 75}, "offers": 3}), 0, 3),
    ] {
        let report = example(name).await;
        assert_eq!(report["output"], output, "{name}: {report:#}");
        assert_eq!(report["waited_seconds"], waited_seconds, "{name}");
        assert_eq!(report["calls"].as_array().unwrap().len(), calls, "{name}: {report:#}");
    }
    let report = example("book-trip").await;
    assert_eq!(report["calls"][4]["method"], "DELETE");
    assert_eq!(report["calls"][4]["url"], "PartnerAPI:/api/flights/F7");
}

#[tokio::test]
async fn every_example_is_on_the_page_and_tested() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = fs::read_to_string(docs.join("workflows.md")).unwrap();
    let tests = include_str!("workflow_documents.rs");
    for file in fs::read_dir(docs.join("workflows")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".yaml") {
            assert!(page.contains(&format!("(workflows/{name}.yaml)")), "{name}");
            assert!(tests.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}

#[tokio::test]
async fn a_dry_run_fails_as_its_document_does() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |expression: &str| {
        let tasks = json!([{ "t": { "set": { "x": format!("${{ {expression} }}") } } }]);
        let file = folder.path().join("w.json");
        fs::write(&file, workflows::document(&tasks).to_string()).unwrap();
        run_to_end("errand", &["workflow", "dry-run", file.to_str().unwrap()], &[]).await
    };
    let ended = run("\"a\" * 2000000000").await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&report["status"], &report["error"]["status"]), (&json!("faulted"), &json!(400)));
    let ended = run(". | env").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    assert_eq!(ended.stderr, "/do/0/t/set/x: Unknown filter `env`.\n");
    let ended = run_to_end("errand", &["workflow", "dry-run", "/nonexistent"], &[]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
}

/// The file that runs is the cage, whatever stands in its place since.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_binary_that_is_replaced_while_it_runs_evaluates_on() {
    use std::process::Stdio;

    use tokio::{io::AsyncWriteExt, process::Command};

    let folder = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let program = folder.path().join("errand");
    fs::copy(test.ancestors().nth(2).unwrap().join("errand"), &program).unwrap();
    let tasks = json!([{ "t": { "set": { "x": "${ map(. * 2) | add }" } } }]);
    let file = folder.path().join("w.json");
    fs::write(&file, workflows::document(&tasks).to_string()).unwrap();
    let mut running = Command::new(&program)
        .args(["workflow", "dry-run", "--input", "/dev/stdin"])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // It runs, and waits for its input, once it is another program than the one that started it.
    let exe = format!("/proc/{}/exe", running.id().unwrap());
    while fs::read_link(&exe).unwrap() != program {
        tokio::task::yield_now().await;
    }
    fs::remove_file(&program).unwrap();
    fs::write(&program, "something else").unwrap();
    running.stdin.take().unwrap().write_all(b"[1, 2]").await.unwrap();
    let output = running.wait_with_output().await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["output"], json!({"x": 6}), "{report}");
}
