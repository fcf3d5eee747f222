use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sqlx::{Row, Transaction, query::Query};
use uuid::Uuid;

use super::{
    super::{Db, begin, claim_due, execute_all, ids},
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

/// What a record changes, at the time `$now`.
macro_rules! changes {
    ($now:expr) => {
        concat!(
            "status = $3,
             lease_until = case when $3 = 'running' then lease_until end,
             worker_id = case when $3 = 'running' then worker_id end,
             due_at = case
                 when $3 = 'waiting' then coalesce($4, ",
            $now,
            ")
                 -- Woken at the latest to be told that its time is over.
                 when $3 = 'suspended' then deadline_at
             end,
             finished_at = case when $3 in ('completed', 'faulted') then ",
            $now,
            " end,
             -- It got somewhere: what interrupts it from now on is counted anew.
             interruptions = case when $3 in ('waiting', 'suspended') then 0 else interruptions end,
             checkpoint = $5, progress = $6, attempts = $7, throttles = $8,
             output = $9, error = $10, suspension = $11"
        )
    };
}

/// After how many microseconds a job that is being interrupted is due: at once the first time, later
/// each further time, in a row, that it got nowhere. One job that kills its workers takes all with it
/// that they have in hand: spread, the others come back without it. Once nobody runs it any more
/// there is nothing to put off.
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

const RECORD: &str = concat!(
    "update jobs set ",
    changes!(now!()),
    ", revision = revision + 1, updated_at = ",
    now!(),
    " where id = $1 and lease_id = $2 and status = 'running'"
);

/// Apart from [`RECORD`], which half of all records are: the parts that tell nothing take a sixth of
/// its time.
const RECORD_AND_TELL: &str = recorded!(changes!(told_at!()));

#[async_trait]
impl Queue for Database {
    async fn claim(
        &self,
        worker: Uuid,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<ClaimedJob>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = claim_due(&self.writer, worker, limit, micros(lease)).await?;
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

    async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        let row = sqlx::query(concat!(
            "select min(due_at) as due_at, ",
            now!(),
            " as now from jobs where status in ('pending', 'waiting', 'suspended')"
        ))
        .fetch_one(&self.reader)
        .await?;
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
            " where worker_id = $1 and status = 'running' and id ",
            among!("$3"),
            " returning id, lease_id"
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
            "update jobs set status = 'waiting', lease_until = null, worker_id = null,
                    interruptions = interruptions + 1, revision = revision + 1, due_at = ",
            after!(interruption_pause!()),
            ", updated_at = ",
            now!(),
            " where status = 'running' and lease_until <= ",
            now!(),
            " returning id"
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
            "update jobs set status = 'waiting', lease_until = null, worker_id = null,
                    revision = revision + 1, due_at = ",
            now!(),
            ", updated_at = ",
            now!(),
            " where status = 'running' and worker_id = $1"
        ))
        .bind(worker)
        .execute(&self.keeper)
        .await?;
        Ok(released.rows_affected())
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        let rows = sqlx::query(
            "select status, count(*) as jobs
             from (select * from (select status from jobs
                                  where status in ('pending', 'waiting', 'suspended') limit $1) as a
                   union all
                   select * from (select status from jobs where status = 'running' limit $1) as b
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
            " as now from jobs where status in ('pending', 'waiting', 'suspended')"
        ))
        .fetch_one(&self.reader)
        .await?;
        let (due_at, now): (Option<Timestamp>, Timestamp) =
            (row.try_get("due_at")?, row.try_get("now")?);
        backlog.lag = due_at.filter(|due_at| *due_at <= now).map(|due_at| now.since(due_at));
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

    async fn record(&self, lease: &Lease, record: &Record) -> Result<(), StoreError> {
        let Next::Suspend { session_version, .. } = &record.next else {
            let status = record.next.status();
            let query = self.record_query(lease, record, status);
            written(execute_all(&self.writer, query).await?)?;
            metrics::recorded(status, record);
            return Ok(());
        };
        let mut transaction = begin(&self.writer).await?;
        // Locked, so that the user's return is either seen here or sees this suspension.
        let unchanged = sqlx::query(concat!(
            "select 1 from sessions
             where id = (select session_id from jobs where id = $1) and version = $2",
            locked!("share")
        ))
        .bind(lease.job_id)
        .bind(session_version)
        .fetch_optional(&mut *transaction)
        .await?
        .is_some();
        let status = if unchanged { JobStatus::Suspended } else { JobStatus::Waiting };
        let query = self.record_query(lease, record, status);
        written(query.execute(&mut *transaction).await?.rows_affected())?;
        transaction.commit().await?;
        metrics::recorded(status, record);
        Ok(())
    }
}

impl Database {
    fn record_query(
        &self,
        lease: &Lease,
        record: &Record,
        status: JobStatus,
    ) -> Query<'static, Db, <Db as sqlx::Database>::Arguments> {
        let place = |column| job_place(lease.job_id, column, &lease.owner);
        // A completed job keeps its end, not the way to it; a faulted one can be tried again.
        let checkpoint = (status != JobStatus::Completed)
            .then(|| self.seal(place("checkpoint"), &record.checkpoint));
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
        let events = events_json(record.told(status));
        let calls = self.calls_json(lease, &record.calls);
        let tells = events.is_some() || calls.is_some();
        let query = sqlx::query(if tells { RECORD_AND_TELL } else { RECORD })
            .bind(lease.job_id)
            .bind(lease.lease_id)
            .bind(status.as_str())
            .bind(due_at)
            .bind(checkpoint)
            .bind(to_json(&record.progress))
            .bind(i32::try_from(record.attempts).unwrap_or(i32::MAX))
            .bind(i32::try_from(record.throttles).unwrap_or(i32::MAX))
            .bind(output)
            .bind(error)
            .bind(suspension);
        if !tells {
            return query;
        }
        let (count, events) = events.unwrap_or((1, String::from("[]")));
        query.bind(count).bind(events).bind(calls)
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
                interruptions = interruptions + $4, revision = revision + 1, due_at = ",
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

/// A fenced write that changed no row was not this worker's to make.
fn written(rows: u64) -> Result<(), StoreError> {
    match rows {
        0 => Err(StoreError::LeaseLost),
        _ => Ok(()),
    }
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
