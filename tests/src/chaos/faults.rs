//! What goes wrong, at random.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use errand_simulator::Reply;
use fastrand::Rng;
use sqlx::{Connection, PgConnection};
use tokio::{process::Command, time::Instant};

use super::{Stage, fleet::Fleet, plan::LEASE_SECONDS};

/// Between two looks at the processes.
const TICK: Duration = Duration::from_millis(100);

/// What happens, with its name in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillWorker,
    StopWorker,
    PauseWorker,
    KillApi,
    EndConnections,
    ProviderDown,
    ConsentMissing,
    RefuseConnections,
    LockJobs,
    RestartDatabase,
}

impl Fault {
    const ALL: [(Self, &str); 10] = [
        (Self::KillWorker, "kill -9 of a worker"),
        (Self::StopWorker, "SIGTERM to a worker"),
        (Self::PauseWorker, "SIGSTOP of a worker past its leases"),
        (Self::KillApi, "kill -9 of an API"),
        (Self::EndConnections, "pg_terminate_backend of all"),
        (Self::ProviderDown, "identity provider down"),
        (Self::ConsentMissing, "consent taken back"),
        (Self::RefuseConnections, "all connections ended and no other to be had"),
        (Self::LockJobs, "all connections of the pools stuck at a lock"),
        (Self::RestartDatabase, "PostgreSQL stopped at once and started"),
    ];

    fn needs_the_server(self) -> bool {
        self == Self::RestartDatabase
    }
}

/// What a fault that lasts ends with.
enum End {
    GoOn(usize),
    StartDatabase,
    ProviderUp,
    AllowConnections,
    Unlock(PgConnection),
}

/// Lets things go wrong for as long as planned, and keeps the processes up until all jobs are
/// submitted; returns what went wrong, and how often.
pub(crate) async fn storm(
    stage: &Stage,
    fleet: &mut Fleet,
    submitted: &AtomicBool,
) -> BTreeMap<&'static str, u32> {
    let mut random = stage.plan.random("faults");
    let (mut ends, mut counts) = (Vec::<(Instant, End)>::new(), BTreeMap::new());
    let until = Instant::now() + stage.plan.length;
    let mut next = Instant::now() + stage.plan.pause();
    // Each of them once in turn, so that a short run leaves none out.
    let mut turns = Vec::new();
    loop {
        fleet.keep_up(&stage.app);
        let now = Instant::now();
        finish(stage, fleet, &mut ends, (now < until).then_some(now)).await;
        if now >= until && submitted.load(Ordering::Relaxed) {
            return counts;
        }
        if now >= next && now < until {
            if turns.is_empty() {
                turns = possible(stage);
                random.shuffle(&mut turns);
            }
            let (fault, name) = turns.pop().expect("some are always possible");
            *counts.entry(name).or_default() += 1;
            strike(stage, fleet, fault, &mut random, &mut ends).await;
            next = Instant::now() + stage.plan.pause().mul_f64(0.3 + 1.4 * random.f64());
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Nothing goes wrong any more; returns how many jobs are unfinished once none should be.
pub(crate) async fn calm(stage: &Stage, fleet: &mut Fleet) -> i64 {
    let finished = stage.journal.wait_until_finished(stage.plan.patience());
    tokio::pin!(finished);
    loop {
        tokio::select! {
            unfinished = &mut finished => return unfinished,
            () = tokio::time::sleep(TICK) => fleet.keep_up(&stage.app),
        }
    }
}

/// Faults that this run does not know, and why.
pub(crate) fn left_out(has_server: bool) -> Vec<&'static str> {
    let left_out = Fault::ALL.iter().filter(|(fault, _)| fault.needs_the_server() && !has_server);
    left_out.map(|(_, name)| *name).collect()
}

fn possible(stage: &Stage) -> Vec<(Fault, &'static str)> {
    let has_server = stage.plan.pg_ctl.is_some();
    let possible = Fault::ALL.into_iter();
    possible.filter(|(fault, _)| has_server || !fault.needs_the_server()).collect()
}

async fn strike(
    stage: &Stage,
    fleet: &mut Fleet,
    fault: Fault,
    random: &mut Rng,
    ends: &mut Vec<(Instant, End)>,
) {
    let worker = random.usize(..fleet.workers.len());
    let mut soon = |most: u64| Duration::from_millis(random.u64(200..most));
    let lasting = match fault {
        Fault::KillWorker => {
            fleet.workers[worker].kill(soon(3_000)).await;
            None
        }
        Fault::StopWorker => {
            // A paused one would hear of it too late to tell the two faults apart.
            if !fleet.workers[worker].is_paused {
                fleet.stop_worker(worker).await;
            }
            None
        }
        Fault::PauseWorker => {
            fleet.workers[worker].pause(true).await;
            let past_its_leases = Duration::from_secs(LEASE_SECONDS.into()).mul_f64(1.1);
            Some((past_its_leases + soon(3_000), End::GoOn(worker)))
        }
        Fault::KillApi => {
            let api = worker % fleet.apis.len();
            fleet.apis[api].kill(soon(1_000)).await;
            None
        }
        Fault::EndConnections => {
            end_connections(stage).await;
            None
        }
        Fault::ProviderDown => {
            stage.app.simulator.set_unreachable(true);
            Some((soon(4_000), End::ProviderUp))
        }
        Fault::ConsentMissing => {
            let refusal = stage.app.simulator.entra_error(65001);
            stage.app.simulator.script_token_answer(Reply::Answer(refusal));
            None
        }
        // Who is there is away for everybody else.
        Fault::RefuseConnections | Fault::LockJobs | Fault::RestartDatabase
            if ends.iter().any(|(_, end)| end.is_of_the_database()) =>
        {
            None
        }
        Fault::RefuseConnections => {
            stage.app.database.allow_connections(false).await;
            end_connections(stage).await;
            Some((soon(4_000), End::AllowConnections))
        }
        Fault::LockJobs => {
            let locked = lock_jobs(stage).await;
            locked.map(|connection| (soon(8_000), End::Unlock(connection)))
        }
        Fault::RestartDatabase => {
            pg_ctl(stage, "stop --mode=immediate").await;
            Some((soon(2_500), End::StartDatabase))
        }
    };
    ends.extend(lasting.map(|(length, end)| (Instant::now() + length, end)));
}

impl End {
    fn is_of_the_database(&self) -> bool {
        matches!(self, Self::StartDatabase | Self::AllowConnections | Self::Unlock(_))
    }
}

/// Ends what has lasted until `now`, or everything.
async fn finish(
    stage: &Stage,
    fleet: &mut Fleet,
    ends: &mut Vec<(Instant, End)>,
    now: Option<Instant>,
) {
    let due: Vec<_> = ends
        .extract_if(.., |(at, _)| now.is_none_or(|now| *at <= now))
        .map(|(_, end)| end)
        .collect();
    for end in due {
        match end {
            End::GoOn(worker) if fleet.workers[worker].is_paused => {
                fleet.workers[worker].pause(false).await;
            }
            // It was killed meanwhile.
            End::GoOn(_) => {}
            End::StartDatabase => pg_ctl(stage, "start --wait").await,
            End::ProviderUp => stage.app.simulator.set_unreachable(false),
            End::AllowConnections => stage.app.database.allow_connections(true).await,
            // Its transaction ends with it; gone by itself is as good.
            End::Unlock(connection) => drop(connection.close().await),
        }
    }
}

/// Somebody who holds what every statement needs. None if the database is away.
async fn lock_jobs(stage: &Stage) -> Option<PgConnection> {
    let mut connection = PgConnection::connect(&stage.app.database.url).await.ok()?;
    let lock = "set lock_timeout = '2s'; begin; lock table jobs in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut connection).await.ok()?;
    Some(connection)
}

async fn end_connections(stage: &Stage) {
    // The server may be away.
    let _ = stage.app.database.terminate_backends().await;
}

/// Runs `pg_ctl` on the run's own server.
pub(crate) async fn pg_ctl(stage: &Stage, action: &str) {
    let pg_ctl = stage.plan.pg_ctl.as_ref().expect("asked for only where there is one");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{pg_ctl} {action}")]);
    // The server would keep them open.
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    let status = command.status().await.expect("there is a shell");
    assert!(status.success(), "`{pg_ctl} {action}` failed");
}
