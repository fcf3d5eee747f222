//! Fifty jobs of one session ask for tokens at once, all the time, in several processes, and the
//! provider loses answers. Its own log is the witness of what was presented when.

#![expect(clippy::print_stderr, reason = "the figures, and the seed of a run that failed")]

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use errand_simulator::{Hostility, TokenRequest};
use errand_tests::{Database, Settings, TestApp, User, eventually, workflows};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

on_both_databases! {
    no_session_is_lost_where_lost_answers_are_expected
    a_strict_provider_costs_a_session_only_by_an_answer_that_it_lost
    workers_that_die_while_they_refresh_cost_no_session
}

const JOBS: usize = 50;

/// Calls of each job, a second apart.
const ROUNDS: usize = 5;

/// Of an access token: every round needs another one.
const TOKEN_LIFE: Duration = Duration::from_secs(2);

/// The lease of a refresh, less what two clocks may differ: nobody presents the token of a dead
/// process earlier.
const LEASE_OF_THE_DEAD: Duration = Duration::from_secs(22);

/// Longer than a story.
const LEEWAY: Duration = Duration::from_mins(10);

struct Race {
    app: TestApp,
    database: Database,
    alice: User,
    jobs: Vec<Value>,
    began: Instant,
}

impl Race {
    /// The jobs are there, and nobody works yet.
    async fn prepare(database: Database, leeway: Duration, lost_answers: u8) -> Self {
        let seed = std::env::var("RACE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
        eprintln!("RACE_SEED={seed}");
        let mut settings = Settings::with_access_tokens_of(TOKEN_LIFE);
        settings.simulator.reuse_leeway = leeway;
        let app =
            TestApp::start_with(database, Settings { workers: 0, lease_seconds: 3, ..settings });
        let app = app.await;
        app.simulator.set_hostility(Some(Hostility {
            seed,
            lost_requests: 10,
            lost_answers,
            unavailable: 3,
            max_delay: Duration::from_millis(300),
        }));
        let alice = app.user("alice");
        let mut jobs = Vec::new();
        for number in 0..JOBS {
            jobs.push(alice.submit_with(&rounds(number), &json!({ "session_key": "race" })).await);
        }
        Self { app, database, alice, jobs, began: Instant::now() }
    }

    async fn start_workers(&mut self) {
        // SQLite is one machine's, and most have one process on it.
        let (workers, concurrency) = match self.database {
            Database::Sqlite => (1, "50"),
            Database::Postgres | Database::Pooled => (4, "13"),
        };
        for _ in 0..workers {
            self.app.start_worker_with(&[("ERRAND__WORKER__CONCURRENCY", concurrency)]).await;
        }
    }

    async fn kill_workers(&mut self) -> usize {
        let workers = match self.database {
            Database::Sqlite => 1,
            Database::Postgres | Database::Pooled => 4,
        };
        for _ in 0..workers {
            self.app.kill_worker().await;
        }
        workers
    }

    /// Waits for the end of every job; whoever is suspended on the way has its user back at once.
    /// Returns how often that was.
    async fn complete(&mut self) -> usize {
        let mut resumed = 0;
        for job in &self.jobs {
            let mut seen = self.alice.job(job).await;
            while seen["status"] != "completed" {
                if seen["status"] == "suspended" {
                    self.alice = self.alice.sign_in_again(&self.app.simulator);
                    let path = format!("/v1/jobs/{}/resume", job["id"].as_str().unwrap());
                    let answer = self.alice.send(self.alice.request(Method::POST, &path)).await;
                    assert_eq!(answer.status, 202, "{}", answer.text);
                    resumed += 1;
                }
                // However long all of it takes, something happens from time to time.
                let has_changed = |job: &Value| {
                    job["progress"] != seen["progress"]
                        || (job["status"] == "suspended" && seen["status"] != "suspended")
                        || (job["status"] != "suspended" && seen["status"] == "suspended")
                };
                seen = self.alice.wait_for(job, "further", has_changed).await;
            }
        }
        resumed
    }

    /// What the tenant saw: each token presented by one at a time, and again only while nobody had
    /// got an answer. With `killed` processes, so many answers may have died with them. Returns how many
    /// sessions it ended.
    #[expect(clippy::cast_precision_loss, reason = "there are not that many refreshes")]
    fn assert_protocol(&self, killed: usize) -> usize {
        let presentations = self.app.refreshes();
        for (earlier, later) in presentations.iter().zip(presentations.iter().skip(1)) {
            let ended_at = earlier.ended_at.expect("a later one was begun");
            assert!(ended_at <= later.received_at, "two at once: {earlier:#?} {later:#?}");
        }
        let mut last = HashMap::<_, &TokenRequest>::new();
        let mut died_with_the_answer = 0;
        for presentation in &presentations {
            let token = presentation.refresh_token_hash.as_deref().unwrap();
            if let Some(before) = last.insert(token, presentation) {
                match before.status {
                    // No answer, and one that says that nothing was done.
                    None | Some(503) => {}
                    Some(200) => {
                        let pause =
                            presentation.received_at.saturating_sub(before.ended_at.unwrap());
                        assert!(pause >= LEASE_OF_THE_DEAD, "{before:#?} {presentation:#?}");
                        died_with_the_answer += 1;
                    }
                    Some(_) => panic!("a refused token again: {before:#?} {presentation:#?}"),
                }
            }
        }
        assert!(died_with_the_answer <= killed, "{died_with_the_answer} of {killed}");

        let count =
            |what: &dyn Fn(&&TokenRequest) -> bool| presentations.iter().filter(what).count();
        let refreshes = count(&|request| request.status == Some(200));
        let unanswered = count(&|request| request.status.is_none());
        let reuses = count(&|request| request.reuse);
        // By the token: the answer that refuses one may be lost, too.
        let refused = presentations.iter().filter(|request| request.error_code.is_some());
        let refused: HashSet<_> = refused.map(|request| &request.refresh_token_hash).collect();
        let lost_sessions = refused.len();
        let seconds = self.began.elapsed().as_secs_f64();
        eprintln!(
            "{:?}, {JOBS} jobs in {seconds:.1} s: {refreshes} refreshes by {} presentations, {unanswered} \
             of them unanswered, {reuses} of a replaced token; lost sessions: {lost_sessions}",
            self.database,
            presentations.len(),
        );
        // All the time, and yet one for fifty jobs: half the life of a token, less a delay, is between.
        assert!(refreshes >= ROUNDS / 2, "{refreshes}");
        assert!((refreshes as f64) < 2.0 + 2.0 * seconds, "{refreshes} in {seconds} s");
        // Presented again without need, a token would be no reuse but the end of the session.
        let mut refused = presentations.iter().filter(|request| request.error_code.is_some());
        assert!(refused.all(|request| request.reuse), "{presentations:#?}");
        lost_sessions
    }

    fn assert_all_calls_were_made(&self) {
        let calls = self.app.simulator.calls();
        let accepted = calls.iter().filter(|call| call.status == Some(200));
        let keys: HashSet<_> = accepted.map(|call| call.idempotency_key.clone()).collect();
        assert_eq!(keys.len(), JOBS * ROUNDS);
        assert!(calls.iter().all(|call| call.user.is_empty() || call.user == "alice"));
    }
}

/// A call, a pause, a call, ...
fn rounds(number: usize) -> Value {
    let tasks: Vec<Value> = (0..ROUNDS)
        .flat_map(|round| {
            let call = workflows::get(&format!("get{round}"), &format!("api/{number}/{round}"));
            [call, json!({ format!("pause{round}"): { "wait": { "seconds": 1 } } })]
        })
        .collect();
    workflows::document(&tasks.into())
}

async fn no_session_is_lost_where_lost_answers_are_expected(database: Database) {
    let mut race = Race::prepare(database, LEEWAY, 10).await;
    race.start_workers().await;
    assert_eq!(race.complete().await, 0, "nobody was missed");
    let lost_sessions = race.assert_protocol(0);
    assert_eq!((lost_sessions, race.app.exchanges().len()), (0, 1));
    race.assert_all_calls_were_made();
    race.app.finish().await;
}

async fn a_strict_provider_costs_a_session_only_by_an_answer_that_it_lost(database: Database) {
    let mut race = Race::prepare(database, Duration::ZERO, 8).await;
    race.start_workers().await;
    let resumed = race.complete().await;
    let lost_sessions = race.assert_protocol(0);
    // Every token that was refused had been replaced by an answer that nobody got.
    assert_eq!(lost_sessions, resumed);
    assert_eq!(race.app.exchanges().len(), 1 + resumed);
    race.assert_all_calls_were_made();
    race.app.finish().await;
}

async fn workers_that_die_while_they_refresh_cost_no_session(database: Database) {
    let mut race = Race::prepare(database, LEEWAY, 10).await;
    race.start_workers().await;
    // Any time, and then amid a presentation: whoever makes it dies too.
    eventually("some refreshes", || race.app.refreshes().len() >= 3).await;
    let mut killed = race.kill_workers().await;
    race.start_workers().await;
    let is_open =
        |race: &Race| race.app.refreshes().iter().any(|request| request.ended_at.is_none());
    eventually("a presentation", || is_open(&race)).await;
    killed += race.kill_workers().await;
    let before = race.app.refreshes().len();
    race.start_workers().await;
    eventually("another one, once the lease of the dead is over", || {
        race.app.refreshes().len() > before
    })
    .await;
    assert_eq!(race.complete().await, 0, "nobody was missed");
    let lost_sessions = race.assert_protocol(killed);
    assert_eq!((lost_sessions, race.app.exchanges().len()), (0, 1));
    race.assert_all_calls_were_made();
    race.app.finish().await;
}
