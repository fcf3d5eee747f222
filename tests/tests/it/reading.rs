//! What is recorded before a call is sent, and what with its answer.

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

    let writes = workflows::document(&json!([workflows::post("write", "api/write")]));
    let writes = alice.submit(&writes).await;
    let failed_to_record = |job: &Value| {
        let id = job["id"].as_str().unwrap();
        let of_job = |line: &str| line.contains(id) && line.contains("not recorded");
        app.logs().iter().any(|(_, log)| log.lines().any(of_job))
    };
    eventually("a record fails", || failed_to_record(&writes)).await;
    let reads = workflows::document(&json!([workflows::get("read", "api/read")]));
    let reads = alice.submit(&reads).await;
    alice.wait_until(&reads, "completed").await;
    assert_eq!((app.calls("api/read").len(), app.calls("api/write").len()), (1, 0));

    let reads_twice = json!([workflows::get("one", "api/one"), workflows::get("two", "api/two")]);
    let reads_twice = alice.submit(&workflows::document(&reads_twice)).await;
    eventually("the first call", || app.calls("api/one").len() == 1).await;
    eventually("its record fails", || failed_to_record(&reads_twice)).await;
    assert_eq!(app.calls("api/two").len(), 0, "sent before it is known how the first one ended");

    let postgres = "alter table jobs drop constraint on_its_way";
    app.database.execute("drop trigger on_its_way", postgres).await;
    for job in [&writes, &reads_twice] {
        alice.wait_until(job, "completed").await;
    }
    let counts = ["api/write", "api/one", "api/two"].map(|path| app.calls(path).len());
    assert_eq!(counts, [1, 1, 1]);
    app.finish().await;
}
