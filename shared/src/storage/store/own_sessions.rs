use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::json;
use sqlx::{Row, Transaction};
use uuid::Uuid;

use super::{
    super::{Db, begin},
    Database, grants, read_ids, word,
};
use crate::{
    identity::{Principal, RefreshToken, SuspensionReason},
    jobs::EventKind,
    storage::{OwnSessions, SessionView, StoreError},
};

#[async_trait]
impl OwnSessions for Database {
    async fn sessions(
        &self,
        owner: &Principal,
        client_id: &str,
    ) -> Result<Vec<SessionView>, StoreError> {
        let rows = sqlx::query(
            "select id, session_key, state, created_at, refreshed_at,
                    (select min(access_tokens.expires_at)
                     from grants join access_tokens using (session_id, api)
                     where grants.session_id = sessions.id and grants.refresh_token is null
                    ) as ends_at
             from sessions
             where tenant = $1 and subject = $2 and client_id = $3
               and (state <> 'stopped' or exists (
                    select 1 from jobs where jobs.session_id = sessions.id
                    and jobs.tenant = sessions.tenant and jobs.subject = sessions.subject
                    and jobs.status in ('pending', 'running', 'waiting', 'suspended')))
             order by id desc",
        )
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(client_id)
        .fetch_all(&self.reader)
        .await?;
        let counts = sqlx::query(
            "select session_id, status, count(*) as jobs from jobs
             where tenant = $1 and subject = $2 and session_id is not null
             group by session_id, status",
        )
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_all(&self.reader)
        .await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in &rows {
            let id: Uuid = row.try_get("id")?;
            views.push(SessionView {
                key: row.try_get("session_key")?,
                state: word(row.try_get("state")?)?,
                created_at: row.try_get("created_at")?,
                refreshed_at: row.try_get("refreshed_at")?,
                ends_at: row.try_get("ends_at")?,
                jobs: counts_of(id, &counts)?,
            });
        }
        Ok(views)
    }

    async fn stop_session(
        &self,
        owner: &Principal,
        client_id: &str,
        key: &str,
    ) -> Result<Option<Vec<RefreshToken>>, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        // The session's row first, as everybody who changes one does: refreshes, resumes and
        // suspensions wait here or see what is written.
        let stopped = sqlx::query(
            "update sessions set state = 'stopped', version = version + 1
             where tenant = $1 and subject = $2 and client_id = $3 and session_key = $4
               and state <> 'stopped' returning id",
        )
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(client_id)
        .bind(key)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(stopped) = stopped else { return Ok(None) };
        let id: Uuid = stopped.try_get("id")?;
        let tokens = self.erase_tokens(&mut transaction, id, owner).await?;
        // Running ones too: with the lease goes the right to record, and so to send, another call that
        // changes something.
        let suspended = sqlx::query(concat!(
            "update jobs set status = 'suspended', ready = false, suspension = null,
                    lease_until = null,
                    worker_id = null, due_at = deadline_at, revision = revision + 1, updated_at = ",
            now!(),
            " where id in (
                 select id from jobs
                 where session_id = $1 and status in ('pending', 'running', 'waiting') order by id",
            locked!("update"),
            ") returning id"
        ))
        .bind(id)
        .fetch_all(&mut *transaction)
        .await?;
        let data = json!({ "suspension": { "reason": SuspensionReason::SessionRevoked } });
        let jobs = read_ids(&suspended)?;
        self.tell(&mut transaction, &jobs, EventKind::Suspended, &data).await?;
        self.tell_of_session(&mut transaction, id, EventKind::Stopped, "").await?;
        transaction.commit().await?;
        Ok(Some(tokens))
    }
}

impl Database {
    /// Erases what a session, whose row is locked, could get tokens with and what it got; returns its
    /// refresh tokens.
    pub(super) async fn erase_tokens(
        &self,
        transaction: &mut Transaction<'_, Db>,
        id: Uuid,
        owner: &Principal,
    ) -> Result<Vec<RefreshToken>, StoreError> {
        let rows = sqlx::query(
            "select api, refresh_token from grants
             where session_id = $1 and refresh_token is not null",
        )
        .bind(id)
        .fetch_all(&mut **transaction)
        .await?;
        let mut tokens = Vec::with_capacity(rows.len());
        for row in &rows {
            let (api, sealed): (String, Vec<u8>) =
                (row.try_get("api")?, row.try_get("refresh_token")?);
            // One that no key opens any more can be erased all the same.
            let place = grants::refresh_token_place(id, &api, owner);
            tokens.extend(
                self.open(place, &sealed)
                    .ok()
                    .and_then(|token| String::from_utf8(token).ok().map(RefreshToken::new)),
            );
        }
        // The rows stay: their version keeps a refresh under way from writing its answer.
        sqlx::query(
            "update grants set refresh_token = null, refresher = null, refresh_until = null,
                    version = version + 1
             where session_id = $1",
        )
        .bind(id)
        .execute(&mut **transaction)
        .await?;
        sqlx::query("delete from access_tokens where session_id = $1")
            .bind(id)
            .execute(&mut **transaction)
            .await?;
        Ok(tokens)
    }
}

fn counts_of(
    session_id: Uuid,
    counts: &[<Db as sqlx::Database>::Row],
) -> Result<BTreeMap<crate::jobs::JobStatus, u64>, StoreError> {
    let mut jobs = BTreeMap::new();
    for row in counts {
        if row.try_get::<Uuid, _>("session_id")? == session_id {
            let count: i64 = row.try_get("jobs")?;
            jobs.insert(word(row.try_get("status")?)?, count.unsigned_abs());
        }
    }
    Ok(jobs)
}
