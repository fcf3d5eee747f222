//! Random commands, one after the other and two at once: after each the store shows what a small
//! model has. A failure is shrunk to the fewest commands that still fail.
//!
//! `PROPTEST_CASES=1000` makes more of them. One more command: a variant of [`Command`], its
//! [`Operation`], and what the model makes of it.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use super::{
    model::{Acting, Model, NextKind, Operation, Outcome, SESSIONS, Seen, Start, owner},
    *,
};

/// Walks, each on an empty database; every change of the store costs them time.
const CASES: u32 = 12;

/// Steps of a walk at most.
const STEPS: usize = 40;

/// Jobs of a walk at most: few, so that commands meet.
const JOBS: usize = 8;

/// A walk that takes longer is broken off: minutes are no whole ones any more, and what is due is not
/// what the model says.
const LONGEST: Duration = Duration::from_secs(25);

/// Tries to make a failure smaller.
const SHRINKS: usize = 200;

/// What somebody may want next, with numbers that stand for whatever there is by then.
#[derive(Debug, Clone)]
enum Command {
    Submit {
        session: usize,
        acting: u8,
    },
    Claim {
        worker: usize,
        limit: usize,
        minutes: i64,
    },
    Renew {
        worker: usize,
        minutes: i64,
    },
    /// `back`: 0 is the newest lease of all, greater ones are more and more stale.
    Record {
        back: usize,
        next: u8,
        minutes: i64,
    },
    Rescue,
    Release {
        worker: usize,
    },
    Interrupt {
        back: usize,
    },
    Hold {
        back: usize,
        minutes: i64,
    },
    ReplaceGrant {
        session: usize,
    },
    Stop {
        session: usize,
    },
    BeginRefresh {
        session: usize,
        stale: bool,
        minutes: i64,
    },
    FinishRefresh {
        back: usize,
        rotates: bool,
    },
    AbandonRefresh {
        back: usize,
        unanswered: bool,
    },
    EndGrant {
        session: usize,
        stale: bool,
        keeps: bool,
    },
    /// `back`: 0 is the newest job, greater ones are older.
    Cancel {
        back: usize,
        foreign: bool,
    },
    Retry {
        back: usize,
        foreign: bool,
    },
    Delete {
        back: usize,
        foreign: bool,
    },
    Pass {
        minutes: i64,
    },
}

fn command() -> impl Strategy<Value = Command> {
    let session = || 0..SESSIONS;
    let worker = || 0..2_usize;
    let back = || prop_oneof![4 => 0..2_usize, 1 => 0..12_usize];
    let minutes = || 0..4_i64;
    let job = || 0..JOBS;
    let foreign = || prop::bool::weighted(0.1);
    prop_oneof![
        6 => (session(), 0..4_u8).prop_map(|(session, acting)| Command::Submit { session, acting }),
        8 => (worker(), 1..4_usize, minutes())
            .prop_map(|(worker, limit, minutes)| Command::Claim { worker, limit, minutes }),
        3 => (worker(), minutes()).prop_map(|(worker, minutes)| Command::Renew { worker, minutes }),
        10 => (back(), 0..7_u8, minutes())
            .prop_map(|(back, next, minutes)| Command::Record { back, next, minutes }),
        3 => Just(Command::Rescue),
        1 => worker().prop_map(|worker| Command::Release { worker }),
        2 => back().prop_map(|back| Command::Interrupt { back }),
        1 => (back(), minutes()).prop_map(|(back, minutes)| Command::Hold { back, minutes }),
        3 => session().prop_map(|session| Command::ReplaceGrant { session }),
        2 => session().prop_map(|session| Command::Stop { session }),
        3 => (session(), prop::bool::weighted(0.2), minutes()).prop_map(
            |(session, stale, minutes)| Command::BeginRefresh { session, stale, minutes }
        ),
        3 => (back(), any::<bool>())
            .prop_map(|(back, rotates)| Command::FinishRefresh { back, rotates }),
        1 => (back(), any::<bool>())
            .prop_map(|(back, unanswered)| Command::AbandonRefresh { back, unanswered }),
        1 => (session(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(session, stale, keeps)| Command::EndGrant { session, stale, keeps }),
        2 => (job(), foreign()).prop_map(|(back, foreign)| Command::Cancel { back, foreign }),
        2 => (job(), foreign()).prop_map(|(back, foreign)| Command::Retry { back, foreign }),
        1 => (job(), foreign()).prop_map(|(back, foreign)| Command::Delete { back, foreign }),
        3 => minutes().prop_map(|minutes| Command::Pass { minutes }),
    ]
}

/// The store, all that clients have been told, and every model that explains it.
struct Walk<'a> {
    store: &'a TestStore,
    rows: &'a Rows,
    models: Vec<Model>,
    workers: [Uuid; 2],
    jobs: Vec<(Uuid, usize)>,
    leases: Vec<Lease>,
    sessions: [Vec<(Uuid, HeldVersions)>; SESSIONS],
    starts: Vec<Start>,
    /// Makes each token, state and result another one.
    number: u32,
    began: std::time::Instant,
}

/// The fences of a session at some time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct HeldVersions {
    session: i64,
    grant: i64,
}

impl<'a> Walk<'a> {
    async fn begin(store: &'a TestStore, rows: &'a Rows) -> Self {
        for table in ["jobs", "sessions"] {
            rows.execute(&format!("delete from {table}")).await;
        }
        Self {
            store,
            rows,
            models: vec![Model::new()],
            workers: [Uuid::now_v7(), Uuid::now_v7()],
            jobs: Vec::new(),
            leases: Vec::new(),
            sessions: [const { Vec::new() }; SESSIONS],
            starts: Vec::new(),
            number: 0,
            began: std::time::Instant::now(),
        }
    }

    fn is_too_long(&self) -> bool {
        self.began.elapsed() > LONGEST
    }

    /// Does one thing.
    async fn step(&mut self, command: &Command) -> Result<(), String> {
        let Some(operation) = self.resolve(command) else { return Ok(()) };
        self.forget_interruptions().await;
        let outcome = self.execute(&operation).await?;
        self.explain(&[(&operation, &outcome)]).await
    }

    /// Does two things at once: what they come to is what they would one after the other, in one of
    /// the two orders.
    async fn step_both(&mut self, commands: [&Command; 2], head_start: u64) -> Result<(), String> {
        let (first, second) = (self.resolve(commands[0]), self.resolve(commands[1]));
        let (Some(first), Some(second)) = (first, second) else { return Ok(()) };
        self.forget_interruptions().await;
        let (walk, head_start) = (&*self, Duration::from_micros(head_start));
        let later = async {
            tokio::time::sleep(head_start).await;
            walk.execute(&second).await
        };
        let (first_outcome, second_outcome) = futures::join!(walk.execute(&first), later);
        let done = [(&first, &first_outcome?), (&second, &second_outcome?)];
        self.explain(&done).await.map_err(|why| format!("{why}\nafter {done:#?}"))
    }

    /// The model has every interrupted job due at once, as it is the first time.
    async fn forget_interruptions(&self) {
        self.rows.execute("update jobs set interruptions = 0 where interruptions > 0").await;
    }

    /// The command with what there is by now; none if there is nothing of the kind.
    fn resolve(&mut self, command: &Command) -> Option<Operation> {
        self.number += 1;
        let number = self.number;
        let lease = |back: usize| {
            let index = self.leases.len().checked_sub(1 + back)?;
            Some(self.leases[index].clone())
        };
        let start = |back: usize| {
            let index = self.starts.len().checked_sub(1 + back)?;
            Some(self.starts[index].clone())
        };
        let version = |session: usize, stale: bool| {
            let history = &self.sessions[session];
            let index = history.len().checked_sub(1 + usize::from(stale))?;
            Some(history[index])
        };
        Some(match *command {
            Command::Submit { .. } if self.jobs.len() >= JOBS => return None,
            Command::Submit { session, acting } => {
                let acting = match (acting, version(session, false)) {
                    (0, _) => Acting::Alone,
                    (1 | 2, Some((id, _))) => Acting::Known { session, id },
                    _ => Acting::New { session, number },
                };
                Operation::Submit { user: session % 2, acting }
            }
            Command::Claim { worker, limit, minutes } => {
                Operation::Claim { worker: self.workers[worker], limit, minutes }
            }
            Command::Renew { worker, minutes } => {
                let jobs = self.jobs.iter().map(|(id, _)| *id).collect();
                Operation::Renew { worker: self.workers[worker], jobs, minutes }
            }
            Command::Record { back, next, minutes } => {
                let lease = lease(back)?;
                let next = match next {
                    0 | 1 => NextKind::Continue,
                    2 => NextKind::Wait { minutes },
                    3 | 4 => self.suspension_of(&lease, next == 4),
                    5 => NextKind::Complete,
                    _ => NextKind::Fault,
                };
                Operation::Record { lease, number, next }
            }
            Command::Rescue => Operation::Rescue,
            Command::Release { worker } => Operation::Release { worker: self.workers[worker] },
            Command::Interrupt { back } => Operation::Interrupt { lease: lease(back)? },
            Command::Hold { back, minutes } => Operation::Hold { lease: lease(back)?, minutes },
            Command::ReplaceGrant { session } => Operation::ReplaceGrant { session, number },
            Command::Stop { session } => Operation::Stop { session },
            Command::BeginRefresh { session, stale, minutes } => {
                let (id, versions) = version(session, stale)?;
                Operation::BeginRefresh { session, id, version: versions.grant, minutes }
            }
            Command::FinishRefresh { back, rotates } => {
                Operation::FinishRefresh { start: start(back)?, number, rotates }
            }
            Command::AbandonRefresh { back, unanswered } => {
                Operation::AbandonRefresh { start: start(back)?, unanswered }
            }
            Command::EndGrant { session, stale, keeps } => {
                let (id, versions) = version(session, stale)?;
                Operation::EndGrant { session, id, version: versions.grant, keeps }
            }
            Command::Cancel { back, foreign } => {
                let (id, user) = self.job_of(back, foreign)?;
                Operation::Cancel { id, user }
            }
            Command::Retry { back, foreign } => {
                let (id, user) = self.job_of(back, foreign)?;
                Operation::Retry { id, user }
            }
            Command::Delete { back, foreign } => {
                let (id, user) = self.job_of(back, foreign)?;
                Operation::Delete { id, user }
            }
            Command::Pass { minutes } => Operation::Pass { minutes },
        })
    }

    /// A job, and its user or the other one.
    fn job_of(&self, back: usize, foreign: bool) -> Option<(Uuid, usize)> {
        let index = self.jobs.len().checked_sub(1 + back)?;
        let (id, user) = self.jobs[index];
        Some((id, if foreign { 1 - user } else { user }))
    }

    /// For the session's version as it is, or as it was before; that of another session for a job
    /// without one, which then is not suspended.
    fn suspension_of(&self, lease: &Lease, stale: bool) -> NextKind {
        let session = self.models[0].session_of(lease.job_id).unwrap_or_default();
        let history = &self.sessions[session];
        let index = history.len().checked_sub(1 + usize::from(stale));
        let version = index.map_or(0, |index| history[index].1.session);
        NextKind::Suspend { version }
    }

    async fn execute(&self, operation: &Operation) -> Result<Outcome, String> {
        let outcome = self.try_to_execute(operation).await;
        outcome.map_err(|error| format!("{operation:?}: {}", crate::telemetry::chain(&error)))
    }

    async fn try_to_execute(&self, operation: &Operation) -> Result<Outcome, StoreError> {
        let store = self.store;
        Ok(match operation {
            Operation::Submit { user, acting } => {
                let grant = match acting {
                    Acting::New { session, number } => Some(grant_of(*session, *number)),
                    _ => None,
                };
                let grant = match acting {
                    Acting::Alone => None,
                    Acting::Known { id, .. } => Some(Grant::Known(*id)),
                    Acting::New { .. } => grant.as_ref().map(Grant::New),
                };
                let (id, submitted) = store.try_submit(&owner(*user), grant, None).await;
                let refused = matches!(submitted, Submitted::SessionChanged);
                Outcome::Submitted((!refused).then_some(id))
            }
            Operation::Claim { worker, limit, minutes } => {
                store.wake_due().await?;
                let claimed = store.claim(*worker, *limit, length(*minutes)).await?;
                let claimed = claimed.into_iter().map(|job| (job.lease, job.checkpoint));
                Outcome::Claimed(claimed.collect())
            }
            Operation::Renew { worker, jobs, minutes } => {
                Outcome::Renewed(store.renew(*worker, jobs, length(*minutes)).await?)
            }
            Operation::Record { lease, number, next } => {
                let record = record_of(*number, next);
                match store.record_one(lease, &record).await {
                    Err(StoreError::LeaseLost) => Outcome::Written(false),
                    written => written.map(|()| Outcome::Written(true))?,
                }
            }
            Operation::Rescue => Outcome::Count(store.rescue().await?),
            Operation::Release { worker } => Outcome::Count(store.release(*worker).await?),
            Operation::Interrupt { lease } => {
                store.interrupt(lease).await?;
                Outcome::Done
            }
            Operation::Hold { lease, minutes } => {
                store.hold(lease, length(*minutes)).await?;
                Outcome::Done
            }
            Operation::ReplaceGrant { session, number } => {
                let grant = grant_of(*session, *number);
                store.replace_grant(&owner(session % 2), &grant).await?;
                Outcome::Done
            }
            Operation::Stop { session } => {
                let key = key_of(*session);
                let tokens = store.stop_session(&owner(session % 2), CLIENT, &key).await?;
                let expose = |token: &RefreshToken| token.expose().to_owned();
                Outcome::Stopped(tokens.map(|tokens| tokens.iter().map(expose).collect()))
            }
            Operation::BeginRefresh { session, id, version, minutes } => {
                let owner = owner(session % 2);
                let begun =
                    store.begin_refresh(*id, "", &owner, *version, length(*minutes)).await?;
                Outcome::Begun(begun.map(|RefreshStart { refresher, refresh_token }| {
                    let start = Start { session: *session, id: *id, version: *version, refresher };
                    (start, refresh_token.expose().to_owned())
                }))
            }
            Operation::FinishRefresh { start, number, rotates } => {
                let token = access_token(&format!("fresh-{number}"));
                let rotated = rotates.then(|| RefreshToken::new(format!("rotated-{number}")));
                let (owner, version) = (owner(start.session % 2), start.version);
                let rotated = rotated.as_ref();
                let finish = store.finish_refresh(start.id, "", &owner, version, &token, rotated);
                Outcome::Written(finish.await?)
            }
            Operation::AbandonRefresh { start, unanswered } => {
                let abandoned = Abandoned {
                    unanswered: *unanswered,
                    refused_at: None,
                    looped: false,
                    not_before: None,
                };
                let Start { id, version, refresher, .. } = start;
                store.abandon_refresh(*id, "", *version, *refresher, abandoned).await?;
                Outcome::Done
            }
            Operation::EndGrant { id, version, keeps, .. } => {
                Outcome::Written(store.end_grant(*id, "", *version, *keeps).await?)
            }
            Operation::Cancel { id, user } => {
                Outcome::Changed(store.cancel(*id, &owner(*user)).await?)
            }
            Operation::Retry { id, user } => {
                Outcome::Changed(store.retry(*id, &owner(*user)).await?)
            }
            Operation::Delete { id, user } => {
                Outcome::Changed(store.delete(*id, &owner(*user)).await?)
            }
            Operation::Pass { minutes } => {
                self.rows.pass(*minutes).await;
                Outcome::Done
            }
        })
    }

    /// Keeps the models that explain what was done, in whatever order, and what there is now.
    async fn explain(&mut self, done: &[(&Operation, &Outcome)]) -> Result<(), String> {
        for (_, outcome) in done {
            match outcome {
                Outcome::Claimed(claimed) => {
                    self.leases.extend(claimed.iter().map(|(lease, _)| lease.clone()));
                }
                Outcome::Begun(begun) => {
                    self.starts.extend(begun.iter().map(|(start, _)| start.clone()));
                }
                _ => {}
            }
        }
        let backwards: Vec<_> = done.iter().rev().copied().collect();
        let orders = if done.len() > 1 { vec![done, &backwards] } else { vec![done] };
        let (mut explaining, mut whys) = (Vec::new(), Vec::new());
        for model in &self.models {
            for order in &orders {
                let mut model = model.clone();
                let followed = order.iter().try_for_each(|(operation, outcome)| {
                    model.follow(operation, outcome, done.len() > 1)
                });
                match followed {
                    Ok(()) if !explaining.contains(&model) => explaining.push(model),
                    Ok(()) => {}
                    Err(why) => whys.push(why),
                }
            }
        }
        let Some(first) = explaining.first() else { return Err(whys.join("\n")) };
        self.jobs = first.jobs.iter().map(|job| (job.id, job.user)).collect();
        let seen = self.look().await;
        explaining.retain_mut(|model| match model.compare(&seen) {
            Ok(()) => true,
            Err(why) => {
                whys.push(why);
                false
            }
        });
        if explaining.is_empty() {
            return Err(whys.join("\n"));
        }
        self.models = explaining;
        Ok(())
    }

    /// All that the store shows.
    async fn look(&mut self) -> Seen {
        let store = self.store;
        let mut jobs = Vec::new();
        for (id, user) in &self.jobs {
            let told =
                store.events(*id, &owner(*user), crate::jobs::EventPosition::default()).await;
            let of_session = BTreeSet::from(["exchanged", "refreshed", "stopped"]);
            let kinds = told.unwrap().into_iter().map(|event| event.kind);
            let kinds = kinds.filter(|kind| !of_session.contains(kind.as_str()));
            jobs.push((store.get(*id, &owner(*user)).await, kinds.collect()));
        }
        let mut sessions = Vec::new();
        for (session, history) in self.sessions.iter_mut().enumerate() {
            let (owner, key) = (owner(session % 2), key_of(session));
            let selector = SessionSelector::Key(&key);
            let found = store.find_session(&owner, CLIENT, selector).await.unwrap();
            let Some(KnownSession { id, .. }) = found else {
                sessions.push(None);
                continue;
            };
            let held = store.grant(id, &owner).await;
            let versions = HeldVersions { session: held.session_version, grant: held.version };
            if history.last().is_none_or(|(_, before)| *before != versions) {
                history.push((id, versions));
            }
            sessions.push(Some(held));
        }
        Seen { jobs, sessions, next_due: store.wake_due().await.unwrap() }
    }
}

/// Both users have both keys.
fn key_of(session: usize) -> String {
    format!("key-{}", session / 2)
}

fn grant_of(session: usize, number: u32) -> NewGrant {
    let [hash, ..] = number.to_le_bytes();
    let tokens = NewTokens {
        api: String::new(),
        refresh_token: Some(RefreshToken::new(format!("refresh-{number}"))),
        access_token: access_token(&format!("access-{number}")),
    };
    NewGrant { tokens: vec![tokens], ..new_grant(Some(&key_of(session)), hash) }
}

fn record_of(number: u32, next: &NextKind) -> Record {
    let next = match *next {
        NextKind::Continue => Next::Continue,
        NextKind::Wait { minutes } => Next::Wait {
            due_at: crate::time::Clock::now(&crate::time::SystemClock) + length(minutes),
        },
        NextKind::Suspend { version } => {
            Next::Suspend { suspension: suspension(), session_version: version }
        }
        NextKind::Complete => Next::Complete(json!(number)),
        NextKind::Fault => Next::Fault(json!({ "status": number })),
    };
    let checkpoint = number.to_le_bytes().to_vec();
    Record { checkpoint, attempts: number, ..record(next) }
}

fn length(minutes: i64) -> Duration {
    MINUTE * u32::try_from(minutes).unwrap()
}

/// The rows themselves, for what no operation of a store does.
pub(super) enum Rows {
    Sqlite(sqlx::SqlitePool),
    Postgres(sqlx::PgPool),
}

impl Rows {
    pub(super) async fn of(store: &TestStore) -> Self {
        let url = store.database.url.expose_secret();
        if url.starts_with("sqlite:") {
            Self::Sqlite(sqlx::SqlitePool::connect(url).await.unwrap())
        } else {
            Self::Postgres(sqlx::PgPool::connect(url).await.unwrap())
        }
    }

    pub(super) async fn execute(&self, statement: &str) {
        let query = sqlx::AssertSqlSafe(statement.to_owned());
        match self {
            Self::Sqlite(pool) => {
                sqlx::query(query).execute(pool).await.unwrap();
            }
            Self::Postgres(pool) => {
                sqlx::query(query).execute(pool).await.unwrap();
            }
        }
    }

    /// Time passes for leases, timers, deadlines, and for what has come to its end.
    pub(super) async fn pass(&self, minutes: i64) {
        let length = match self {
            Self::Sqlite(_) => format!("{}", minutes * 60_000_000),
            Self::Postgres(_) => format!("interval '{minutes} minutes'"),
        };
        for (table, columns) in [
            (
                "jobs",
                ["lease_until", "due_at", "deadline_at", "created_at", "retried_at", "finished_at"]
                    .as_slice(),
            ),
            ("sessions", &["refreshed_at"]),
            ("session_events", &["at"]),
            ("grants", &["refresh_until"]),
        ] {
            let changes: Vec<_> =
                columns.iter().map(|column| format!("{column} = {column} - {length}")).collect();
            self.execute(&format!("update {table} set {}", changes.join(", "))).await;
        }
    }
}

/// Runs `walk` over random values; the smallest that fails is told.
async fn check<S: Strategy>(
    values: S,
    cases: u32,
    walk: impl AsyncFn(&S::Value) -> Result<(), String>,
) {
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { cases };
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for _ in 0..cases {
        let mut tree = values.new_tree(&mut runner).unwrap();
        let Err(mut why) = walk(&tree.current()).await else { continue };
        let (mut smallest, mut fails) = (tree.current(), true);
        for _ in 0..SHRINKS {
            if !(if fails { tree.simplify() } else { tree.complicate() }) {
                break;
            }
            let current = tree.current();
            fails = match walk(&current).await {
                Ok(()) => false,
                Err(smaller) => {
                    (smallest, why) = (current, smaller);
                    true
                }
            };
        }
        panic!("{why}\n{smallest:#?}");
    }
}

pub(super) async fn any_commands_come_to_what_a_small_model_says(store: TestStore) {
    let rows = Rows::of(&store).await;
    check(prop::collection::vec(command(), 1..STEPS), CASES, async |commands| {
        let mut walk = Walk::begin(&store, &rows).await;
        for command in commands {
            if walk.is_too_long() {
                break;
            }
            walk.step(command).await?;
        }
        Ok(())
    })
    .await;
}

pub(super) async fn two_at_once_come_to_what_they_do_one_after_the_other(store: TestStore) {
    let rows = Rows::of(&store).await;
    // A clock is moved by one alone: whole rows are, and not at one moment.
    let pair = (command(), command(), prop_oneof![Just(0_u64), 0..2_000_u64]).prop_filter(
        "the clock",
        |(first, second, _)| {
            !matches!((first, second), (Command::Pass { .. }, _) | (_, Command::Pass { .. }))
        },
    );
    let steps = prop::collection::vec((prop::collection::vec(command(), 0..3), pair), 1..STEPS);
    check(steps, CASES, async |steps| {
        let mut walk = Walk::begin(&store, &rows).await;
        for (before, (first, second, head_start)) in steps {
            if walk.is_too_long() {
                break;
            }
            for command in before {
                walk.step(command).await?;
            }
            walk.step_both([first, second], *head_start).await?;
        }
        Ok(())
    })
    .await;
}
