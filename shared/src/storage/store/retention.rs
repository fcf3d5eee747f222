use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::{
    super::{begin, ids},
    Database, micros, read_ids,
};
use crate::{
    identity::Principal,
    jobs::EventKind,
    storage::{Retention, Retired, StoreError, Walked},
};

/// Longer than a webhook is tried, which is for three days and some hours.
const TELLING: Duration = Duration::from_hours(4 * 24);

/// Whether nothing has needed the session for `$1` microseconds. Two looks into one index, however
/// many jobs it has had.
macro_rules! is_idle {
    () => {
        concat!(
            "refreshed_at <= ",
            after!("-$1"),
            " and not exists (
                select 1 from jobs where session_id = sessions.id and finished_at is null)
              and not exists (
                select 1 from jobs where session_id = sessions.id and finished_at > ",
            after!("-$1"),
            ")"
        )
    };
}

/// That ended `$1` microseconds ago, or `$2` if somebody is still to be told; `$3` of them. What its user
/// lets go on meanwhile is locked, and no longer finished.
pub(in super::super) const DELETE_FINISHED: &str = concat!(
    "with old as materialized (
        select id from jobs
        where finished_at <= ",
    after!("-$1"),
    " and (finished_at <= ",
    after!("-$2"),
    " or not exists (select 1 from webhook_deliveries
                         where job_id = jobs.id and due_at is not null))
        order by finished_at limit $3",
    locked!("update skip locked"),
    ")
     delete from jobs where id ",
    selected!("select id from old")
);

/// Older than `$1` microseconds, `$2` of them.
pub(in super::super) const DELETE_SESSION_EVENTS: &str = concat!(
    "with old as materialized (
        select ",
    row_id!(),
    " as place from session_events
        where at <= ",
    after!("-$1"),
    " order by at limit $2",
    locked!("update skip locked"),
    ")
     delete from session_events where ",
    row_id!(),
    " ",
    selected!("select place from old")
);

#[async_trait]
impl Retention for Database {
    async fn delete_finished(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        let deleted = sqlx::query(DELETE_FINISHED)
            .bind(micros(age))
            .bind(micros(age + TELLING))
            .bind(i64::from(limit))
            .execute(&self.writer)
            .await?;
        Ok(deleted.rows_affected())
    }

    async fn delete_session_events(&self, age: Duration, limit: u32) -> Result<u64, StoreError> {
        let deleted = sqlx::query(DELETE_SESSION_EVENTS)
            .bind(micros(age))
            .bind(i64::from(limit))
            .execute(&self.writer)
            .await?;
        Ok(deleted.rows_affected())
    }

    async fn stop_idle(
        &self,
        grace: Duration,
        after: Uuid,
        limit: u32,
    ) -> Result<Walked<Vec<Retired>>, StoreError> {
        let looked_at = sqlx::query(concat!(
            "select id, (",
            is_idle!(),
            ") as is_idle from sessions where state <> 'stopped' and id > $2
             order by id limit $3"
        ))
        .bind(micros(grace))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        let (mut last, mut idle) = (None, Vec::new());
        for row in &looked_at {
            let id: Uuid = row.try_get("id")?;
            last = Some(id);
            if row.try_get("is_idle")? {
                idle.push(id);
            }
        }
        let found = if idle.is_empty() { Vec::new() } else { self.retire(grace, &idle).await? };
        Ok(Walked { last, found })
    }

    async fn delete_stopped(
        &self,
        age: Duration,
        after: Uuid,
        limit: u32,
    ) -> Result<Walked<u64>, StoreError> {
        let looked_at = sqlx::query(
            "select id from sessions where state = 'stopped' and id > $1 order by id limit $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        let looked_at = read_ids(&looked_at)?;
        let Some(last) = looked_at.last().copied() else {
            return Ok(Walked { last: None, found: 0 });
        };
        // Who is about to revive one has locked it, and makes it active: a job that refers to one
        // that is stopped was there before.
        let deleted = sqlx::query(concat!(
            "with unneeded as materialized (
                select id from sessions
                where state = 'stopped' and refreshed_at <= ",
            after!("-$1"),
            " and not exists (select 1 from jobs where session_id = sessions.id) and id ",
            among!("$2"),
            " order by id",
            locked!("update skip locked"),
            ")
             delete from sessions where id ",
            selected!("select id from unneeded")
        ))
        .bind(micros(age))
        .bind(ids(&looked_at))
        .execute(&self.writer)
        .await?;
        Ok(Walked { last: Some(last), found: deleted.rows_affected() })
    }
}

impl Database {
    /// Stops those of `idle` that still are.
    async fn retire(&self, grace: Duration, idle: &[Uuid]) -> Result<Vec<Retired>, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        // The rows first, as a submission and a resume do, and a look at their jobs afterwards: what
        // those have written before they let a row go is seen. Those that somebody uses are passed over.
        let locked = sqlx::query(concat!(
            "select id from sessions where state <> 'stopped' and id ",
            among!("$1"),
            " order by id",
            locked!("update skip locked")
        ))
        .bind(ids(idle))
        .fetch_all(&mut *transaction)
        .await?;
        let stopped = sqlx::query(concat!(
            "update sessions set state = 'stopped', version = version + 1 where ",
            is_idle!(),
            " and id ",
            among!("$2"),
            " returning id, tenant, subject, client_id"
        ))
        .bind(micros(grace))
        .bind(ids(&read_ids(&locked)?))
        .fetch_all(&mut *transaction)
        .await?;
        let mut retired = Vec::with_capacity(stopped.len());
        for row in &stopped {
            let id: Uuid = row.try_get("id")?;
            let owner =
                Principal { tenant: row.try_get("tenant")?, subject: row.try_get("subject")? };
            let tokens = self.erase_tokens(&mut transaction, id, &owner).await?;
            self.tell_of_session(&mut transaction, id, EventKind::Stopped, "").await?;
            retired.push(Retired { owner, client_id: row.try_get("client_id")?, tokens });
        }
        transaction.commit().await?;
        Ok(retired)
    }
}
