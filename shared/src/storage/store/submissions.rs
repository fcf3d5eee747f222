use std::collections::HashMap;

use async_trait::async_trait;
use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sqlx::{Row, Transaction};
use uuid::Uuid;

use super::{
    super::{Connections, Db, begin, insert_jobs, insert_jobs_at_once},
    Database, from_json, job_place, micros, read_ids, to_json, word,
};
use crate::{
    identity::{AssertionHash, Principal},
    jobs::{Callback, DefinitionName, EventKind, Job},
    storage::{
        Batch, Gather, Grant, IdempotencyKey, KnownGrant, KnownSession, NewGrant, NewJob,
        NewTokens, Replay, SessionSelector, StoreError, Submission, Submissions, Submitted,
        is_refusal,
    },
    time::Timestamp,
    workflow::Progress,
};

/// Selects jobs with their sessions' keys out of two relations, as [`Database::read_job`] reads them.
macro_rules! job_with {
    ($output:literal, $jobs:literal, $sessions:literal) => {
        concat!(
            "select jobs.id, jobs.status, jobs.namespace, jobs.name, jobs.version,
                    sessions.session_key, jobs.progress, jobs.due_at, jobs.attempts, jobs.tags,
                    jobs.created_at, jobs.started_at, jobs.updated_at, jobs.finished_at,
                    jobs.deadline_at, ",
            $output,
            " as output, jobs.error, jobs.suspension, jobs.warnings, jobs.revision
             from ",
            $jobs,
            " as jobs left join ",
            $sessions,
            " as sessions on sessions.id = jobs.session_id"
        )
    };
}
pub(in super::super) use job_with;

/// A job as its row is first written.
pub(in super::super) struct JobRow {
    pub(in super::super) id: Uuid,
    pub(in super::super) tenant: String,
    pub(in super::super) subject: String,
    /// The same for all jobs of one user.
    pub(in super::super) lane: i64,
    pub(in super::super) session_id: Option<Uuid>,
    /// A time that has passed is no way to the front of the queue.
    pub(in super::super) run_at: Option<Timestamp>,
    pub(in super::super) deadline_micros: i64,
    pub(in super::super) priority: i16,
    pub(in super::super) namespace: String,
    pub(in super::super) name: String,
    pub(in super::super) version: String,
    pub(in super::super) definition: Vec<u8>,
    pub(in super::super) input: Vec<u8>,
    pub(in super::super) progress: String,
    pub(in super::super) tags: String,
    pub(in super::super) warnings: String,
    pub(in super::super) traceparent: String,
    pub(in super::super) callback: Option<Vec<u8>>,
    pub(in super::super) callback_events: Option<String>,
    /// Data of the job's first event: JSON.
    pub(in super::super) told: String,
}

/// Takes jobs that are submitted by themselves, under sessions that are known; answers with their rows, or
/// without one if the session cannot be used any more.
pub(in super::super) type Submitter =
    Gather<JobRow, Option<<Db as sqlx::Database>::Row>, sqlx::Error>;

pub(in super::super) fn start_submitter(writer: &Connections) -> Submitter {
    let writer = writer.clone();
    let write = move |rows: Batch<JobRow>| {
        let writer = writer.clone();
        async move {
            let inserted = insert_jobs_at_once(&writer, &rows).await?;
            let mut by_id = HashMap::with_capacity(inserted.len());
            for row in inserted {
                by_id.insert(row.try_get::<Uuid, _>("id")?, row);
            }
            Ok(rows.iter().map(|row| by_id.remove(&row.id)).collect())
        }
    };
    Gather::start(write, is_refusal)
}

/// In which lane of the queue a user's jobs stand: the same in every release.
fn lane(owner: &Principal) -> i64 {
    let name = [owner.tenant.as_bytes(), b"\0", owner.subject.as_bytes()].concat();
    let hash = digest::digest(&digest::SHA256, &name);
    let (first, _) = hash.as_ref().split_first_chunk().expect("a hash has 32 bytes");
    i64::from_be_bytes(*first)
}

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
        macro_rules! session_by {
            ($key:literal) => {
                concat!(
                    "select sessions.id, state, assertion_hash, grants.api,
                            grants.refresh_token is not null as renewable,
                            (select max(expires_at) from access_tokens
                             where access_tokens.session_id = grants.session_id
                               and access_tokens.api = grants.api and not grants.dead)
                                as expires_at
                     from sessions left join grants on grants.session_id = sessions.id
                     where tenant = $1 and subject = $2 and client_id = $3 and ",
                    $key,
                    " = $4 order by grants.api"
                )
            };
        }
        let query = match selector {
            SessionSelector::Key(_) => sqlx::query(session_by!("session_key")),
            SessionSelector::Allocated(_) => sqlx::query(session_by!("allocated_for")),
        };
        let query = query.bind(&owner.tenant).bind(&owner.subject).bind(client_id);
        let query = match selector {
            SessionSelector::Key(key) => query.bind(key),
            SessionSelector::Allocated(hash) => query.bind(hash.as_bytes()),
        };
        let rows = query.fetch_all(&self.reader).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let hash: Vec<u8> = row.try_get("assertion_hash")?;
        let mut grants = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(api) = row.try_get("api")? else { continue };
            let (renewable, expires_at) = (row.try_get("renewable")?, row.try_get("expires_at")?);
            grants.push(KnownGrant { api, renewable, expires_at });
        }
        Ok(Some(KnownSession {
            id: row.try_get("id")?,
            grants,
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
            "select job_id, batch, body_fingerprint from idempotency_keys
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
        if !same {
            return Ok(Replay::Different);
        }
        let batch: Option<Vec<u8>> = row.try_get("batch")?;
        Ok(Replay::Same(batch.map_or_else(|| vec![job_id], |batch| ids_of(&batch))))
    }

    async fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, StoreError> {
        let Submission { owner, client, grants, idempotency, jobs } = submission;
        let told = to_json(&client.map_or_else(|| json!({}), |client| json!({ "client": client })));
        // One job and nothing else: its row is written together with those of others.
        if let ([job], None) = (&jobs[..], idempotency)
            && let Some(sessions) = grants.iter().map(Grant::known).collect::<Option<Vec<_>>>()
        {
            let inserted = self.submitter.write(self.job_row(owner, &told, &sessions, job)).await;
            return match inserted.map_err(StoreError::Database)? {
                Some(row) => Ok(Submitted::Created(vec![self.read_job(owner, &row)?])),
                None => Ok(Submitted::SessionChanged),
            };
        }
        let mut transaction = begin(&self.writer).await?;
        let mut sessions = Vec::with_capacity(grants.len());
        for grant in grants {
            sessions.push(match grant {
                Grant::Known(id) => *id,
                Grant::New(grant) => {
                    let id = self.write_grant(&mut transaction, owner, grant).await?;
                    self.wake_suspended(&mut transaction, id).await?;
                    id
                }
            });
        }
        let rows: Vec<_> =
            jobs.iter().map(|job| self.job_row(owner, &told, &sessions, job)).collect();
        let inserted = insert_jobs(&mut transaction, &rows).await?;
        if inserted.len() < rows.len() {
            return Ok(Submitted::SessionChanged);
        }
        // After the jobs: they are told of what happened in their lifetime.
        for (grant, id) in grants.iter().zip(&sessions) {
            if let Grant::New(grant) = grant {
                self.tell_of_exchange(&mut transaction, *id, grant).await?;
            }
        }
        if let Some(key) = idempotency
            && !self.insert_key(&mut transaction, owner, key, jobs).await?
        {
            transaction.rollback().await?;
            return Ok(match self.find_replay(owner, key).await? {
                Replay::Same(jobs) => Submitted::Replayed(jobs),
                Replay::Different | Replay::New => Submitted::KeyReused,
            });
        }
        transaction.commit().await?;
        let jobs = inserted.iter().map(|row| self.read_job(owner, row));
        Ok(Submitted::Created(jobs.collect::<Result<_, _>>()?))
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
        let row = sqlx::query(concat!(
            job_with!("jobs.output", "jobs", "sessions"),
            " where jobs.id = $1 and jobs.tenant = $2 and jobs.subject = $3"
        ))
        .bind(id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .fetch_optional(&self.reader)
        .await?;
        row.map(|row| self.read_job(owner, &row)).transpose()
    }
}

impl Database {
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

    fn job_row(
        &self,
        owner: &Principal,
        told: &str,
        sessions: &[Uuid],
        job: &NewJob<'_>,
    ) -> JobRow {
        let place = |column| job_place(job.id, column, owner);
        let progress = Progress { total: job.total_tasks, ..Progress::default() };
        let words = |callback: &Callback| {
            let words: Vec<&str> = callback.events.iter().map(|kind| kind.as_str()).collect();
            words.join(" ")
        };
        JobRow {
            id: job.id,
            tenant: owner.tenant.clone(),
            subject: owner.subject.clone(),
            lane: lane(owner),
            told: told.to_owned(),
            session_id: job.grant.and_then(|grant| sessions.get(grant).copied()),
            run_at: job.run_at,
            deadline_micros: micros(job.deadline),
            priority: i16::from(job.priority),
            namespace: job.name.namespace.clone(),
            name: job.name.name.clone(),
            version: job.name.version.clone(),
            definition: self.seal_json(place("definition"), job.definition),
            input: self.seal_json(place("input"), job.input),
            progress: to_json(&progress),
            tags: to_json(job.tags),
            warnings: to_json(&job.warnings),
            traceparent: job.traceparent.to_owned(),
            callback: job.callback.map(|callback| self.seal_json(place("callback"), &callback.url)),
            callback_events: job.callback.map(words),
        }
    }

    /// False if the key is in use.
    async fn insert_key(
        &self,
        transaction: &mut Transaction<'_, Db>,
        owner: &Principal,
        key: &IdempotencyKey<'_>,
        jobs: &[NewJob<'_>],
    ) -> Result<bool, StoreError> {
        let hash = key_hash(key);
        let batch = (jobs.len() > 1)
            .then(|| jobs.iter().flat_map(|job| *job.id.as_bytes()).collect::<Vec<u8>>());
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
                                           batch, created_at)
             values ($1, $2, $3, $4, $5, $6, ",
            now!(),
            ") on conflict do nothing"
        ))
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(&hash)
        .bind(self.cipher.fingerprint(key.body))
        .bind(jobs.first().map(|job| job.id))
        .bind(batch)
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
            "update jobs set status = 'waiting', ready = true, suspension = null, revision = revision + 1,
                    due_at = ",
            now!(),
            ", updated_at = ",
            now!(),
            " where id in (
                 select id from jobs where session_id = $1 and status = 'suspended' order by id",
            locked!("update"),
            ") returning id"
        ))
        .bind(session_id)
        .fetch_all(&mut **transaction)
        .await?;
        self.tell(transaction, &read_ids(&woken)?, EventKind::Resumed, &json!({})).await
    }

    /// Reads what `job_with!` selects.
    pub(super) fn read_job(
        &self,
        owner: &Principal,
        row: &<Db as sqlx::Database>::Row,
    ) -> Result<Job, StoreError> {
        let id: Uuid = row.try_get("id")?;
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

fn ids_of(batch: &[u8]) -> Vec<Uuid> {
    let (ids, _) = batch.as_chunks::<16>();
    ids.iter().map(|id| Uuid::from_bytes(*id)).collect()
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
