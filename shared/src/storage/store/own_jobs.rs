use async_trait::async_trait;
use serde_json::json;
use sqlx::{Executor, Row, Transaction};
use uuid::Uuid;

use super::{
    super::{Db, begin, ids},
    Database, from_json, job_place, read_ids,
    submissions::job_with,
    word,
};
use crate::{
    identity::Principal,
    jobs::{DefinitionName, EventKind, Job, JobStatus},
    storage::{Change, JobFilter, OwnJobs, Page, StoreError, TenantJob, TenantJobs},
};

/// The newest jobs with that status; a part of [`LIST`].
macro_rules! newest {
    ($status:literal) => {
        concat!(
            "select * from (
                select id from jobs
                where subject = $2 and tenant = $1 and status = '",
            $status,
            "' and id < $3 and (cast($4 as text) is null or $4 = '",
            $status,
            "') and (cast($5 as text) is null or session_id in (
                        select id from sessions
                        where tenant = $1 and subject = $2 and session_key = $5))
                order by id desc limit $6) as ",
            $status
        )
    };
}

/// By status, each in the order of the index, and then together: no more rows are looked at than are
/// asked for of each, however many there are.
pub(in super::super) const LIST: &str = concat!(
    job_with!("cast(null as bytea)", "jobs", "sessions"),
    " where jobs.id in (select id from (",
    newest!("pending"),
    " union all ",
    newest!("running"),
    " union all ",
    newest!("waiting"),
    " union all ",
    newest!("suspended"),
    " union all ",
    newest!("completed"),
    " union all ",
    newest!("faulted"),
    " union all ",
    newest!("cancelled"),
    ") as newest order by id desc limit $6)
     order by jobs.id desc"
);

/// By a tag, whose rows stand in the order of the list.
pub(in super::super) const LIST_TAGGED: &str = concat!(
    job_with!("cast(null as bytea)", "jobs", "sessions"),
    " where jobs.id in (
        select job_tags.job_id from job_tags join jobs as tagged on tagged.id = job_tags.job_id
        where job_tags.subject = $2 and job_tags.tenant = $1
          and job_tags.name = $7 and job_tags.value = $8 and job_tags.job_id < $3
          and (cast($4 as text) is null or tagged.status = $4)
          and (cast($5 as text) is null or tagged.session_id in (
                    select id from sessions
                    where tenant = $1 and subject = $2 and session_key = $5))
        order by job_tags.job_id desc limit $6)
     order by jobs.id desc"
);

/// Selects jobs as [`Database::read_tenant_job`] reads them.
macro_rules! tenant_jobs {
    () => {
        "select jobs.id, jobs.tenant, jobs.subject, jobs.status, jobs.namespace, jobs.name,
                jobs.version, sessions.session_key, jobs.progress, jobs.due_at, jobs.attempts,
                jobs.throttles, jobs.interruptions, jobs.created_at, jobs.started_at,
                jobs.updated_at, jobs.finished_at, jobs.deadline_at, jobs.error, jobs.suspension
         from jobs left join sessions on sessions.id = jobs.session_id"
    };
}

#[async_trait]
impl OwnJobs for Database {
    async fn jobs(
        &self,
        owner: &Principal,
        filter: &JobFilter<'_>,
        page: Page,
    ) -> Result<Vec<Job>, StoreError> {
        let mut query = sqlx::query(if filter.tag.is_some() { LIST_TAGGED } else { LIST })
            .bind(&owner.tenant)
            .bind(&owner.subject)
            .bind(page.before.unwrap_or(Uuid::max()))
            .bind(filter.status.map(JobStatus::as_str))
            .bind(filter.session_key)
            .bind(i64::from(page.limit));
        if let Some((name, value)) = filter.tag {
            query = query.bind(name).bind(value);
        }
        let rows = query.fetch_all(&self.reader).await?;
        rows.iter().map(|row| self.read_job(owner, row)).collect()
    }

    async fn jobs_by_id(&self, owner: &Principal, wanted: &[Uuid]) -> Result<Vec<Job>, StoreError> {
        self.read_jobs_by_id(&self.reader, owner, wanted).await
    }

    async fn cancel(&self, id: Uuid, owner: &Principal) -> Result<Change, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        let cancelled = sqlx::query(concat!(
            "update jobs set status = 'cancelled', ready = false, lease_until = null, worker_id = null,
                    due_at = null, checkpoint = null, suspension = null, revision = revision + 1,
                    finished_at = ",
            now!(),
            ", updated_at = ",
            now!(),
            " where id = $1 and tenant = $2 and subject = $3
                and status in ('pending', 'running', 'waiting', 'suspended')
              returning id"
        ))
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_all(&mut *transaction)
        .await?;
        self.tell(&mut transaction, &read_ids(&cancelled)?, EventKind::Cancelled, &json!({}))
            .await?;
        made(transaction, cancelled.len() as u64, id, owner).await
    }

    async fn retry(&self, id: Uuid, owner: &Principal) -> Result<Change, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        // The session's row first, so that it is not stopped for having no unfinished jobs.
        sqlx::query(concat!(
            "select 1 from sessions
             where id = (select session_id from jobs
                         where id = $1 and tenant = $2 and subject = $3)",
            locked!("share")
        ))
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_optional(&mut *transaction)
        .await?;
        // Without a checkpoint (an earlier version kept none) it would begin anew, and call twice.
        let retried = sqlx::query(concat!(
            "update jobs set status = 'waiting', ready = true, finished_at = null, error = null,
                    attempts = 0, throttles = 0, interruptions = 0, revision = revision + 1,
                    due_at = ",
            now!(),
            ", deadline_at = ",
            now!(),
            " + (deadline_at - coalesce(retried_at, created_at)), retried_at = ",
            now!(),
            ", updated_at = ",
            now!(),
            " where id = $1 and tenant = $2 and subject = $3
                and status = 'faulted' and checkpoint is not null
              returning id"
        ))
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_all(&mut *transaction)
        .await?;
        self.tell(&mut transaction, &read_ids(&retried)?, EventKind::Retried, &json!({})).await?;
        made(transaction, retried.len() as u64, id, owner).await
    }

    async fn delete(&self, id: Uuid, owner: &Principal) -> Result<Change, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        // With the row go its events, calls, deliveries, tags, and the key that it came with.
        let deleted = sqlx::query(
            "delete from jobs
             where id = $1 and tenant = $2 and subject = $3
               and status in ('completed', 'faulted', 'cancelled')",
        )
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if deleted == 1 {
            sqlx::query(concat!(
                "delete from idempotency_keys
                 where tenant = $2 and subject = $3 and batch is not null and ",
                contains!("batch", "$1")
            ))
            .bind(id.as_bytes().to_vec())
            .bind(&owner.tenant)
            .bind(&owner.subject)
            .execute(&mut *transaction)
            .await?;
        }
        made(transaction, deleted, id, owner).await
    }
}

#[async_trait]
impl TenantJobs for Database {
    async fn tenant_jobs(
        &self,
        tenant: &str,
        status: Option<JobStatus>,
        page: Page,
    ) -> Result<Vec<TenantJob>, StoreError> {
        let rows = sqlx::query(concat!(
            tenant_jobs!(),
            " where jobs.tenant = $1 and jobs.id < $2
                and (cast($3 as text) is null or jobs.status = $3)
              order by jobs.id desc limit $4"
        ))
        .bind(tenant)
        .bind(page.before.unwrap_or(Uuid::max()))
        .bind(status.map(JobStatus::as_str))
        .bind(i64::from(page.limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(|row| self.read_tenant_job(row)).collect()
    }

    async fn tenant_job(&self, id: Uuid, tenant: &str) -> Result<Option<TenantJob>, StoreError> {
        let row = sqlx::query(concat!(tenant_jobs!(), " where jobs.id = $1 and jobs.tenant = $2"))
            .bind(id)
            .bind(tenant)
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| self.read_tenant_job(&row)).transpose()
    }
}

impl Database {
    /// [`OwnJobs::jobs_by_id`], perhaps within a transaction.
    pub(super) async fn read_jobs_by_id<'c>(
        &self,
        executor: impl Executor<'c, Database = Db>,
        owner: &Principal,
        wanted: &[Uuid],
    ) -> Result<Vec<Job>, StoreError> {
        let rows = sqlx::query(concat!(
            job_with!("cast(null as bytea)", "jobs", "sessions"),
            " where jobs.tenant = $1 and jobs.subject = $2 and jobs.id ",
            among!("$3"),
            " order by jobs.id"
        ))
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(ids(wanted))
        .fetch_all(executor)
        .await?;
        rows.iter().map(|row| self.read_job(owner, row)).collect()
    }

    fn read_tenant_job(&self, row: &<Db as sqlx::Database>::Row) -> Result<TenantJob, StoreError> {
        let id: Uuid = row.try_get("id")?;
        let owner = Principal { tenant: row.try_get("tenant")?, subject: row.try_get("subject")? };
        let error: Option<Vec<u8>> = row.try_get("error")?;
        let suspension: Option<Vec<u8>> = row.try_get("suspension")?;
        let count = |column| row.try_get::<i32, _>(column).map(i32::unsigned_abs);
        Ok(TenantJob {
            id,
            status: word(row.try_get("status")?)?,
            definition: DefinitionName {
                namespace: row.try_get("namespace")?,
                name: row.try_get("name")?,
                version: row.try_get("version")?,
            },
            session_key: row.try_get("session_key")?,
            progress: from_json("progress", id, row.try_get("progress")?)?,
            due_at: row.try_get("due_at")?,
            attempts: count("attempts")?,
            throttles: count("throttles")?,
            interruptions: count("interruptions")?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            updated_at: row.try_get("updated_at")?,
            finished_at: row.try_get("finished_at")?,
            deadline_at: row.try_get("deadline_at")?,
            error: error
                .map(|sealed| self.open_json(job_place(id, "error", &owner), &sealed))
                .transpose()?,
            suspension: suspension
                .map(|sealed| self.open_json(job_place(id, "suspension", &owner), &sealed))
                .transpose()?,
            subject: owner.subject,
        })
    }
}

/// Commits what changed one row; otherwise says why none was.
async fn made(
    mut transaction: Transaction<'_, Db>,
    rows: u64,
    id: Uuid,
    owner: &Principal,
) -> Result<Change, StoreError> {
    if rows > 0 {
        transaction.commit().await?;
        return Ok(Change::Made);
    }
    let there = sqlx::query("select 1 from jobs where id = $1 and tenant = $2 and subject = $3")
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_optional(&mut *transaction)
        .await?;
    Ok(if there.is_some() { Change::NotAllowed } else { Change::Unknown })
}
