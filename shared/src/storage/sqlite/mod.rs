//! SQLite: one process, one writer.

/// The database's clock, in microseconds.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000000 as integer)"
    };
}
/// That many microseconds from now.
macro_rules! after {
    ($micros:expr) => {
        concat!("(", now!(), " + ", $micros, ")")
    };
}
/// A number from 0 to 1, another one for each row.
macro_rules! chance {
    () => {
        "(abs(random() % 1000) / 999.0)"
    };
}
/// Is one of the ids.
macro_rules! among {
    ($ids:literal) => {
        concat!("in (select unhex(value) from json_each(", $ids, "))")
    };
}
/// Has these bytes in it.
macro_rules! contains {
    ($column:literal, $bytes:literal) => {
        concat!("instr(", $column, ", ", $bytes, ") > 0")
    };
}
/// Nothing to lock: a transaction that writes is alone.
macro_rules! locked {
    ($strength:literal) => {
        ""
    };
}

/// The time of what `recorded!` changes and tells: each of its statements has a clock of its own, so
/// the first says what time it is.
macro_rules! told_at {
    () => {
        "updated_at"
    };
}
/// Changes the job `$1` under the lease `$2`, after its `$12` events `$13`, the webhooks that were
/// asked for, and the calls `$14` or null: several statements with one fence, for a transaction.
/// Each event has a revision of its own, the last one the job's.
macro_rules! recorded {
    ($set:expr) => {
        concat!(
            "update jobs set updated_at = ",
            now!(),
            " where id = $1 and lease_id = $2 and status = 'running';
             insert into job_events (job_id, sequence, at, kind, data)
             select jobs.id, revision + 1 + (value ->> 'ordinal'), ",
            told_at!(),
            ", value ->> 'kind', value ->> 'data' from jobs, json_each($13)
             where jobs.id = $1 and lease_id = $2 and status = 'running';
             insert into webhook_deliveries (job_id, sequence, due_at)
             select jobs.id, revision + 1 + (value ->> 'ordinal'), ",
            told_at!(),
            " from jobs, json_each($13)
             where jobs.id = $1 and lease_id = $2 and status = 'running'
               and callback_events like '%' || (value ->> 'kind') || '%';
             insert into job_calls (job_id, sequence, ordinal, at, duration_ms, task, api, scopes,
                                    method, path, attempt, outcome, status)
             select jobs.id, revision + $12, value ->> 'ordinal', value ->> 'at',
                    value ->> 'duration_ms', value ->> 'task', value ->> 'api',
                    value ->> 'scopes', value ->> 'method', unhex(value ->> 'path'),
                    value ->> 'attempt', value ->> 'outcome', value ->> 'status'
             from jobs, json_each($14)
             where jobs.id = $1 and lease_id = $2 and status = 'running';
             update jobs set ",
            $set,
            ", revision = revision + $12
             where id = $1 and lease_id = $2 and status = 'running'"
        )
    };
}

#[path = "../store/mod.rs"]
mod store;

use std::{fs, io, path::Path, str::FromStr, sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use sqlx::{
    Decode, Encode, Pool, Row, Sqlite, Transaction, Type,
    encode::IsNull,
    error::BoxDynError,
    migrate::Migrator,
    query::Query,
    sqlite::{
        SqliteArguments, SqliteArgumentsBuffer, SqliteConnectOptions, SqliteJournalMode,
        SqlitePoolOptions, SqliteRow, SqliteSynchronous, SqliteTypeInfo, SqliteValueRef,
    },
};
use uuid::Uuid;

use self::store::JobRow;
use super::{SchemaState, SharedStore, StoreError, announcements, cipher::Cipher};
use crate::{config::DatabaseConfig, identity::Principal, time::Timestamp};

type Db = Sqlite;
type Connections = Pool<Sqlite>;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// Each place in the queue is its owner's: where a user has given priorities, the jobs that come
/// first among that user's due ones take the places, and those that had them get theirs. Nobody else
/// waits any longer for it.
const PLACES: &str = concat!(
    "with places as materialized (
        select id, subject, tenant, priority, due_at from jobs
        where status in ('pending', 'waiting', 'suspended') and due_at <= ",
    now!(),
    " order by due_at limit $1),
     owners as materialized (
        select subject, tenant, count(*) as places from places group by subject, tenant),
     preferred as (
        select jobs.id, jobs.subject, jobs.tenant, jobs.priority, jobs.due_at
        from owners join jobs on jobs.id in (
            select own.id from jobs as own
            where own.subject = owners.subject and own.tenant = owners.tenant
              and own.priority > 0 and own.status in ('pending', 'waiting') and own.due_at <= ",
    now!(),
    " order by own.priority desc, own.due_at limit $1)
        where jobs.id not in (select id from places))
     select id, subject, tenant, due_at, is_place,
            row_number() over (partition by subject, tenant
                               order by priority desc, due_at) <= owners.places as goes
     from (select *, true as is_place from places
           union all select *, false from preferred) as candidates
          join owners using (subject, tenant)
     order by subject, tenant, due_at"
);

const CLAIM: &str = concat!(
    "update jobs set status = 'running', worker_id = $1, lease_id = lease_id + 1, due_at = null,
            revision = revision + 1, lease_until = ",
    after!("$3"),
    ", started_at = coalesce(started_at, ",
    now!(),
    "), updated_at = ",
    now!(),
    " where id ",
    among!("$2"),
    " returning id, lease_id, tenant, subject, session_id, definition, input, checkpoint, created_at,
               deadline_at, traceparent, interruptions, updated_at as claimed_at,
               (select version from sessions where id = session_id) as session_version"
);

/// Inserts a job, its first event and its tags: three statements, for a transaction.
const INSERT: &str = concat!(
    "insert into jobs (id, tenant, subject, session_id, status, due_at, namespace, name, version,
                       definition, input, progress, tags, warnings, traceparent, callback,
                       callback_events, priority, created_at, updated_at, deadline_at)
     values ($3, $1, $2, $4, 'pending', max(coalesce($5, 0), ",
    now!(),
    "), $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $7, ",
    now!(),
    ", ",
    now!(),
    ", ",
    after!("$6"),
    ");
     insert into job_events (job_id, sequence, at, kind, data)
     select id, revision, created_at, 'submitted', $19 from jobs where id = $3;
     insert into job_tags (tenant, subject, name, value, job_id)
     select $1, $2, tag.key, tag.value, $3 from json_each($14) as tag"
);

/// A deferred transaction that reads and then writes fails at once when another writes meanwhile,
/// whatever the busy timeout.
async fn begin(pool: &Pool<Db>) -> Result<Transaction<'static, Db>, sqlx::Error> {
    let begun = pool.begin_with("begin immediate").await;
    // Where it cannot write, on a full disk, SQLite ends a transaction by itself, and sqlx still counts
    // it: this connection begins no other.
    if matches!(begun, Err(sqlx::Error::InvalidSavePointStatement)) {
        pool.acquire().await?.close().await?;
        return pool.begin_with("begin immediate").await;
    }
    begun
}

/// Inserts jobs, each with its first event, which has the data `told`, and its tags.
async fn insert_jobs(
    transaction: &mut Transaction<'_, Db>,
    owner: &Principal,
    told: &str,
    rows: Vec<JobRow>,
) -> Result<(), sqlx::Error> {
    for row in rows {
        sqlx::query(INSERT)
            .bind(&owner.tenant)
            .bind(&owner.subject)
            .bind(row.id)
            .bind(row.session_id)
            .bind(row.run_at)
            .bind(row.deadline_micros)
            .bind(row.priority)
            .bind(row.namespace)
            .bind(row.name)
            .bind(row.version)
            .bind(row.definition)
            .bind(row.input)
            .bind(row.progress)
            .bind(row.tags)
            .bind(row.warnings)
            .bind(row.traceparent)
            .bind(row.callback)
            .bind(row.callback_events)
            .bind(told)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

/// Claims due jobs, each with an event if it never ran before.
async fn claim_due(
    pool: &Pool<Db>,
    worker: Uuid,
    limit: i64,
    lease_micros: i64,
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let mut transaction = begin(pool).await?;
    let places = sqlx::query(PLACES).bind(limit).fetch_all(&mut *transaction).await?;
    let (mut going, mut newcomers, mut displaced) = (Vec::new(), Vec::new(), Vec::new());
    for row in &places {
        let id: Uuid = row.try_get("id")?;
        let (is_place, goes): (bool, bool) = (row.try_get("is_place")?, row.try_get("goes")?);
        if goes {
            going.push(id);
        }
        match (is_place, goes) {
            (false, true) => newcomers.push(row.try_get::<i64, _>("due_at")?),
            (true, false) => displaced.push(id),
            (true, true) | (false, false) => {}
        }
    }
    if going.is_empty() {
        return Ok(Vec::new());
    }
    // As many of the one as of the other for each owner, and in the order of owners.
    for (due_at, id) in newcomers.into_iter().zip(displaced) {
        sqlx::query("update jobs set due_at = $2, revision = revision + 1 where id = $1")
            .bind(id)
            .bind(due_at)
            .execute(&mut *transaction)
            .await?;
    }
    let claim = sqlx::query(CLAIM).bind(worker).bind(ids(&going)).bind(lease_micros);
    let claimed = claim.fetch_all(&mut *transaction).await?;
    let claimed_ids: Result<Vec<Uuid>, _> = claimed.iter().map(|row| row.try_get("id")).collect();
    sqlx::query(concat!(
        "insert into job_events (job_id, sequence, at, kind, data)
         select id, revision, updated_at, 'started', '{}' from jobs where lease_id = 1 and id ",
        among!("$1")
    ))
    .bind(ids(&claimed_ids?))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(claimed)
}

/// Executes what are several statements here as one; returns how many rows they changed.
async fn execute_all(
    pool: &Pool<Db>,
    query: Query<'static, Db, SqliteArguments>,
) -> Result<u64, sqlx::Error> {
    let mut transaction = begin(pool).await?;
    let executed = query.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(executed.rows_affected())
}

fn ids(ids: &[Uuid]) -> String {
    let texts: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
    serde_json::to_string(&texts).expect("a list of texts is JSON")
}

pub(super) async fn open(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<SharedStore, StoreError> {
    let options = options(config)?.create_if_missing(true);
    create(options.get_filename()).map_err(sqlx::Error::Io)?;
    // One writer: several would wait for each other in SQLite's busy loop, hundreds of milliseconds
    // in the worst case, instead of in the pool's queue.
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await?;
    MIGRATIONS.run(&writer).await.map_err(StoreError::Migration)?;
    let reader = reader(options).await?;
    let announcements = announcements::Announcements::default();
    let keeper = writer.clone();
    Ok(Arc::new(store::Database { writer, reader, keeper, cipher, announcements }))
}

pub(super) async fn inspect(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<(SchemaState, SharedStore), StoreError> {
    let reader = reader(options(config)?).await?;
    let schema = store::schema_state(&reader, &MIGRATIONS).await?;
    let announcements = announcements::Announcements::default();
    let (writer, keeper) = (reader.clone(), reader.clone());
    let store = store::Database { writer, reader, keeper, cipher, announcements };
    Ok((schema, Arc::new(store)))
}

fn options(config: &DatabaseConfig) -> Result<SqliteConnectOptions, sqlx::Error> {
    Ok(SqliteConnectOptions::from_str(config.url.expose_secret())?
        .journal_mode(SqliteJournalMode::Wal)
        // An acknowledged job survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10)))
}

async fn reader(options: SqliteConnectOptions) -> Result<Pool<Db>, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options.read_only(true).create_if_missing(false))
        .await
}

/// Makes the file, and its folder, for this user alone; SQLite gives its other files the same mode.
fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(|_| ())
}

impl Type<Sqlite> for Timestamp {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(info: &SqliteTypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(info)
    }
}

impl Encode<'_, Sqlite> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.micros(), buffer)
    }
}

impl<'r> Decode<'r, Sqlite> for Timestamp {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Sqlite>>::decode(value)?;
        Self::from_micros(micros).ok_or_else(|| "a time beyond the calendar".into())
    }
}
