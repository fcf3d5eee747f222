use std::fmt::Write;

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::{Row, Transaction};
use uuid::Uuid;

use super::{
    super::{Db, ids},
    Database, from_json, to_json,
};
use crate::{
    identity::Principal,
    jobs::{EventKind, EventPosition, JobEvent, SentCall},
    storage::{AUDIT_PAGE, Audit, Lease, StoreError, cipher::Place},
};

#[async_trait]
impl Audit for Database {
    async fn events(
        &self,
        job_id: Uuid,
        owner: &Principal,
        after: EventPosition,
    ) -> Result<Vec<JobEvent>, StoreError> {
        let limit = i64::try_from(AUDIT_PAGE).unwrap_or(i64::MAX);
        let of_job = sqlx::query(
            "select sequence, at, kind, data from job_events
             where job_id = (select id from jobs where id = $1 and tenant = $2 and subject = $3)
               and sequence > $4
             order by sequence limit $5",
        )
        .bind(job_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(after.job)
        .bind(limit)
        .fetch_all(&self.reader)
        .await?;
        let of_session = sqlx::query(
            "select sequence, at, kind, data
             from jobs join session_events on session_events.session_id = jobs.session_id
             where jobs.id = $1 and jobs.tenant = $2 and jobs.subject = $3
               and session_events.sequence > $4 and session_events.at >= jobs.created_at
               and (jobs.finished_at is null or session_events.at <= jobs.finished_at)
             order by sequence limit $5",
        )
        .bind(job_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(after.session)
        .bind(limit)
        .fetch_all(&self.reader)
        .await?;
        let read = |rows: Vec<<Db as sqlx::Database>::Row>| {
            rows.iter().map(|row| read_event(job_id, row)).collect::<Result<Vec<_>, _>>()
        };
        Ok(merge(after, read(of_job)?, read(of_session)?))
    }

    async fn calls(
        &self,
        job_id: Uuid,
        owner: &Principal,
        skip: u32,
    ) -> Result<Vec<SentCall>, StoreError> {
        let rows = sqlx::query(
            "select at, duration_ms, task, api, scopes, method, path, attempt, outcome, status
             from job_calls
             where job_id = (select id from jobs where id = $1 and tenant = $2 and subject = $3)
             order by sequence, ordinal limit $4 offset $5",
        )
        .bind(job_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(i64::try_from(AUDIT_PAGE).unwrap_or(i64::MAX))
        .bind(i64::from(skip))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(|row| self.read_call(job_id, owner, row)).collect()
    }
}

impl Database {
    /// The calls of a record, as a database makes rows of them: a JSON array; null if there are none.
    pub(super) fn calls_json(&self, lease: &Lease, calls: &[SentCall]) -> Option<String> {
        let rows: Vec<Value> = calls
            .iter()
            .enumerate()
            .map(|(ordinal, call)| {
                let path = self.seal(path_place(lease.job_id, &lease.owner), call.path.as_bytes());
                json!({
                    "ordinal": ordinal,
                    "at": call.at.micros(),
                    "duration_ms": call.duration_ms,
                    "task": call.task,
                    "api": call.api,
                    "scopes": to_json(&call.scopes),
                    "method": call.method,
                    "path": hex(&path),
                    "attempt": call.attempt,
                    "outcome": call.outcome,
                    "status": call.status,
                })
            })
            .collect();
        (!rows.is_empty()).then(|| to_json(&rows))
    }

    fn read_call(
        &self,
        job_id: Uuid,
        owner: &Principal,
        row: &<Db as sqlx::Database>::Row,
    ) -> Result<SentCall, StoreError> {
        let path: Vec<u8> = row.try_get("path")?;
        let path = self.open(path_place(job_id, owner), &path)?;
        let outcome: String = row.try_get("outcome")?;
        let duration: i64 = row.try_get("duration_ms")?;
        let status: Option<i32> = row.try_get("status")?;
        Ok(SentCall {
            task: row.try_get("task")?,
            api: row.try_get("api")?,
            scopes: from_json("scopes", job_id, row.try_get("scopes")?)?,
            method: row.try_get("method")?,
            path: String::from_utf8_lossy(&path).into_owned(),
            attempt: row.try_get::<i32, _>("attempt")?.unsigned_abs(),
            at: row.try_get("at")?,
            duration_ms: duration.unsigned_abs(),
            outcome: from_json("outcome", job_id, &to_json(&outcome))?,
            status: status.and_then(|status| u16::try_from(status).ok()),
        })
    }

    /// Writes an event for each of the jobs, with the revision they have just been given, and the
    /// webhooks that were asked for.
    pub(super) async fn tell(
        &self,
        transaction: &mut Transaction<'_, Db>,
        jobs: &[Uuid],
        kind: EventKind,
        data: &Value,
    ) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        sqlx::query(concat!(
            "insert into job_events (job_id, sequence, at, kind, data)
             select id, revision, updated_at, $2, $3 from jobs where id ",
            among!("$1")
        ))
        .bind(ids(jobs))
        .bind(kind.as_str())
        .bind(to_json(data))
        .execute(&mut **transaction)
        .await?;
        sqlx::query(concat!(
            "insert into webhook_deliveries (job_id, sequence, due_at)
             select id, revision, updated_at from jobs
             where callback_events like '%' || $2 || '%' and id ",
            among!("$1")
        ))
        .bind(ids(jobs))
        .bind(kind.as_str())
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }

    /// Writes the session's next event. In a transaction that has changed the session's row: so no
    /// other gives it the same number. It is one that no event ever had, though old ones are deleted.
    pub(super) async fn tell_of_session(
        &self,
        transaction: &mut Transaction<'_, Db>,
        session_id: Uuid,
        kind: EventKind,
        scope_set: &str,
    ) -> Result<(), StoreError> {
        let scopes: Vec<&str> = scope_set.split_whitespace().collect();
        sqlx::query(concat!(
            "insert into session_events (session_id, sequence, at, kind, data)
             select $1, max(next), ",
            now!(),
            ", $2, $3
             from (select max(sequence) + 1 as next from session_events where session_id = $1
                   union all
                   select ",
            epoch_micros!(),
            ") as numbers"
        ))
        .bind(session_id)
        .bind(kind.as_str())
        .bind(to_json(&json!({ "scopes": scopes })))
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }
}

/// The events of a record, as a database makes rows of them: how many, and a JSON array. None if there
/// are none.
pub(super) fn events_json(
    events: impl Iterator<Item = (EventKind, Value)>,
) -> Option<(i64, String)> {
    let rows: Vec<Value> = events
        .enumerate()
        .map(|(ordinal, (kind, data))| {
            json!({ "ordinal": ordinal, "kind": kind.as_str(), "data": to_json(&data) })
        })
        .collect();
    let count = i64::try_from(rows.len()).ok().filter(|count| *count > 0)?;
    Some((count, to_json(&rows)))
}

pub(super) fn path_place(row: Uuid, principal: &Principal) -> Place<'_> {
    Place { table: "job_calls", column: "path", row, parts: [""; 2], principal }
}

/// Bytes as both databases read them out of JSON.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An event with its place in its own sequence.
pub(super) fn read_event(
    job_id: Uuid,
    row: &<Db as sqlx::Database>::Row,
) -> Result<(i64, JobEvent), StoreError> {
    let event = JobEvent {
        position: EventPosition::default(),
        at: row.try_get("at")?,
        kind: row.try_get("kind")?,
        data: from_json("data", job_id, row.try_get("data")?)?,
    };
    Ok((row.try_get("sequence")?, event))
}

/// Merges by time, without ever changing the order of either sequence: a position says all that
/// was read, even if clocks or commits were out of order.
fn merge(
    after: EventPosition,
    of_job: Vec<(i64, JobEvent)>,
    of_session: Vec<(i64, JobEvent)>,
) -> Vec<JobEvent> {
    let mut position = after;
    let mut merged = Vec::with_capacity(of_job.len() + of_session.len());
    let (mut of_job, mut of_session) =
        (of_job.into_iter().peekable(), of_session.into_iter().peekable());
    while merged.len() < AUDIT_PAGE {
        let session_first = match (of_job.peek(), of_session.peek()) {
            (None, None) => break,
            (Some((_, job)), Some((_, session))) => session.at < job.at,
            (job, _) => job.is_none(),
        };
        let next = if session_first { of_session.next() } else { of_job.next() };
        let Some((sequence, event)) = next else { break };
        *(if session_first { &mut position.session } else { &mut position.job }) = sequence;
        merged.push(JobEvent { position, ..event });
    }
    merged
}
