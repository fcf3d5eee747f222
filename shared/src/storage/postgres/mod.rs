//! PostgreSQL: any number of processes on one database.

/// The database's clock.
macro_rules! now {
    () => {
        "now()"
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

/// The time of what `recorded!` changes and tells.
macro_rules! told_at {
    () => {
        now!()
    };
}
/// Changes the job `$1` under the lease `$2`, with its `$12` events `$13`, the webhooks that were
/// asked for, and the calls `$14` or null, in one round trip: what the fence keeps from changing
/// tells nobody of a change. Each event has a revision of its own, the last one the job's.
macro_rules! recorded {
    ($set:expr) => {
        concat!(
            "with changed as (
                update jobs set ",
            $set,
            ", revision = revision + $12::bigint, updated_at = now()
                where id = $1 and lease_id = $2 and status = 'running'
                returning id, revision, updated_at, callback_events),
             event as (
                select id, revision - $12::bigint + 1 + ordinal as sequence, updated_at, kind, data,
                       callback_events
                from changed, json_to_recordset($13::json) as event (
                    ordinal integer, kind text, data text)),
             told as (
                insert into job_events (job_id, sequence, at, kind, data)
                select id, sequence, updated_at, kind, data from event),
             asked as (
                insert into webhook_deliveries (job_id, sequence, due_at)
                select id, sequence, updated_at from event
                where callback_events like '%' || kind || '%'),
             called as (
                insert into job_calls (job_id, sequence, ordinal, at, duration_ms, task, api,
                                       scopes, method, path, attempt, outcome, status)
                select id, revision, ordinal, 'epoch'::timestamptz + at * interval '1 microsecond',
                       duration_ms, task, api, scopes, method, decode(path, 'hex'), attempt,
                       outcome, status
                from changed, json_to_recordset($14::json) as call (
                    ordinal integer, at bigint, duration_ms bigint, task text, api text,
                    scopes text, method text, path text, attempt integer, outcome text,
                    status integer))
             select id from changed"
        )
    };
}

mod connections;
#[path = "../store/mod.rs"]
mod store;

use std::{str::FromStr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sqlx::{
    Connection, Decode, Encode, PgConnection, Pool, Postgres, Transaction, Type,
    encode::IsNull,
    error::BoxDynError,
    migrate::Migrator,
    postgres::{
        PgArgumentBuffer, PgArguments, PgConnectOptions, PgListener, PgPoolOptions, PgRow,
        PgTypeInfo, PgValueRef,
    },
    query::Query,
};
use uuid::Uuid;

use self::{connections::Connections, store::JobRow};
use super::{
    SchemaState, SharedStore, StoreError, announcements, announcements::Announcements,
    cipher::Cipher,
};
use crate::{config::DatabaseConfig, identity::Principal, time::Timestamp};

type Db = Postgres;

/// Each place in the queue is its owner's: where a user has given priorities, the jobs that come
/// first among that user's due ones take the places, and those that had them get theirs. Nobody else
/// waits any longer for it.
///
/// `= any(array(…))` and not `in (…)`: the planner may run a sub-select of `in` more than once, and
/// then it locks more rows than the limit says.
const CLAIM: &str = concat!(
    "with places as materialized (
        select id, subject, tenant, priority, due_at from jobs
        where status in ('pending', 'waiting', 'suspended') and due_at <= now()
        order by due_at limit $2
        for update skip locked),
     owners as materialized (
        select subject, tenant, count(*) as places from places group by subject, tenant),
     preferred as materialized (
        select preferred.*
        from owners cross join lateral (
            select id, subject, tenant, priority, due_at from jobs
            where jobs.subject = owners.subject and jobs.tenant = owners.tenant
              and priority > 0 and status in ('pending', 'waiting') and due_at <= now()
            order by priority desc, due_at limit owners.places
            for update skip locked) as preferred
        where preferred.id not in (select id from places)),
     ranked as materialized (
        select id, subject, tenant, due_at, is_place,
               row_number() over (partition by subject, tenant
                                  order by priority desc, due_at) <= owners.places as goes
        from (select *, true as is_place from places
              union all select *, false from preferred) as candidates
             join owners using (subject, tenant)),
     exchanged as (
        update jobs set due_at = newcomer.due_at, revision = revision + 1
        from (select id, subject, tenant,
                     row_number() over (partition by subject, tenant order by due_at) as number
              from ranked where is_place and not goes) as displaced
             join (select due_at, subject, tenant,
                          row_number() over (partition by subject, tenant order by due_at) as number
                   from ranked where goes and not is_place) as newcomer
             using (subject, tenant, number)
        where jobs.id = displaced.id),
     claimed as (
     update jobs set status = 'running', worker_id = $1, lease_id = lease_id + 1, due_at = null,
            revision = revision + 1, lease_until = ",
    after!("$3"),
    ", started_at = coalesce(started_at, now()), updated_at = now()
     where id = any(array(select id from ranked where goes))
     returning id, lease_id, tenant, subject, session_id, definition, input, checkpoint, created_at,
               deadline_at, traceparent, interruptions, updated_at as claimed_at, revision,
               (select version from sessions where id = session_id) as session_version),
     started as (
        insert into job_events (job_id, sequence, at, kind, data)
        select id, revision, claimed_at, 'started', '{}' from claimed where lease_id = 1)
     select * from claimed"
);

/// Inserts `$1`'s and `$2`'s jobs, each with its first event and its tags.
const INSERT: &str = "with submitted as (
        insert into jobs (id, tenant, subject, session_id, status, due_at, namespace, name, version,
                          definition, input, progress, tags, warnings, traceparent, callback,
                          callback_events, priority, created_at, updated_at, deadline_at)
        select id, $1, $2, session_id, 'pending', greatest(run_at, now()), namespace, name, version,
               definition, input, progress, tags, warnings, traceparent, callback, callback_events,
               priority, now(), now(), now() + deadline * interval '1 microsecond'
        from unnest($3::uuid[], $4::uuid[], $5::timestamptz[], $6::bigint[], $7::smallint[],
                    $8::text[], $9::text[], $10::text[], $11::bytea[], $12::bytea[], $13::text[],
                    $14::text[], $15::text[], $16::text[], $17::bytea[], $18::text[])
             as job (id, session_id, run_at, deadline, priority, namespace, name, version,
                     definition, input, progress, tags, warnings, traceparent, callback,
                     callback_events)
        returning id, revision, created_at, tags),
     tagged as (
        insert into job_tags (tenant, subject, name, value, job_id)
        select $1, $2, tag.key, tag.value, id from submitted, json_each_text(tags::json) as tag)
     insert into job_events (job_id, sequence, at, kind, data)
     select id, revision, created_at, 'submitted', $19 from submitted";

/// Connections of a process at most.
const CONNECTIONS: u32 = 16;

/// And beside them, for leases: who keeps one never waits behind those who work under it.
const KEEPING: u32 = 2;

/// Who brings the schema up to date holds this advisory lock: "errand", in bytes.
const MIGRATION_LOCK: i64 = 0x6572_7261_6e64;

/// The channel of `LISTEN`.
const CHANNEL: &str = "errand_jobs";

async fn begin(pool: &Connections) -> Result<Transaction<'static, Db>, sqlx::Error> {
    pool.begin().await
}

/// Inserts jobs, whatever their number, each with its first event, which has the data `told`, and its
/// tags, in one round trip.
async fn insert_jobs(
    transaction: &mut Transaction<'_, Db>,
    owner: &Principal,
    told: &str,
    rows: Vec<JobRow>,
) -> Result<(), sqlx::Error> {
    /// A column of all rows.
    macro_rules! column {
        ($name:ident) => {
            rows.iter().map(|row| row.$name.clone()).collect::<Vec<_>>()
        };
    }
    let run_at: Vec<Option<DateTime<Utc>>> =
        rows.iter().map(|row| row.run_at.map(Timestamp::as_datetime)).collect();
    sqlx::query(INSERT)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(column!(id))
        .bind(column!(session_id))
        .bind(run_at)
        .bind(column!(deadline_micros))
        .bind(column!(priority))
        .bind(column!(namespace))
        .bind(column!(name))
        .bind(column!(version))
        .bind(column!(definition))
        .bind(column!(input))
        .bind(column!(progress))
        .bind(column!(tags))
        .bind(column!(warnings))
        .bind(column!(traceparent))
        .bind(column!(callback))
        .bind(column!(callback_events))
        .bind(told)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Claims due jobs, each with an event if it never ran before.
async fn claim_due(
    pool: &Connections,
    worker: Uuid,
    limit: i64,
    lease_micros: i64,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(CLAIM).bind(worker).bind(limit).bind(lease_micros).fetch_all(pool).await
}

/// Executes what is one statement here; returns how many rows it is about.
async fn execute_all(
    pool: &Connections,
    query: Query<'static, Db, PgArguments>,
) -> Result<u64, sqlx::Error> {
    Ok(query.execute(pool).await?.rows_affected())
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
    Ok(Arc::new(store::Database { writer, reader, keeper, cipher, announcements }))
}

pub(super) async fn inspect(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<(SchemaState, SharedStore), StoreError> {
    let pool = connect(config, CONNECTIONS).await?;
    let schema = store::schema_state(&pool, &migrations()).await?;
    let announcements = Announcements::default();
    let (writer, reader, keeper) = (pool.clone(), pool.clone(), pool);
    let store = store::Database { writer, reader, keeper, cipher, announcements };
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
    if !config.prepared_statements {
        options = options.statement_cache_capacity(0);
    }
    // A pool only says that it timed out; a connection says why there is none.
    PgConnection::connect_with(&options).await?.close().await?;
    let pool = PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options)
        .await?;
    Ok(Connections::new(pool, config.prepared_statements))
}

/// Passes this process's announcements on, outside the transactions they are about: a NOTIFY in
/// each of them would make their commits wait for one another.
async fn send(pool: Connections, announcements: Announcements) {
    loop {
        announcements.gathered().await;
        if let Err(error) =
            sqlx::query("select pg_notify($1, '')").bind(CHANNEL).execute(&pool).await
        {
            tracing::debug!("a notification was lost, polls will do: {error}");
        }
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
        // `None`: the connection was lost and is there again; something may have been missed.
        listener.try_recv().await?;
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
