//! What is recorded before a call is sent, and what with its answer.

use std::time::Duration;

use errand_tests::{Database, TestApp, eventually, workflows};
use serde_json::{Value, json};

on_both_databases! {
    a_call_that_only_reads_is_sent_before_it_is_recorded
}

async fn a_call_that_only_reads_is_sent_before_it_is_recorded(database: Database) {
    let app = TestApp::start(database).await;
    let alice = app.user("alice");
    // From now on nothing is recorded of a job on its way, only its end.
    let sqlite = "create trigger on_its_way before update of checkpoint on jobs
        when new.status = 'running' and new.checkpoint is not null
        begin select raise(abort, 'on its way'); end";
    let postgres = "alter table jobs add constraint on_its_way
        check (status <> 'running' or checkpoint is null)";
    app.database.execute(sqlite, postgres).await;
    let failed_to_record = |job: &Value| {
        let id = job["id"].as_str().unwrap();
        let of_job = |line: &str| line.contains(id) && line.contains("not recorded");
        app.logs().iter().any(|(_, log)| log.lines().any(of_job))
    };

    let writes = workflows::document(&json!([workflows::post("write", "api/write")]));
    let writes = alice.submit(&writes).await;
    eventually("a record fails", || failed_to_record(&writes)).await;
    assert_eq!(app.calls("api/write").len(), 0);

    // Where a call or its token takes longer than it usually does, the job is recorded first after all.
    let reads = workflows::document(&json!([workflows::get("read", "api/read")]));
    let mut tries = 0..20;
    loop {
        assert!(tries.next().is_some(), "every job was recorded before its call");
        let job = alice.submit(&reads).await;
        let is_completed = async || {
            while !failed_to_record(&job) {
                if alice.job(&job).await["status"] == "completed" {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            false
        };
        if is_completed().await {
            break;
        }
    }

    let postgres = "alter table jobs drop constraint on_its_way";
    app.database.execute("drop trigger on_its_way", postgres).await;
    alice.wait_until(&writes, "completed").await;
    assert_eq!(app.calls("api/write").len(), 1);
    app.finish().await;
}
