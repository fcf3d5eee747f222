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
    jobs::{EventKind, EventPosition, JobEvent},
    storage::{AUDIT_PAGE, Audit, StoreError},
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
}

impl Database {
    /// Writes an event for each of the jobs, with the revision they have just been given.
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
        Ok(())
    }

    /// Writes an event for the version that the session has just been given.
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
             select id, version, ",
            now!(),
            ", $2, $3 from sessions where id = $1"
        ))
        .bind(session_id)
        .bind(kind.as_str())
        .bind(to_json(&json!({ "scopes": scopes })))
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }
}

/// An event with its place in its own sequence.
fn read_event(
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
