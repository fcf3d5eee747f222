use async_trait::async_trait;
use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sqlx::{Executor, Row, Transaction};
use uuid::Uuid;

use super::{
    super::{Db, begin},
    Database, from_json, job_place, micros, read_ids, to_json, word,
};
use crate::{
    identity::{AssertionHash, Principal},
    jobs::{DefinitionName, EventKind, Job},
    storage::{
        Grant, IdempotencyKey, KnownGrant, KnownSession, NewGrant, NewTokens, Replay,
        SessionSelector, StoreError, Submission, Submissions, Submitted,
    },
    workflow::Progress,
};

/// How long an `Idempotency-Key` is remembered.
const REPLAY_WINDOW_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

#[async_trait]
impl Submissions for Database {
    async fn find_session(
        &self,
        owner: &Principal,
        client_id: &str,
        selector: SessionSelector<'_>,
    ) -> Result<Option<KnownSession>, StoreError> {
        let query = match selector {
            SessionSelector::Key(key) => sqlx::query(
                "select id, state, assertion_hash from sessions
                 where tenant = $1 and subject = $2 and client_id = $3 and session_key = $4",
            )
            .bind(&owner.tenant)
            .bind(&owner.subject)
            .bind(client_id)
            .bind(key),
            SessionSelector::Allocated(hash) => sqlx::query(
                "select id, state, assertion_hash from sessions
                 where tenant = $1 and subject = $2 and client_id = $3 and allocated_for = $4",
            )
            .bind(&owner.tenant)
            .bind(&owner.subject)
            .bind(client_id)
            .bind(hash.as_bytes()),
        };
        let Some(row) = query.fetch_optional(&self.reader).await? else { return Ok(None) };
        let id: Uuid = row.try_get("id")?;
        let hash: Vec<u8> = row.try_get("assertion_hash")?;
        Ok(Some(KnownSession {
            id,
            grants: self.known_grants(id).await?,
            state: word(row.try_get("state")?)?,
            assertion_hash: AssertionHash::from_bytes(&hash)
                .ok_or_else(|| sqlx::Error::Decode("a digest has 32 bytes".into()))?,
        }))
    }

    async fn find_replay(
        &self,
        owner: &Principal,
        key: &IdempotencyKey<'_>,
    ) -> Result<Replay, StoreError> {
        let row = sqlx::query(concat!(
            "select job_id, body_fingerprint from idempotency_keys
             where tenant = $1 and subject = $2 and key_hash = $3 and created_at > ",
            after!("-$4")
        ))
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(key_hash(key))
        .bind(REPLAY_WINDOW_MICROS)
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(Replay::New) };
        let job_id: Uuid = row.try_get("job_id")?;
        let fingerprint: Vec<u8> = row.try_get("body_fingerprint")?;
        let same = self.cipher.matches(&fingerprint, key.body).map_err(|source| {
            StoreError::Undecryptable {
                table: "idempotency_keys",
                column: "body_fingerprint",
                row: job_id,
                source,
            }
        })?;
        Ok(if same { Replay::Same(job_id) } else { Replay::Different })
    }

    async fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        let session_id = match submission.grant {
            None => None,
            Some(Grant::Known(id)) => {
                let active = sqlx::query(concat!(
                    "select 1 from sessions
                     where id = $1 and tenant = $2 and subject = $3 and state = 'active'",
                    locked!("share")
                ))
                .bind(id)
                .bind(&submission.owner.tenant)
                .bind(&submission.owner.subject)
                .fetch_optional(&mut *transaction)
                .await?;
                if active.is_none() {
                    return Ok(Submitted::SessionChanged);
                }
                Some(id)
            }
            Some(Grant::New(grant)) => {
                let id = self.write_grant(&mut transaction, submission.owner, grant).await?;
                self.wake_suspended(&mut transaction, id).await?;
                Some(id)
            }
        };
        self.insert_job(&mut transaction, submission, session_id).await?;
        // After the job: it is told of what happened in its lifetime.
        if let (Some(Grant::New(grant)), Some(id)) = (submission.grant, session_id) {
            self.tell_of_exchange(&mut transaction, id, grant).await?;
        }
        if let Some(key) = &submission.idempotency
            && !self.insert_key(&mut transaction, submission.owner, key, submission.job.id).await?
        {
            transaction.rollback().await?;
            return Ok(match self.find_replay(submission.owner, key).await? {
                Replay::Same(job) => Submitted::Replayed(job),
                Replay::Different | Replay::New => Submitted::KeyReused,
            });
        }
        // Not after the commit: then the job is there, whether it can be read or not.
        let job = self.read_own_job(&mut *transaction, submission.job.id, submission.owner).await?;
        let job = job.ok_or(sqlx::Error::RowNotFound)?;
        transaction.commit().await?;
        Ok(Submitted::Created(Box::new(job)))
    }

    async fn replace_grant(&self, owner: &Principal, grant: &NewGrant) -> Result<(), StoreError> {
        let mut transaction = begin(&self.writer).await?;
        let id = self.write_grant(&mut transaction, owner, grant).await?;
        self.tell_of_exchange(&mut transaction, id, grant).await?;
        self.wake_suspended(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn definition(&self, id: Uuid, owner: &Principal) -> Result<Option<Value>, StoreError> {
        let row = sqlx::query(
            "select definition from jobs where id = $1 and tenant = $2 and subject = $3",
        )
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed: Vec<u8> = row.try_get("definition")?;
        self.open_json(job_place(id, "definition", owner), &sealed).map(Some)
    }

    async fn job(&self, id: Uuid, owner: &Principal) -> Result<Option<Job>, StoreError> {
        self.read_own_job(&self.reader, id, owner).await
    }
}

impl Database {
    async fn read_own_job<'c>(
        &self,
        executor: impl Executor<'c, Database = Db>,
        id: Uuid,
        owner: &Principal,
    ) -> Result<Option<Job>, StoreError> {
        let row = sqlx::query(
            "select jobs.status, jobs.namespace, jobs.name, jobs.version, sessions.session_key,
                    jobs.progress, jobs.due_at, jobs.attempts, jobs.tags, jobs.created_at,
                    jobs.started_at, jobs.updated_at, jobs.finished_at, jobs.deadline_at,
                    jobs.output, jobs.error, jobs.suspension, jobs.warnings, jobs.revision
             from jobs left join sessions on sessions.id = jobs.session_id
             where jobs.id = $1 and jobs.tenant = $2 and jobs.subject = $3",
        )
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_optional(executor)
        .await?;
        row.map(|row| self.read_job(id, owner, &row)).transpose()
    }

    /// Writes tokens into the session under the grant's key, which is made if need be.
    async fn write_grant(
        &self,
        transaction: &mut Transaction<'_, Db>,
        owner: &Principal,
        grant: &NewGrant,
    ) -> Result<Uuid, StoreError> {
        let id = loop {
            if let Some(found) = find_for_update(transaction, owner, grant).await? {
                break found;
            }
            let id = Uuid::now_v7();
            let allocated = allocate_key();
            // Active a few lines below, with its tokens: they are encrypted for this id.
            let inserted = sqlx::query(concat!(
                "insert into sessions (id, tenant, subject, client_id, session_key, allocated_for,
                                       assertion_hash, state, version, created_at, refreshed_at)
                 values ($1, $2, $3, $4, $5, $6, $7, 'interaction_required', 0, ",
                now!(),
                ", ",
                now!(),
                ") on conflict do nothing"
            ))
            .bind(id)
            .bind(&owner.tenant)
            .bind(&owner.subject)
            .bind(&grant.client_id)
            .bind(grant.session_key.as_ref().unwrap_or(&allocated))
            .bind(grant.session_key.is_none().then(|| grant.assertion_hash.as_bytes()))
            .bind(grant.assertion_hash.as_bytes())
            .execute(&mut **transaction)
            .await?;
            // None inserted: another process came first, and its row is there now.
            if inserted.rows_affected() == 1 {
                break id;
            }
        };
        sqlx::query(concat!(
            "update sessions set state = 'active', version = version + 1, assertion_hash = $2,
                    refreshed_at = ",
            now!(),
            " where id = $1"
        ))
        .bind(id)
        .bind(grant.assertion_hash.as_bytes())
        .execute(&mut **transaction)
        .await?;
        for tokens in &grant.tokens {
            self.put_tokens(transaction, id, owner, tokens).await?;
        }
        Ok(id)
    }

    async fn known_grants(&self, session_id: Uuid) -> Result<Vec<KnownGrant>, StoreError> {
        let rows = sqlx::query(
            "select grants.api, grants.refresh_token is not null as renewable,
                    (select max(expires_at) from access_tokens
                     where access_tokens.session_id = grants.session_id
                       and access_tokens.api = grants.api and not grants.dead) as expires_at
             from grants where grants.session_id = $1 order by grants.api",
        )
        .bind(session_id)
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(KnownGrant {
                    api: row.try_get("api")?,
                    renewable: row.try_get("renewable")?,
                    expires_at: row.try_get("expires_at")?,
                })
            })
            .collect()
    }

    async fn insert_job(
        &self,
        transaction: &mut Transaction<'_, Db>,
        submission: &Submission<'_>,
        session_id: Option<Uuid>,
    ) -> Result<(), StoreError> {
        let Submission { owner, client, job, .. } = submission;
        let told = client.map_or_else(|| json!({}), |client| json!({ "client": client }));
        let progress = Progress { total: job.total_tasks, ..Progress::default() };
        let callback = job
            .callback
            .map(|callback| self.seal_json(job_place(job.id, "callback", owner), &callback.url));
        let callback_events = job.callback.map(|callback| {
            let words: Vec<&str> = callback.events.iter().map(|kind| kind.as_str()).collect();
            words.join(" ")
        });
        sqlx::query(submitted!(concat!(
            "insert into jobs (id, tenant, subject, session_id, status, due_at, namespace,
                               name, version, definition, input, progress, tags, warnings,
                               traceparent, callback, callback_events, created_at, updated_at,
                               deadline_at)
             values ($1, $2, $3, $4, 'pending',
                     -- A time that has passed is no way to the front of the queue.
                     case when $5 > ",
            now!(),
            " then $5 else ",
            now!(),
            " end, $6, $7, $8, $9, $10, $11, $12, $13, $14, $16, $17, ",
            now!(),
            ", ",
            now!(),
            ", ",
            after!("$15"),
            ")"
        )))
        .bind(job.id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(session_id)
        .bind(job.run_at)
        .bind(&job.name.namespace)
        .bind(&job.name.name)
        .bind(&job.name.version)
        .bind(self.seal_json(job_place(job.id, "definition", owner), job.definition))
        .bind(self.seal_json(job_place(job.id, "input", owner), job.input))
        .bind(to_json(&progress))
        .bind(to_json(job.tags))
        .bind(to_json(&job.warnings))
        .bind(job.traceparent)
        .bind(micros(job.deadline))
        .bind(callback)
        .bind(callback_events)
        .bind(to_json(&told))
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }

    /// False if the key is in use.
    async fn insert_key(
        &self,
        transaction: &mut Transaction<'_, Db>,
        owner: &Principal,
        key: &IdempotencyKey<'_>,
        job: Uuid,
    ) -> Result<bool, StoreError> {
        let hash = key_hash(key);
        sqlx::query(concat!(
            "delete from idempotency_keys
             where tenant = $1 and subject = $2 and key_hash = $3 and created_at <= ",
            after!("-$4")
        ))
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(&hash)
        .bind(REPLAY_WINDOW_MICROS)
        .execute(&mut **transaction)
        .await?;
        let inserted = sqlx::query(concat!(
            "insert into idempotency_keys (tenant, subject, key_hash, body_fingerprint, job_id,
                                           created_at)
             values ($1, $2, $3, $4, $5, ",
            now!(),
            ") on conflict do nothing"
        ))
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(&hash)
        .bind(self.cipher.fingerprint(key.body))
        .bind(job)
        .execute(&mut **transaction)
        .await?;
        Ok(inserted.rows_affected() == 1)
    }

    async fn tell_of_exchange(
        &self,
        transaction: &mut Transaction<'_, Db>,
        session_id: Uuid,
        grant: &NewGrant,
    ) -> Result<(), StoreError> {
        for NewTokens { access_token, .. } in &grant.tokens {
            let scope_set = &access_token.scope_set;
            self.tell_of_session(transaction, session_id, EventKind::Exchanged, scope_set).await?;
        }
        Ok(())
    }

    /// Makes every suspended job of the session due. After the session's row was written, so that a
    /// job being suspended at this moment either is seen here or sees the new grant.
    async fn wake_suspended(
        &self,
        transaction: &mut Transaction<'_, Db>,
        session_id: Uuid,
    ) -> Result<(), StoreError> {
        let woken = sqlx::query(concat!(
            "update jobs set status = 'waiting', suspension = null, revision = revision + 1,
                    due_at = ",
            now!(),
            ", updated_at = ",
            now!(),
            " where session_id = $1 and status = 'suspended' returning id"
        ))
        .bind(session_id)
        .fetch_all(&mut **transaction)
        .await?;
        self.tell(transaction, &read_ids(&woken)?, EventKind::Resumed, &json!({})).await
    }

    fn read_job(
        &self,
        id: Uuid,
        owner: &Principal,
        row: &<Db as sqlx::Database>::Row,
    ) -> Result<Job, StoreError> {
        let output: Option<Vec<u8>> = row.try_get("output")?;
        let error: Option<Vec<u8>> = row.try_get("error")?;
        let suspension: Option<Vec<u8>> = row.try_get("suspension")?;
        Ok(Job {
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
            attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
            tags: from_json("tags", id, row.try_get("tags")?)?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            updated_at: row.try_get("updated_at")?,
            finished_at: row.try_get("finished_at")?,
            deadline_at: row.try_get("deadline_at")?,
            output: output
                .map(|sealed| self.open_json(job_place(id, "output", owner), &sealed))
                .transpose()?,
            error: error
                .map(|sealed| self.open_json(job_place(id, "error", owner), &sealed))
                .transpose()?,
            suspension: suspension
                .map(|sealed| self.open_json(job_place(id, "suspension", owner), &sealed))
                .transpose()?,
            warnings: from_json("warnings", id, row.try_get("warnings")?)?,
            revision: row.try_get("revision")?,
        })
    }
}

/// Finds the session under the grant's key and keeps others from changing it until the commit.
async fn find_for_update(
    transaction: &mut Transaction<'_, Db>,
    owner: &Principal,
    grant: &NewGrant,
) -> Result<Option<Uuid>, StoreError> {
    let query = match &grant.session_key {
        Some(key) => sqlx::query(concat!(
            "select id from sessions
             where tenant = $1 and subject = $2 and client_id = $3 and session_key = $4",
            locked!("update")
        ))
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(&grant.client_id)
        .bind(key),
        None => sqlx::query(concat!(
            "select id from sessions
             where tenant = $1 and subject = $2 and client_id = $3 and allocated_for = $4",
            locked!("update")
        ))
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(&grant.client_id)
        .bind(grant.assertion_hash.as_bytes()),
    };
    let row = query.fetch_optional(&mut **transaction).await?;
    Ok(row.map(|row| row.try_get("id")).transpose()?)
}

/// Returns a key that nobody can guess and that says nothing about the user's token: 128 random bits.
fn allocate_key() -> String {
    let mut random = [0; 16];
    rand::fill(&mut random).expect("the operating system gives random bytes");
    format!("s_{}", URL_SAFE_NO_PAD.encode(random))
}

fn key_hash(key: &IdempotencyKey<'_>) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(key.endpoint.as_bytes());
    context.update(b"\0");
    context.update(key.key.as_bytes());
    context.finish().as_ref().to_vec()
}
