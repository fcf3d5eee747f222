//! PostgreSQL: any number of processes on one database.

/// The database's clock.
macro_rules! now {
    () => {
        "now()"
    };
}
/// That many microseconds from now.
macro_rules! after {
    ($micros:literal) => {
        concat!("(now() + ", $micros, "::bigint * interval '1 microsecond')")
    };
}
/// Is one of the ids.
macro_rules! among {
    ($ids:literal) => {
        concat!("= any(", $ids, ")")
    };
}
/// Keeps others from changing (`share`) or also locking (`update`) the selected rows until the commit.
macro_rules! locked {
    ($strength:literal) => {
        concat!(" for ", $strength)
    };
}

/// Inserts the job `$1` with its first event and its data `$18`, in one round trip.
macro_rules! submitted {
    ($insert:expr) => {
        concat!(
            "with submitted as (",
            $insert,
            " returning id, revision, created_at)
             insert into job_events (job_id, sequence, at, kind, data)
             select id, revision, created_at, 'submitted', $18 from submitted"
        )
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

use super::{
    SchemaState, SharedStore, StoreError, announcements, announcements::Announcements,
    cipher::Cipher,
};
use crate::{config::DatabaseConfig, time::Timestamp};

type Db = Postgres;

/// `= any(array(…))` and not `in (…)`: the planner may run a sub-select of `in` more than once, and
/// then it locks more rows than the limit says.
const CLAIM: &str = concat!(
    "with claimed as (
     update jobs set status = 'running', worker_id = $1, lease_id = lease_id + 1, due_at = null,
            revision = revision + 1, lease_until = ",
    after!("$3"),
    ", started_at = coalesce(started_at, now()), updated_at = now()
     where id = any(array(
        select id from jobs
        where status in ('pending', 'waiting', 'suspended') and due_at <= now()
        order by due_at limit $2
        for update skip locked))
     returning id, lease_id, tenant, subject, session_id, definition, input, checkpoint, created_at,
               deadline_at, traceparent, updated_at as claimed_at, revision),
     started as (
        insert into job_events (job_id, sequence, at, kind, data)
        select id, revision, claimed_at, 'started', '{}' from claimed where lease_id = 1)
     select * from claimed"
);

/// The channel of `LISTEN`.
const CHANNEL: &str = "errand_jobs";

async fn begin(pool: &Pool<Db>) -> Result<Transaction<'static, Db>, sqlx::Error> {
    pool.begin().await
}

/// Claims due jobs, each with an event if it never ran before.
async fn claim_due(
    pool: &Pool<Db>,
    worker: Uuid,
    limit: i64,
    lease_micros: i64,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(CLAIM).bind(worker).bind(limit).bind(lease_micros).fetch_all(pool).await
}

/// Executes what is one statement here; returns how many rows it is about.
async fn execute_all(
    pool: &Pool<Db>,
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
    let pool = connect(config).await?;
    migrations().run(&pool).await.map_err(StoreError::Migration)?;
    let announcements = Announcements::default();
    if config.listen {
        tokio::spawn(send(pool.clone(), announcements.clone()));
        tokio::spawn(receive(pool.clone(), announcements.clone()));
    }
    Ok(Arc::new(store::Database { writer: pool.clone(), reader: pool, cipher, announcements }))
}

pub(super) async fn inspect(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<(SchemaState, SharedStore), StoreError> {
    let pool = connect(config).await?;
    let schema = store::schema_state(&pool, &migrations()).await?;
    let announcements = Announcements::default();
    let store = store::Database { writer: pool.clone(), reader: pool, cipher, announcements };
    Ok((schema, Arc::new(store)))
}

fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../migrations/postgres");
    // A newer release may have migrated the database already; the schema it leaves suits us.
    migrations.set_ignore_missing(true);
    migrations
}

async fn connect(config: &DatabaseConfig) -> Result<Pool<Db>, sqlx::Error> {
    let mut options =
        PgConnectOptions::from_str(config.url.expose_secret())?.application_name("errand");
    if !config.prepared_statements {
        options = options.statement_cache_capacity(0);
    }
    // A pool only says that it timed out; a connection says why there is none.
    PgConnection::connect_with(&options).await?.close().await?;
    PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options)
        .await
}

/// Passes this process's announcements on, outside the transactions they are about: a NOTIFY in
/// each of them would make their commits wait for one another.
async fn send(pool: Pool<Db>, announcements: Announcements) {
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
