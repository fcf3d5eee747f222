//! L1 to L5: one fault at a time, after the storm, each met by jobs that are made for it. L6: what all
//! workers do without any, before the storm and after it.

use std::time::Duration;

use errand_shared::time::{Clock, SystemClock, Timestamp};
use fastrand::Rng;
use futures::{StreamExt, future::join_all, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Stage,
    downstream::KEYED,
    faults::pg_ctl,
    fleet::{CONCURRENCY, Fleet},
    journal::Argument,
    plan::LEASE_SECONDS,
    report::Line,
};
use crate::workflows;

/// Jobs of one measurement, more than the workers left can take at once never.
const JOBS: usize = 40;

/// Jobs for each place, for the throughput, and how often it is taken.
const ROUNDS: usize = 10;
const TIMES: usize = 3;

/// `POST /v1/jobs/batch` takes no more.
const BATCH: usize = 1_000;

/// How long PostgreSQL is away.
const DOWN: Duration = Duration::from_secs(2);

/// After this nothing comes any more.
const PATIENCE: Duration = Duration::from_mins(1);

const WHAT: [(&str, &str); 7] = [
    ("L1", "kill -9 of a worker: its jobs run elsewhere after"),
    ("L2", "SIGTERM to a worker: its jobs run elsewhere after"),
    ("L3", "PostgreSQL back after 2 s: claims go on after"),
    ("L4", "a due timer fires late by, p99"),
    ("L5", "resume: every suspended job of the session runs after"),
    ("L6", "throughput after, in relation to before"),
    ("-", "the same where the processor decides, not the places"),
];

/// Jobs per second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throughput {
    /// Each calls an API that takes its time: what the places of all workers come to.
    slow: f64,
    /// The API answers at once: what the machine comes to, which changes from minute to minute.
    quick: f64,
}

/// None in a short run.
pub(crate) async fn throughput(stage: &Stage, fleet: &mut Fleet) -> Option<Throughput> {
    if !stage.plan.measures {
        return None;
    }
    all_processes(stage, fleet).await;
    // Thrown away: connections are made in it.
    rate(stage, "get").await;
    let (mut slow, mut quick) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        slow.push(rate(stage, "slow").await);
        quick.push(rate(stage, "get").await);
    }
    Some(Throughput { slow: median(slow), quick: median(quick) })
}

/// From the first claim to the last end; 0 if a job did not complete.
async fn rate(stage: &Stage, task: &str) -> f64 {
    let jobs = stage.plan.workers * CONCURRENCY * ROUNDS;
    let job = json!({
        "definition": workflows::document(&json!([call(task, 0, "get")])),
        "session_key": "measured",
    });
    let jobs = vec![job; jobs];
    let began = SystemClock.now();
    let batches = jobs.chunks(BATCH).map(async |jobs| {
        let (client, simulator) = (&stage.client, &stage.app.simulator);
        let (body, key) = (json!({ "jobs": jobs }), Uuid::new_v4().to_string());
        let (path, body) = ("/v1/jobs/batch", Some((&body, key.as_str())));
        let answer = client.insist(simulator, "measurer", Method::POST, path, body).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    });
    join_all(batches).await;
    stage.journal.wait_until_finished(PATIENCE * 10).await;
    let ended: Vec<(i64, f64)> = stage
        .journal
        .rows(
            "select count(*) filter (where after = 'completed'),
                    cast(extract(epoch from max(at) - min(at)) as double precision)
             from chaos_journal where at > $1",
            &[Argument::Time(began)],
        )
        .await;
    let (completed, seconds) = ended[0];
    if usize::try_from(completed) != Ok(jobs.len()) {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands of jobs")]
    let rate = completed as f64 / seconds;
    rate
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// All of [`WHAT`], or that it was not measured.
pub(crate) async fn all(stage: &Stage, fleet: &mut Fleet, before: Option<Throughput>) -> Vec<Line> {
    let Some(before) = before else {
        let why = "a short run";
        return WHAT.map(|(name, what)| Line::not_measured(name, what, why)).to_vec();
    };
    let after = throughput(stage, fleet).await.expect("as before");
    let mut lines = vec![
        after_kill(stage, fleet).await,
        after_stop(stage, fleet).await,
        after_restart(stage, fleet).await,
        timers(stage).await,
        after_resume(stage).await,
    ];
    let figure = |before: f64, after: f64| {
        format!("{after:.1} of {before:.1} jobs/s, {:.1} %", after / before * 100.0)
    };
    let slow = figure(before.slow, after.slow);
    let is_good = after.slow >= 0.98 * before.slow;
    lines.push(Line::measured(WHAT[5].0, WHAT[5].1, slow, ">= 98 %", is_good));
    lines.push(Line::noted(WHAT[6].0, WHAT[6].1, figure(before.quick, after.quick)));
    lines
}

fn within(at: usize, length: Duration, bound: Duration) -> Line {
    let (name, what) = WHAT[at];
    let figure = format!("{:.2} s", length.as_secs_f64());
    Line::measured(name, what, figure, &format!("<= {} s", bound.as_secs()), length <= bound)
}

/// The promise is 15 s for a lease of 10.
async fn after_kill(stage: &Stage, fleet: &mut Fleet) -> Line {
    submit(stage, "kill", JOBS, |number| json!([call("slow", number, "get")])).await;
    let worker = busy_worker(stage, fleet).await;
    let id = fleet.workers[worker].worker_id().expect("it holds leases");
    let killed = SystemClock.now();
    fleet.workers[worker].kill(PATIENCE).await;
    let length = stage.journal.wait_until_taken(&held(stage, id).await, killed, PATIENCE).await;
    fleet.workers[worker].kill(Duration::ZERO).await;
    finish(stage, fleet).await;
    within(0, length, Duration::from_secs(u64::from(LEASE_SECONDS) * 15 / 10))
}

async fn after_stop(stage: &Stage, fleet: &mut Fleet) -> Line {
    submit(stage, "stop", JOBS, |number| json!([call("slow", number, "get")])).await;
    let worker = busy_worker(stage, fleet).await;
    let id = fleet.workers[worker].worker_id().expect("it holds leases");
    let jobs = held(stage, id).await;
    let stopped = SystemClock.now();
    fleet.stop_worker(worker).await;
    let length = stage.journal.wait_until_taken(&jobs, stopped, PATIENCE).await;
    finish(stage, fleet).await;
    within(1, length, Duration::from_secs(2))
}

/// Timers all the time, so that there is something to claim at any moment.
async fn after_restart(stage: &Stage, fleet: &mut Fleet) -> Line {
    let (name, what) = WHAT[2];
    if stage.plan.pg_ctl.is_none() {
        return Line::not_measured(name, what, "not its own server");
    }
    submit(stage, "restart", JOBS, |_| {
        let wait =
            |index: u32| json!({ format!("wait{index}"): { "wait": { "milliseconds": 500 } } });
        (0..24).map(wait).collect()
    })
    .await;
    pg_ctl(stage, "stop --mode=immediate").await;
    tokio::time::sleep(DOWN).await;
    pg_ctl(stage, "start --wait").await;
    let back = SystemClock.now();
    let length = loop {
        let claimed: Vec<(chrono::DateTime<chrono::Utc>,)> = stage
            .journal
            .rows(
                "select at from chaos_journal where at > $1 and after = 'running' order by at limit 1",
                &[Argument::Time(back)],
            )
            .await;
        if let Some((at,)) = claimed.first() {
            break Timestamp::from(*at).since(back);
        }
        if SystemClock.now().since(back) > PATIENCE {
            break PATIENCE;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let all_run = fleet.all_run();
    finish(stage, fleet).await;
    let line = within(2, length, Duration::from_secs(5));
    if all_run {
        return line;
    }
    let figure = format!("{}, and a process ended", line.figure);
    Line::measured(name, what, figure, &line.bound, false)
}

/// Lateness of timers by PostgreSQL's clock, beside rows that are due tomorrow.
async fn timers(stage: &Stage) -> Line {
    fill(stage).await;
    let began = SystemClock.now();
    let mut random = stage.plan.random("timers");
    submit(stage, "timers", 300, |_| {
        let wait = |random: &mut Rng| json!({ "milliseconds": random.u64(1_000..4_000) });
        json!([
            { "first": { "wait": wait(&mut random) } },
            { "second": { "wait": wait(&mut random) } },
        ])
    })
    .await;
    stage.journal.wait_until_finished(PATIENCE).await;
    let late = stage
        .journal
        .number(
            "select cast(1000000 * percentile_disc(0.99) within group (
                        order by extract(epoch from at - due_before)) as bigint)
             from chaos_journal where at > $1 and before = 'waiting' and after = 'running'",
            &[Argument::Time(began)],
        )
        .await;
    let late = Duration::from_micros(late.unsigned_abs());
    let mut line = within(3, late, Duration::from_secs(1));
    line.figure = format!("{}, {} rows waiting", line.figure, stage.plan.waiting_rows);
    line
}

/// Stops a session with its jobs, and comes back.
async fn after_resume(stage: &Stage) -> Line {
    let jobs = submit(stage, "resume", 20, |number| {
        json!([
            call("get", number, "get"),
            { "pause": { "wait": { "seconds": 3 } } },
            call("again", number, "get"),
        ])
    })
    .await;
    let (client, simulator) = (&stage.client, &stage.app.simulator);
    let path = "/v1/sessions/measured";
    client.insist(simulator, "measurer", Method::DELETE, path, None).await;
    let suspended: Vec<(Uuid, i64)> =
        stage.journal.rows("select id, lease_id from jobs where status = 'suspended'", &[]).await;
    assert!(!suspended.is_empty(), "none of {} jobs is suspended", jobs.len());
    client.sign_in_again(simulator, "measurer");
    let resumed = SystemClock.now();
    let path = format!("/v1/jobs/{}/resume", suspended[0].0);
    let answer = client.insist(simulator, "measurer", Method::POST, &path, None).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let length = stage.journal.wait_until_taken(&suspended, resumed, PATIENCE).await;
    stage.journal.wait_until_finished(PATIENCE).await;
    within(4, length, Duration::from_secs(2))
}

/// Submits jobs of one user at once.
async fn submit(
    stage: &Stage,
    name: &str,
    jobs: usize,
    mut tasks: impl FnMut(usize) -> Value,
) -> Vec<Uuid> {
    let submissions: Vec<(String, Value)> = (0..jobs)
        .map(|number| {
            let definition = workflows::document(&tasks(number));
            let submission = json!({ "definition": definition, "session_key": "measured" });
            (format!("{name} {number}"), submission)
        })
        .collect();
    let submissions = submissions.iter().map(async |(key, submission)| {
        let (client, simulator) = (&stage.client, &stage.app.simulator);
        let body = Some((submission, key.as_str()));
        let answer = client.insist(simulator, "measurer", Method::POST, "/v1/jobs", body).await;
        let id = answer.body["id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
        id.unwrap_or_else(|| panic!("{}", answer.body))
    });
    stream::iter(submissions).buffer_unordered(16).collect().await
}

/// A call that nobody will compare with the log: the number is that of no job of the storm.
fn call(task: &str, number: usize, method: &str) -> Value {
    let uri = format!("api/measurer/{}/{task}", usize::MAX - number);
    let endpoint = json!({ "uri": uri, "authentication": { "use": KEYED } });
    workflows::call(task, &json!({ "method": method, "endpoint": endpoint }))
}

/// Waits until every worker holds jobs; returns one of them.
async fn busy_worker(stage: &Stage, fleet: &Fleet) -> usize {
    let began = Instant::now();
    loop {
        let mut busy = 0;
        for worker in &fleet.workers {
            let id = worker.worker_id().expect("all workers run");
            busy += usize::from(!held(stage, id).await.is_empty());
        }
        if busy == fleet.workers.len() {
            return 0;
        }
        assert!(began.elapsed() < PATIENCE, "a worker takes no jobs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Jobs that a worker holds, with their leases.
async fn held(stage: &Stage, worker: Uuid) -> Vec<(Uuid, i64)> {
    let query = "select id, lease_id from jobs where worker_id = $1 and status = 'running'";
    stage.journal.rows(query, &[Argument::Id(worker)]).await
}

async fn all_processes(stage: &Stage, fleet: &mut Fleet) {
    let began = Instant::now();
    while !fleet.all_run() || fleet.workers.iter().any(|worker| worker.worker_id().is_none()) {
        assert!(began.elapsed() < PATIENCE, "not all processes come up");
        fleet.keep_up(&stage.app);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn finish(stage: &Stage, fleet: &mut Fleet) {
    let began = Instant::now();
    while stage.journal.wait_until_finished(Duration::ZERO).await > 0 && began.elapsed() < PATIENCE
    {
        fleet.keep_up(&stage.app);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    all_processes(stage, fleet).await;
}

/// Copies a finished job into rows that wait for tomorrow.
async fn fill(stage: &Stage) {
    let rows = stage.plan.waiting_rows;
    stage
        .journal
        .execute(&format!(
            "insert into jobs (id, tenant, subject, status, due_at, namespace, name, version,
                               definition, input, progress, tags, warnings, traceparent,
                               created_at, updated_at, deadline_at)
             select gen_random_uuid(), tenant, 'nobody', 'waiting',
                    now() + interval '1 day' + number * interval '1 second', namespace, 'filler',
                    version, definition, input, progress, '{{}}', '[]', traceparent, now(), now(),
                    now() + interval '30 days'
             from (select * from jobs limit 1) as job, generate_series(1, {rows}) as number;
             analyze jobs"
        ))
        .await;
}
