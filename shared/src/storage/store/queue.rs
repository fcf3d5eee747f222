use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use sqlx::{Row, Transaction};
use uuid::Uuid;

use super::{
    super::{Db, begin, claim_ready, ids, record, record_at_once, wake_due},
    Database,
    audit::events_json,
    job_place, micros, read_ids, to_json, word,
};
use crate::{
    identity::Principal,
    jobs::{EventKind, JobStatus},
    metrics,
    storage::{
        Backlog, ClaimedJob, ClaimedSession, Lease, Next, Queue, Record, Renewed, StoreError,
    },
    telemetry::chain,
    time::Timestamp,
};

/// Whether a job that is being interrupted is ready at once: the first time, and once nobody runs it any
/// more.
macro_rules! is_ready_again {
    () => {
        "interruptions not in (1, 2, 3)"
    };
}
/// After how many microseconds it is due otherwise: later each further time, in a row, that it got
/// nowhere. One job that kills its workers takes all with it that they have in hand: spread, the others
/// come back without it.
macro_rules! interruption_pause {
    () => {
        concat!(
            "cast(1000000 * (0.5 + ",
            chance!(),
            ") * case interruptions when 1 then 10 when 2 then 60 when 3 then 120 else 0 end
             as bigint)"
        )
    };
}

/// How many jobs are made ready at once.
const WOKEN_AT_ONCE: i64 = 1_000;

/// A record as its row is written.
pub(in super::super) struct RecordRow {
    pub(in super::super) id: Uuid,
    pub(in super::super) lease_id: i64,
    pub(in super::super) status: JobStatus,
    /// Of one that waits: now, if there is none.
    pub(in super::super) due_at: Option<Timestamp>,
    pub(in super::super) checkpoint: Option<Vec<u8>>,
    pub(in super::super) progress: String,
    pub(in super::super) attempts: i32,
    pub(in super::super) throttles: i32,
    pub(in super::super) output: Option<Vec<u8>>,
    pub(in super::super) error: Option<Vec<u8>>,
    pub(in super::super) suspension: Option<Vec<u8>>,
    /// Its events, and at least one.
    pub(in super::super) told: i64,
    /// JSON
    pub(in super::super) events: Option<String>,
    /// JSON
    pub(in super::super) calls: Option<String>,
}

#[async_trait]
impl Queue for Database {
    async fn claim(
        &self,
        worker: Uuid,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<ClaimedJob>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (mut rows, mut left) = (Vec::new(), limit);
        while left > 0 {
            let after = self.turn.load(Ordering::Relaxed);
            let claimed = claim_ready(&self.writer, worker, left, micros(lease), after).await;
            let (more, share) = match claimed {
                // Nobody else knows of the jobs that were claimed before.
                Err(_) if !rows.is_empty() => break,
                claimed => claimed?,
            };
            let lanes = lanes_of(&more)?;
            // In the order of turns: those after the one that was served last, then around.
            if let Some(last) = lanes.keys().max_by_key(|lane| (**lane <= after, **lane)) {
                self.turn.store(*last, Ordering::Relaxed);
            }
            left -= i64::try_from(more.len()).unwrap_or(left);
            rows.extend(more);
            // Others had less than their share; whoever gave all of it may have more.
            if !lanes.values().any(|jobs| *jobs == share) {
                break;
            }
        }
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let lease = read_lease(&row)?;
            match self.read_claimed(lease.clone(), &row) {
                Ok(job) => claimed.push(job),
                // One bad row must not keep the others from running.
                Err(error) => {
                    let id = lease.job_id;
                    tracing::error!(job.id = %id, "a job cannot be read and is held: {}", chain(&error));
                    // Should that fail too, its lease runs out.
                    let _ = self.hold(&lease, UNREADABLE_PAUSE).await;
                }
            }
        }
        Ok(claimed)
    }

    async fn wake_due(&self) -> Result<Option<Duration>, StoreError> {
        let row = wake_due(&self.writer, WOKEN_AT_ONCE).await?;
        if row.try_get("ready")? {
            return Ok(Some(Duration::ZERO));
        }
        let due_at: Option<Timestamp> = row.try_get("due_at")?;
        let now: Timestamp = row.try_get("now")?;
        Ok(due_at.map(|due_at| due_at.since(now)))
    }

    async fn renew(
        &self,
        worker: Uuid,
        jobs: &[Uuid],
        lease: Duration,
    ) -> Result<Vec<Renewed>, StoreError> {
        let rows = sqlx::query(concat!(
            "update jobs set lease_until = ",
            after!("$2"),
            " where id in (
                 select id from jobs where worker_id = $1 and status = 'running' and id ",
            among!("$3"),
            // As everywhere: two that change several jobs never wait for one another.
            " order by id",
            locked!("update"),
            ") returning id, lease_id"
        ))
        .bind(worker)
        .bind(micros(lease))
        .bind(ids(jobs))
        .fetch_all(&self.keeper)
        .await?;
        rows.iter().map(read_renewed).collect()
    }

    async fn held(&self, worker: Uuid) -> Result<Vec<Renewed>, StoreError> {
        let held = "select id, lease_id from jobs where worker_id = $1 and status = 'running'";
        let rows = sqlx::query(held).bind(worker).fetch_all(&self.reader).await?;
        rows.iter().map(read_renewed).collect()
    }

    async fn rescue(&self) -> Result<u64, StoreError> {
        let mut transaction = begin(&self.keeper).await?;
        let rescued = sqlx::query(concat!(
            "update jobs set status = 'waiting', lease_until = null, worker_id = null, ready = ",
            is_ready_again!(),
            ", interruptions = interruptions + 1, revision = revision + 1, due_at = ",
            after!(interruption_pause!()),
            ", updated_at = ",
            now!(),
            " where id in (
                 select id from jobs where status = 'running' and lease_until <= ",
            now!(),
            " order by id",
            locked!("update"),
            ") returning id"
        ))
        .fetch_all(&mut *transaction)
        .await?;
        let rescued = read_ids(&rescued)?;
        self.tell(&mut transaction, &rescued, EventKind::Interrupted, &json!({})).await?;
        transaction.commit().await?;
        Ok(rescued.len() as u64)
    }

    async fn release(&self, worker: Uuid) -> Result<u64, StoreError> {
        let released = sqlx::query(concat!(
            "update jobs set status = 'waiting', ready = true, lease_until = null, worker_id = null,
                    revision = revision + 1, due_at = ",
            now!(),
            ", updated_at = ",
            now!(),
            " where id in (
                 select id from jobs where status = 'running' and worker_id = $1 order by id",
            locked!("update"),
            ")"
        ))
        .bind(worker)
        .execute(&self.keeper)
        .await?;
        Ok(released.rows_affected())
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        let rows = sqlx::query(
            "select status, count(*) as jobs
             from (select * from (select status from jobs where ready limit $1) as a
                   union all
                   select * from (select status from jobs
                                  where not ready and due_at is not null limit $1) as b
                   union all
                   select * from (select status from jobs where status = 'running' limit $1) as c
                  ) as unfinished
             group by status",
        )
        .bind(Backlog::MOST)
        .fetch_all(&self.reader)
        .await?;
        let mut backlog = Backlog::default();
        for row in rows {
            let count: i64 = row.try_get("jobs")?;
            backlog.jobs.insert(word(row.try_get("status")?)?, count.unsigned_abs());
        }
        let row = sqlx::query(concat!(
            "select min(due_at) as due_at, ",
            now!(),
            " as now from (select due_at from jobs where ready limit $1) as ready"
        ))
        .bind(Backlog::MOST)
        .fetch_one(&self.reader)
        .await?;
        let (due_at, now): (Option<Timestamp>, Timestamp) =
            (row.try_get("due_at")?, row.try_get("now")?);
        backlog.lag = due_at.map(|due_at| now.since(due_at));
        Ok(backlog)
    }

    async fn interrupt(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut transaction = begin(&self.writer).await?;
        if give_back(&mut transaction, lease, Duration::ZERO, 1).await? {
            let jobs = [lease.job_id];
            self.tell(&mut transaction, &jobs, EventKind::Interrupted, &json!({})).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn hold(&self, lease: &Lease, length: Duration) -> Result<(), StoreError> {
        let mut transaction = begin(&self.writer).await?;
        give_back(&mut transaction, lease, length, 0).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn record(&self, records: &[(&Lease, &Record)]) -> Result<Vec<bool>, StoreError> {
        let suspending: Vec<_> = records
            .iter()
            .filter_map(|(lease, record)| match record.next {
                Next::Suspend { session_version, .. } => Some((lease.job_id, session_version)),
                _ => None,
            })
            .collect();
        let status = |job_id, record: &Record, returned: &[Uuid]| match record.next {
            Next::Suspend { .. } if returned.contains(&job_id) => JobStatus::Waiting,
            _ => record.next.status(),
        };
        let rows = |returned: &[Uuid]| {
            let row = |(lease, record): &(&Lease, &Record)| {
                self.record_row(lease, record, status(lease.job_id, record, returned))
            };
            let mut rows: Vec<RecordRow> = records.iter().map(row).collect();
            // The order in which whoever changes several jobs comes to them.
            rows.sort_unstable_by_key(|row| row.id);
            rows
        };
        let (returned, recorded) = if suspending.is_empty() {
            (Vec::new(), record_at_once(&self.writer, &rows(&[])).await?)
        } else {
            let mut transaction = begin(&self.writer).await?;
            let returned = users_returned(&mut transaction, &suspending).await?;
            let recorded = record(&mut transaction, &rows(&returned)).await?;
            transaction.commit().await?;
            (returned, recorded)
        };
        let recorded: HashSet<Uuid> = read_ids(&recorded)?.into_iter().collect();
        let written = records.iter().map(|(lease, record)| {
            let written = recorded.contains(&lease.job_id);
            if written {
                metrics::recorded(status(lease.job_id, record, &returned), record);
            }
            written
        });
        Ok(written.collect())
    }
}

/// Of jobs to be suspended, each with the version that its session had: those whose users have
/// returned meanwhile.
async fn users_returned(
    transaction: &mut Transaction<'_, Db>,
    suspending: &[(Uuid, i64)],
) -> Result<Vec<Uuid>, StoreError> {
    let jobs: Vec<Uuid> = suspending.iter().map(|(job_id, _)| *job_id).collect();
    // Locked, so that the user's return is either seen here or sees this suspension.
    let rows = sqlx::query(concat!(
        "select jobs.id, sessions.version from jobs join sessions on sessions.id = jobs.session_id
         where jobs.id ",
        among!("$1"),
        " order by sessions.id",
        locked!("share of sessions")
    ))
    .bind(ids(&jobs))
    .fetch_all(&mut **transaction)
    .await?;
    let mut versions = HashMap::new();
    for row in &rows {
        versions.insert(row.try_get::<Uuid, _>("id")?, row.try_get::<i64, _>("version")?);
    }
    let has_returned = |(job, version): &&(Uuid, i64)| versions.get(job) != Some(version);
    Ok(suspending.iter().filter(has_returned).map(|(job_id, _)| *job_id).collect())
}

impl Database {
    fn record_row(&self, lease: &Lease, record: &Record, status: JobStatus) -> RecordRow {
        let place = |column| job_place(lease.job_id, column, &lease.owner);
        let (mut due_at, mut output, mut error, mut suspension) = (None, None, None, None);
        match &record.next {
            Next::Continue => {}
            Next::Wait { due_at: at } => due_at = Some(*at),
            Next::Suspend { suspension: missing, .. } => {
                suspension = (status == JobStatus::Suspended)
                    .then(|| self.seal_json(place("suspension"), missing));
            }
            Next::Complete(value) => output = Some(self.seal_json(place("output"), value)),
            Next::Fault(value) => error = Some(self.seal_json(place("error"), value)),
        }
        let (told, events) = events_json(record.told(status)).unzip();
        RecordRow {
            id: lease.job_id,
            lease_id: lease.lease_id,
            status,
            due_at,
            // A completed job keeps its end, not the way to it; a faulted one can be tried again.
            checkpoint: (status != JobStatus::Completed)
                .then(|| self.seal(place("checkpoint"), &record.checkpoint)),
            progress: to_json(&record.progress),
            attempts: i32::try_from(record.attempts).unwrap_or(i32::MAX),
            throttles: i32::try_from(record.throttles).unwrap_or(i32::MAX),
            output,
            error,
            suspension,
            told: told.unwrap_or(1),
            events,
            calls: self.calls_json(lease, &record.calls),
        }
    }

    fn read_claimed(
        &self,
        lease: Lease,
        row: &<Db as sqlx::Database>::Row,
    ) -> Result<ClaimedJob, StoreError> {
        let definition: Vec<u8> = row.try_get("definition")?;
        let input: Vec<u8> = row.try_get("input")?;
        let checkpoint: Option<Vec<u8>> = row.try_get("checkpoint")?;
        let place = |column| job_place(lease.job_id, column, &lease.owner);
        Ok(ClaimedJob {
            session: row
                .try_get::<Option<Uuid>, _>("session_id")?
                .zip(row.try_get("session_version")?)
                .map(|(id, version)| ClaimedSession { id, version }),
            definition: self.open(place("definition"), &definition)?,
            input: self.open_json(place("input"), &input)?,
            checkpoint: checkpoint
                .map(|sealed| self.open(place("checkpoint"), &sealed))
                .transpose()?,
            claimed_at: row.try_get("claimed_at")?,
            created_at: row.try_get("created_at")?,
            deadline_at: row.try_get("deadline_at")?,
            interruptions: row.try_get::<i32, _>("interruptions")?.unsigned_abs(),
            traceparent: row.try_get("traceparent")?,
            lease,
        })
    }
}

/// Ends the lease of a job that nothing was recorded of; false if it is somebody else's by now.
async fn give_back(
    transaction: &mut Transaction<'_, Db>,
    lease: &Lease,
    due_after: Duration,
    interruptions: i32,
) -> Result<bool, StoreError> {
    let given_back = sqlx::query(concat!(
        "update jobs set status = 'waiting', lease_until = null, worker_id = null,
                ready = $3 <= 0 and ($4 = 0 or ",
        is_ready_again!(),
        "), interruptions = interruptions + $4, revision = revision + 1, due_at = ",
        after!(concat!("($3 + $4 * ", interruption_pause!(), ")")),
        ", updated_at = ",
        now!(),
        " where id = $1 and lease_id = $2 and status = 'running'"
    ))
    .bind(lease.job_id)
    .bind(lease.lease_id)
    .bind(micros(due_after))
    .bind(interruptions)
    .execute(&mut **transaction)
    .await?;
    Ok(given_back.rows_affected() == 1)
}

/// How many jobs were claimed of each lane.
fn lanes_of(rows: &[<Db as sqlx::Database>::Row]) -> Result<HashMap<i64, i64>, sqlx::Error> {
    let mut lanes = HashMap::new();
    for row in rows {
        *lanes.entry(row.try_get("lane")?).or_default() += 1;
    }
    Ok(lanes)
}

/// Long enough not to fill the log, short enough that a mended key ring shows soon.
const UNREADABLE_PAUSE: Duration = Duration::from_mins(1);

fn read_renewed(row: &<Db as sqlx::Database>::Row) -> Result<Renewed, StoreError> {
    Ok(Renewed { job_id: row.try_get("id")?, lease_id: row.try_get("lease_id")? })
}

fn read_lease(row: &<Db as sqlx::Database>::Row) -> Result<Lease, StoreError> {
    Ok(Lease {
        job_id: row.try_get("id")?,
        lease_id: row.try_get("lease_id")?,
        owner: Principal { tenant: row.try_get("tenant")?, subject: row.try_get("subject")? },
    })
}
