//! PostgreSQL: any number of processes on one database.

/// The database's clock.
macro_rules! now {
    () => {
        "now()"
    };
}
/// Microseconds since 1970.
macro_rules! epoch_micros {
    () => {
        "cast(extract(epoch from now()) * 1000000 as bigint)"
    };
}
/// That many microseconds from now.
macro_rules! after {
    ($micros:expr) => {
        concat!("(now() + ", $micros, "::bigint * interval '1 microsecond')")
    };
}
/// A number from 0 to 1, another one for each row.
macro_rules! chance {
    () => {
        "random()"
    };
}
/// Is one of the ids.
macro_rules! among {
    ($ids:literal) => {
        concat!("= any(", $ids, ")")
    };
}
/// Is one of those that are selected. Not `in (…)`: whose plan is made for any arguments, that reads a
/// large table whole.
macro_rules! selected {
    ($select:literal) => {
        concat!("= any(array(", $select, "))")
    };
}
/// Where a row is.
macro_rules! row_id {
    () => {
        "ctid"
    };
}
/// Has these bytes in it.
macro_rules! contains {
    ($column:literal, $bytes:literal) => {
        concat!("position(", $bytes, " in ", $column, ") > 0")
    };
}
/// Keeps others from changing (`share`) or also locking (`update`) the selected rows until the commit;
/// `update skip locked` selects only those that nobody else keeps so.
macro_rules! locked {
    ($strength:literal) => {
        concat!(" for ", $strength)
    };
}

mod connections;
#[path = "../store/mod.rs"]
mod store;
#[cfg(test)]
mod tests;

use std::{str::FromStr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sqlx::{
    Connection, Decode, Encode, Executor, PgConnection, PgExecutor, Pool, Postgres, Row,
    Transaction, Type,
    encode::IsNull,
    error::BoxDynError,
    migrate::Migrator,
    postgres::{
        PgArgumentBuffer, PgConnectOptions, PgListener, PgPoolOptions, PgRow, PgTypeInfo,
        PgValueRef,
    },
};
use tokio::time::timeout;
use uuid::Uuid;

use self::{
    connections::Connections,
    store::{JobRow, RecordRow},
};
use super::{
    SchemaState, SharedStore, StoreError, announcements, announcements::Announcements,
    cipher::Cipher,
};
use crate::{config::DatabaseConfig, time::Timestamp};

type Db = Postgres;

/// The users who have jobs that are ready take turns, from the lane after `$4` on and around; each gets
/// as many places as the others, and its own jobs take them by priority.
///
/// Each lane is one step in the index, however many jobs are in it. `= any(array(…))` and not `in (…)`:
/// the planner may run a sub-select of `in` more than once, and then it locks more rows than the limit
/// says.
const CLAIM: &str = concat!(
    "with recursive above as (
        (select lane from jobs where ready and lane > $4 order by lane limit 1)
        union all
        select (select jobs.lane from jobs where ready and jobs.lane > above.lane
                order by jobs.lane limit 1)
        from above where lane is not null),
     below as (
        (select lane from jobs where ready and lane <= $4 order by lane limit 1)
        union all
        select (select jobs.lane from jobs where ready and jobs.lane > below.lane and jobs.lane <= $4
                order by jobs.lane limit 1)
        from below where lane is not null),
     lanes as materialized (
        select lane from (select lane from above union all select lane from below) as around
        where lane is not null limit $2),
     places as materialized (
        select place.id
        from lanes cross join lateral (
            select id from jobs where ready and jobs.lane = lanes.lane
            order by priority desc, due_at
            limit (select ($2 + count(*) - 1) / count(*) from lanes)
            for update skip locked) as place
        limit $2),
     claimed as (
     update jobs set status = 'running', worker_id = $1, lease_id = lease_id + 1, due_at = null,
            ready = false, revision = revision + 1, lease_until = ",
    after!("$3"),
    ", started_at = coalesce(started_at, now()), updated_at = now()
     where id = any(array(select id from places))
     returning id, lease_id, lane, tenant, subject, session_id, definition, input, checkpoint,
               created_at, deadline_at, traceparent, interruptions, updated_at as claimed_at,
               revision, (select version from sessions where id = session_id) as session_version),
     started as (
        insert into job_events (job_id, sequence, at, kind, data)
        select id, revision, claimed_at, 'started', '{}' from claimed where lease_id = 1)
     select *, (select ($2 + count(*) - 1) / count(*) from lanes) as share from claimed"
);

/// Makes up to `$1` jobs ready whose time has come.
const WAKE_DUE: &str = "with due as materialized (
        select id from jobs where not ready and due_at <= now()
        order by due_at limit $1
        for update skip locked),
     woken as (
        update jobs set ready = true where id = any(array(select id from due)) returning id)
     select exists (select 1 from woken)
                -- Ordered, so that it is never a search through the table for what is not there.
                or (select lane from jobs where ready order by lane limit 1) is not null as ready,
            (select min(due_at) from jobs where not ready and due_at is not null) as due_at,
            now() as now";

/// What records change of their jobs, with the events, the calls and the webhooks that were asked for:
/// what the fence keeps from changing tells nobody of a change. Each event has a revision of its own,
/// the last one the job's.
const RECORD: &str = "with record as (
        select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::bytea[],
                             $6::text[], $7::integer[], $8::integer[], $9::bytea[], $10::bytea[],
                             $11::bytea[], $12::bigint[], $13::text[], $14::text[])
             as record (id, lease_id, status, due_at, checkpoint, progress, attempts, throttles,
                        output, error, suspension, told, events, calls)),
     changed as (
        update jobs set
            status = record.status,
            lease_until = case when record.status = 'running' then lease_until end,
            worker_id = case when record.status = 'running' then worker_id end,
            due_at = case
                when record.status = 'waiting' then coalesce(record.due_at, now())
                when record.status = 'suspended' then deadline_at
            end,
            ready = record.status = 'waiting' and coalesce(record.due_at <= now(), true),
            finished_at = case when record.status in ('completed', 'faulted') then now() end,
            checkpoint = record.checkpoint, progress = record.progress,
            attempts = record.attempts, throttles = record.throttles, output = record.output,
            error = record.error, suspension = record.suspension,
            -- It got somewhere: what interrupts it from now on is counted anew.
            interruptions = case when record.status in ('waiting', 'suspended') then 0
                                 else interruptions end,
            revision = revision + record.told, updated_at = now()
        from record
        -- Leased, and so `running`: with that word the planner might walk the index of all that run.
        where jobs.id = record.id and jobs.lease_id = record.lease_id and lease_until is not null
        returning jobs.id, revision, updated_at, callback_events, told, events, calls),
     event as (
        select id, revision - told + 1 + ordinal as sequence, updated_at, kind, data,
               callback_events
        from changed cross join lateral
             json_to_recordset(events::json) as event (ordinal integer, kind text, data text)),
     told as (
        insert into job_events (job_id, sequence, at, kind, data)
        select id, sequence, updated_at, kind, data from event),
     asked as (
        insert into webhook_deliveries (job_id, sequence, due_at)
        select id, sequence, updated_at from event
        where callback_events like '%' || kind || '%'),
     called as (
        insert into job_calls (job_id, sequence, ordinal, at, duration_ms, task, api, scopes,
                               method, path, attempt, outcome, status)
        select id, revision, ordinal, 'epoch'::timestamptz + at * interval '1 microsecond',
               duration_ms, task, api, scopes, method, decode(path, 'hex'), attempt, outcome,
               status
        from changed cross join lateral
             json_to_recordset(calls::json) as call (
                ordinal integer, at bigint, duration_ms bigint, task text, api text, scopes text,
                method text, path text, attempt integer, outcome text, status integer))
     select id from changed";

/// Inserts jobs, each with its first event and its tags, unless its session cannot be used; a stop that
/// comes at the same time waits until they are there.
const INSERT: &str = concat!(
    "with job as (
        select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::uuid[],
                             $6::timestamptz[], $7::bigint[], $8::smallint[], $9::text[],
                             $10::text[], $11::text[], $12::bytea[], $13::bytea[], $14::text[],
                             $15::text[], $16::text[], $17::text[], $18::bytea[], $19::text[],
                             $20::text[])
             as job (id, tenant, subject, lane, session_id, run_at, deadline, priority, namespace,
                     name, version, definition, input, progress, tags, warnings, traceparent,
                     callback, callback_events, told)),
     acting as materialized (
        select id, tenant, subject, session_key from sessions
        where id = any($5::uuid[]) and state = 'active'
        order by id for share),
     submitted as (
        insert into jobs (id, tenant, subject, lane, session_id, status, ready, due_at, priority,
                          namespace, name, version, definition, input, progress, tags, warnings,
                          traceparent, callback, callback_events, created_at, updated_at,
                          deadline_at)
        select job.id, job.tenant, job.subject, lane, session_id, 'pending',
               coalesce(run_at <= now(), true), greatest(run_at, now()), priority, namespace, name,
               version, definition, input, progress, tags, warnings, traceparent, callback,
               callback_events, now(), now(), now() + deadline * interval '1 microsecond'
        from job left join acting on acting.id = job.session_id
             and acting.tenant = job.tenant and acting.subject = job.subject
        where job.session_id is null or acting.id is not null
        returning *),
     tagged as (
        insert into job_tags (tenant, subject, name, value, job_id)
        select tenant, subject, tag.key, tag.value, id
        from submitted, json_each_text(tags::json) as tag),
     told as (
        insert into job_events (job_id, sequence, at, kind, data)
        select id, revision, created_at, 'submitted', job.told
        from submitted join job using (id))
     ",
    store::job_with!("jobs.output", "submitted", "acting"),
    " order by jobs.id"
);

/// Connections of a process at most.
const CONNECTIONS: u32 = 16;

/// And beside them, for leases: who keeps one never waits behind those who work under it.
const KEEPING: u32 = 2;

/// Who brings the schema up to date holds this advisory lock: "errand", in bytes.
const MIGRATION_LOCK: i64 = 0x6572_7261_6e64;

/// How long nothing may be heard before the connection is tried.
const LISTEN_FOR: Duration = Duration::from_secs(10);

/// How long that may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Left to itself the server plans most statements each time: those with lists of values look cheaper when
/// their lengths are known. Compiling them never pays.
///
/// A process whose machine went away in the middle of a transaction keeps nobody waiting for its locks for
/// longer than half a minute: no transaction waits for anything but the database.
const SETTINGS: &str = "set plan_cache_mode = force_generic_plan; set jit = off;
    set idle_in_transaction_session_timeout = '30s'";

/// Its commit does not wait for the disk, as all others do: a notification that a crash of the server
/// loses would have found nobody who listens.
const NOTIFY: &str = "select set_config('synchronous_commit', 'off', true), pg_notify($1, '')";

/// The channel of `LISTEN`.
const CHANNEL: &str = "errand_jobs";

async fn begin(pool: &Connections) -> Result<Transaction<'static, Db>, sqlx::Error> {
    pool.begin().await
}

/// A column of all rows.
macro_rules! column {
    ($rows:ident.$name:ident) => {
        $rows.iter().map(|row| row.$name.clone()).collect::<Vec<_>>()
    };
}

/// Inserts jobs in a transaction of their own.
async fn insert_jobs_at_once(
    pool: &Connections,
    rows: &[JobRow],
) -> Result<Vec<PgRow>, sqlx::Error> {
    insert_jobs_on(pool, rows).await
}

/// Inserts jobs, each with its first event and its tags, unless its session cannot be used, and returns
/// them.
async fn insert_jobs(
    transaction: &mut Transaction<'_, Db>,
    rows: &[JobRow],
) -> Result<Vec<PgRow>, sqlx::Error> {
    insert_jobs_on(&mut **transaction, rows).await
}

async fn insert_jobs_on<'c>(
    connection: impl PgExecutor<'c>,
    rows: &[JobRow],
) -> Result<Vec<PgRow>, sqlx::Error> {
    let run_at: Vec<Option<DateTime<Utc>>> =
        rows.iter().map(|row| row.run_at.map(Timestamp::as_datetime)).collect();
    sqlx::query(INSERT)
        .bind(column!(rows.id))
        .bind(column!(rows.tenant))
        .bind(column!(rows.subject))
        .bind(column!(rows.lane))
        .bind(column!(rows.session_id))
        .bind(run_at)
        .bind(column!(rows.deadline_micros))
        .bind(column!(rows.priority))
        .bind(column!(rows.namespace))
        .bind(column!(rows.name))
        .bind(column!(rows.version))
        .bind(column!(rows.definition))
        .bind(column!(rows.input))
        .bind(column!(rows.progress))
        .bind(column!(rows.tags))
        .bind(column!(rows.warnings))
        .bind(column!(rows.traceparent))
        .bind(column!(rows.callback))
        .bind(column!(rows.callback_events))
        .bind(column!(rows.told))
        .fetch_all(connection)
        .await
}

/// Claims jobs that are ready, each with an event if it never ran before; returns them, and how many each
/// lane was asked for.
async fn claim_ready(
    pool: &Connections,
    worker: Uuid,
    limit: i64,
    lease_micros: i64,
    after: i64,
) -> Result<(Vec<PgRow>, i64), sqlx::Error> {
    let claim = sqlx::query(CLAIM).bind(worker).bind(limit).bind(lease_micros).bind(after);
    let claimed = claim.fetch_all(pool).await?;
    let share = claimed.first().map_or(Ok(limit), |row| row.try_get("share"))?;
    Ok((claimed, share))
}

/// Makes up to `limit` jobs ready whose time has come; returns whether some are, and when the next is.
async fn wake_due(pool: &Connections, limit: i64) -> Result<PgRow, sqlx::Error> {
    sqlx::query(WAKE_DUE).bind(limit).fetch_one(pool).await
}

/// Writes records, in a transaction of their own; returns the jobs whose leases held.
async fn record_at_once(pool: &Connections, rows: &[RecordRow]) -> Result<Vec<PgRow>, sqlx::Error> {
    record_on(pool, rows).await
}

/// Writes records; returns the jobs whose leases held.
async fn record(
    transaction: &mut Transaction<'_, Db>,
    rows: &[RecordRow],
) -> Result<Vec<PgRow>, sqlx::Error> {
    record_on(&mut **transaction, rows).await
}

async fn record_on<'c>(
    connection: impl PgExecutor<'c>,
    rows: &[RecordRow],
) -> Result<Vec<PgRow>, sqlx::Error> {
    let due_at: Vec<Option<DateTime<Utc>>> =
        rows.iter().map(|row| row.due_at.map(Timestamp::as_datetime)).collect();
    let status: Vec<&str> = rows.iter().map(|row| row.status.as_str()).collect();
    sqlx::query(RECORD)
        .bind(column!(rows.id))
        .bind(column!(rows.lease_id))
        .bind(status)
        .bind(due_at)
        .bind(column!(rows.checkpoint))
        .bind(column!(rows.progress))
        .bind(column!(rows.attempts))
        .bind(column!(rows.throttles))
        .bind(column!(rows.output))
        .bind(column!(rows.error))
        .bind(column!(rows.suspension))
        .bind(column!(rows.told))
        .bind(column!(rows.events))
        .bind(column!(rows.calls))
        .fetch_all(connection)
        .await
}

fn ids(ids: &[Uuid]) -> Vec<Uuid> {
    ids.to_vec()
}

pub(super) async fn open(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<SharedStore, StoreError> {
    let pool = connect(config, CONNECTIONS).await?;
    let keeper = connect(config, KEEPING).await?;
    migrate(&pool).await?;
    let announcements = Announcements::default();
    if config.listen {
        tokio::spawn(send(pool.clone(), announcements.clone()));
        tokio::spawn(receive(pool.pool().clone(), announcements.clone()));
    }
    let (writer, reader) = (pool.clone(), pool);
    let submitter = store::start_submitter(&writer);
    // Workers that start together do not stand in one another's way.
    let turn = fastrand::i64(..).into();
    Ok(Arc::new(store::Database { writer, reader, keeper, cipher, announcements, submitter, turn }))
}

pub(super) async fn inspect(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<(SchemaState, SharedStore), StoreError> {
    let pool = connect(config, CONNECTIONS).await?;
    let schema = store::schema_state(&pool, &migrations()).await?;
    let announcements = Announcements::default();
    let (writer, reader, keeper) = (pool.clone(), pool.clone(), pool);
    let (submitter, turn) = (store::start_submitter(&writer), 0.into());
    let store = store::Database { writer, reader, keeper, cipher, announcements, submitter, turn };
    Ok((schema, Arc::new(store)))
}

/// In one transaction, under a lock that ends with it: a pooler may give the next one to another
/// connection of the server, and a lock that is kept beyond it could never be given up.
async fn migrate(pool: &Connections) -> Result<(), StoreError> {
    let mut transaction = begin(pool).await?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *transaction)
        .await?;
    migrations().run(&mut *transaction).await.map_err(StoreError::Migration)?;
    transaction.commit().await?;
    Ok(())
}

fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../migrations/postgres");
    // A newer release may have migrated the database already; the schema it leaves suits us.
    migrations.set_ignore_missing(true);
    migrations.set_locking(false);
    migrations
}

async fn connect(config: &DatabaseConfig, most: u32) -> Result<Connections, sqlx::Error> {
    let mut options = PgConnectOptions::from_str(config.url.expose_secret())?
        .application_name("errand")
        // No number of ours has a fraction, and PgBouncer refuses a setting that it does not know.
        .extra_float_digits(None);
    let keep_statements = config.prepared_statements;
    if !keep_statements {
        options = options.statement_cache_capacity(0);
    }
    // A pool only says that it timed out; a connection says why there is none.
    PgConnection::connect_with(&options).await?.close().await?;
    let pool = PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(Duration::from_secs(5))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if keep_statements {
                    connection.execute(SETTINGS).await?;
                }
                Ok(())
            })
        })
        .connect_with(options)
        .await?;
    Ok(Connections::new(pool, keep_statements))
}

/// Passes this process's announcements on, outside the transactions they are about: a NOTIFY in
/// each of them would make their commits wait for one another.
async fn send(pool: Connections, announcements: Announcements) {
    loop {
        announcements.outgoing().await;
        tell_others(&pool).await;
        // Afterwards, so that the first of a burst is heard at once.
        tokio::time::sleep(announcements::PAUSE).await;
    }
}

async fn tell_others(pool: &Connections) {
    if let Err(error) = sqlx::query(NOTIFY).bind(CHANNEL).execute(pool).await {
        tracing::debug!("a notification was lost, polls will do: {error}");
    }
}

/// Hears other processes' announcements.
async fn receive(pool: Pool<Db>, announcements: Announcements) {
    loop {
        if let Err(error) = listen(&pool, &announcements).await {
            tracing::debug!("not listening, polls will do: {error}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(pool: &Pool<Db>, announcements: &Announcements) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        let Ok(received) = timeout(LISTEN_FOR, listener.try_recv()).await else {
            // A connection that broke without a word sounds like one without news.
            let answered = timeout(ANSWER_WITHIN, sqlx::query("select 1").execute(&mut listener));
            answered.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
            continue;
        };
        // `None`: the connection was lost and is there again; something may have been missed.
        received?;
        announcements.arrived();
    }
}

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.as_datetime(), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <DateTime<Utc> as Decode<Postgres>>::decode(value).map(Self::from)
    }
}
