//! Figures for the record, not judged: binaries and simulator are neither optimised nor alone.
//!
//!     ./test -p errand-tests --test it figures -- --ignored --nocapture --test-threads 1

use std::time::Duration;

use errand_tests::{Database, Settings, TestApp, User, workflows};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::key_rotation::Installation;

const JOBS: usize = 1_000;
const CLIENTS: usize = 8;

/// Submits one-call jobs of one session from several clients, spread over `length`.
async fn submit(alice: &User, length: Duration) -> Vec<Value> {
    let definition = workflows::document(&json!([workflows::get("read", "api/read")]));
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (alice, definition) = (alice.clone(), definition.clone());
        clients.spawn(async move {
            let mut jobs = Vec::new();
            for number in (client..JOBS).step_by(CLIENTS) {
                let turn = u32::try_from(number).unwrap();
                tokio::time::sleep_until(began + length * turn / u32::try_from(JOBS).unwrap())
                    .await;
                let key = json!({ "session_key": "figures" });
                jobs.push(alice.submit_with(&definition, &key).await);
            }
            jobs
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

async fn until_none(app: &TestApp, jobs: &str) -> Instant {
    while app.database.count(&format!("jobs where {jobs}")).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure"]
async fn requests_to_the_provider_for_a_thousand_jobs_of_one_session() {
    const LIFE: Duration = Duration::from_secs(4);
    let settings = Settings { workers: 2, ..Settings::with_access_tokens_of(LIFE) };
    let app = TestApp::start_with(Database::Postgres, settings).await;
    let alice = app.user("alice");
    let began = Instant::now();
    submit(&alice, 6 * LIFE).await;
    let ended = until_none(&app, "status <> 'completed'").await;
    let lives = (ended - began).div_duration_f64(LIFE);
    let requests = app.simulator.token_requests();
    let reuses = requests.iter().filter(|request| request.reuse).count();
    eprintln!(
        "{JOBS} jobs, two workers, {lives:.1} lives of an access token: {} exchange, {} refreshes, \
         {reuses} reuses",
        app.exchanges().len(),
        app.refreshes().len(),
    );
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure"]
async fn time_to_resume_a_thousand_suspended_jobs_of_one_session() {
    for database in [Database::Sqlite, Database::Postgres] {
        let settings = Settings { workers: 0, ..Settings::default() };
        let mut app = TestApp::start_with(database, settings).await;
        let alice = app.user("alice");
        let jobs = submit(&alice, Duration::ZERO).await;
        let stop = alice.request(Method::DELETE, "/v1/sessions/figures");
        assert_eq!(alice.send(stop).await.status, 204);
        let workers = if database == Database::Sqlite { 1 } else { 2 };
        for _ in 0..workers {
            app.start_worker().await;
        }

        let alice = alice.sign_in_again(&app.simulator);
        let path = format!("/v1/jobs/{}/resume", jobs[0]["id"].as_str().unwrap());
        let began = Instant::now();
        let resumed = alice.send(alice.request(Method::POST, &path)).await;
        let answered = began.elapsed();
        assert_eq!(resumed.status, 202, "{}", resumed.text);
        let runnable = until_none(&app, "status = 'suspended'").await - began;
        let completed = until_none(&app, "status <> 'completed'").await - began;
        eprintln!(
            "{database:?}, {JOBS} suspended jobs, workers: {workers}: resume answered after \
             {answered:.0?}, all runnable after {runnable:.0?}, all completed after {completed:.1?}"
        );
        app.finish().await;
    }
}

#[tokio::test]
#[ignore = "a figure"]
async fn values_that_a_rotation_of_keys_encrypts_anew_in_a_second() {
    const ROWS: usize = 20_000;
    for database in [Database::Sqlite, Database::Postgres] {
        let installation = Installation::of(database, ROWS).await;
        let began = Instant::now();
        let values = installation.rotate().await;
        let seconds = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "thousands are exact")]
        let (rows, each) = (ROWS as f64 / seconds, values as f64 / seconds);
        eprintln!(
            "{database:?}: {ROWS} rows in {seconds:.1} s: {rows:.0} rows/s, {each:.0} values/s"
        );
        installation.app.finish().await;
    }
}
