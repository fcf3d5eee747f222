//! Many jobs, two workers, one database.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use errand_tests::{Database, Settings, TestApp, User, eventually, workflows};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

const JOBS: usize = 1_000;
const CLIENTS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_a_thousand_jobs_and_each_call_is_made_once() {
    share_a_thousand_jobs(Database::Postgres).await;
}

#[expect(clippy::print_stderr, reason = "a figure for whoever runs it by itself")]
pub(crate) async fn share_a_thousand_jobs(database: Database) {
    let settings = Settings { workers: 0, ..Settings::default() };
    let mut app = TestApp::start_with(database, settings).await;
    // The same API by two names, so that its log says which worker called.
    let downstream = app.simulator.description().downstream.clone();
    let by_number = downstream.replace("localhost", "127.0.0.1");
    assert_ne!(downstream, by_number);
    let alice = app.user("alice");

    let began = Instant::now();
    let jobs = submit_all(&alice).await;
    let submitting = began.elapsed().as_secs_f64();

    let began = Instant::now();
    app.start_worker().await;
    let variable = "ERRAND__DOWNSTREAM_APIS__PartnerAPI__BASE_URL";
    app.start_worker_with(&[(variable, &by_number)]).await;
    eventually("all calls", || app.simulator.calls().len() >= JOBS).await;
    let working = began.elapsed().as_secs_f64();
    for job in &jobs {
        alice.wait_until(job, "completed").await;
    }

    let calls = app.simulator.calls();
    assert_eq!(calls.len(), JOBS, "each call is made once");
    let keys: HashSet<_> = calls.iter().map(|call| call.idempotency_key.clone()).collect();
    assert_eq!(keys.len(), JOBS);
    assert!(calls.iter().all(|call| call.effect && call.user == "alice"));
    assert_eq!(app.simulator.token_requests().len(), 1, "one exchange for all");
    let mut by_worker = HashMap::<_, usize>::new();
    for call in &calls {
        *by_worker.entry(call.headers["host"].clone()).or_default() += 1;
    }
    assert_eq!(by_worker.len(), 2, "both workers did some: {by_worker:?}");
    #[expect(clippy::cast_precision_loss, reason = "a thousand is exact")]
    let (submissions, done) = (JOBS as f64 / submitting, JOBS as f64 / working);
    // For the record, not judged: binaries and simulator are neither optimised nor alone.
    eprintln!("{submissions:.0} submissions/s, then {done:.0} calls/s by {by_worker:?}");
    app.finish().await;
}

/// Submits from several clients at once, all with one token.
async fn submit_all(user: &User) -> Vec<Value> {
    let definition = workflows::document(&json!([workflows::post("write", "api/write")]));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (user, definition) = (user.clone(), definition.clone());
        clients.spawn(async move {
            let mut jobs = Vec::new();
            for _ in (client..JOBS).step_by(CLIENTS) {
                jobs.push(user.submit(&definition).await);
            }
            jobs
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_refresh_one_session_and_present_no_token_twice() {
    refresh_one_session(Database::Postgres).await;
}

pub(crate) async fn refresh_one_session(database: Database) {
    let mut settings = Settings::with_access_tokens_of(Duration::from_secs(2));
    settings.workers = 2;
    let app = TestApp::start_with(database, settings).await;
    let alice = app.user("alice");
    let mut jobs = Vec::new();
    for _ in 0..60 {
        jobs.push(alice.submit(&workflows::process_data(3)).await);
    }
    for job in &jobs {
        alice.wait_until(job, "completed").await;
    }

    assert_eq!(app.exchanges().len(), 1);
    let refreshes = app.refreshes();
    // The tenant revokes everything at the first reuse; said again for whoever reads a failure.
    assert!(refreshes.iter().all(|request| !request.reuse), "{refreshes:#?}");
    let presented: HashSet<_> =
        refreshes.iter().map(|request| request.refresh_token_hash.clone()).collect();
    assert_eq!(presented.len(), refreshes.len());
    // One per life of an access token, not one per job.
    assert!(refreshes.len() < 20, "{} refreshes", refreshes.len());
    // On a busy machine a token may end on its way; such a call is refused, and repeated once.
    let calls = app.simulator.calls();
    let accepted = calls.iter().filter(|call| call.status == Some(200));
    assert_eq!(accepted.count(), 2 * jobs.len());
    app.finish().await;
}
