//! SQLite: one process, one writer.

/// The database's clock, in microseconds.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000000 as integer)"
    };
}
/// Microseconds since 1970, as every time is kept.
macro_rules! epoch_micros {
    () => {
        now!()
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
/// Is one of those that are selected.
macro_rules! selected {
    ($select:literal) => {
        concat!("in (", $select, ")")
    };
}
/// Where a row is.
macro_rules! row_id {
    () => {
        "rowid"
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

#[path = "../store/mod.rs"]
mod store;

use std::{fs, io, path::Path, str::FromStr, sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use sqlx::{
    Decode, Encode, Pool, Row, Sqlite, Transaction, Type,
    encode::IsNull,
    error::BoxDynError,
    migrate::Migrator,
    sqlite::{
        SqliteArgumentsBuffer, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
        SqliteRow, SqliteSynchronous, SqliteTypeInfo, SqliteValueRef,
    },
};
use uuid::Uuid;

use self::store::{JobRow, RecordRow};
use super::{SchemaState, SharedStore, StoreError, announcements, cipher::Cipher};
use crate::{config::DatabaseConfig, time::Timestamp};

type Db = Sqlite;
type Connections = Pool<Sqlite>;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// The users who have jobs that are ready take turns, from the lane after `$2` on and around; each gets
/// as many places as the others, and its own jobs take them by priority. Each lane is one step in the
/// index, however many jobs are in it.
const PLACES: &str = "with recursive above as (
        select * from (select lane from jobs where ready and lane > $2 order by lane limit 1)
        union all
        select (select jobs.lane from jobs where ready and jobs.lane > above.lane
                order by jobs.lane limit 1)
        from above where lane is not null limit $1 + 1),
     below as (
        select * from (select lane from jobs where ready and lane <= $2 order by lane limit 1)
        union all
        select (select jobs.lane from jobs where ready and jobs.lane > below.lane and jobs.lane <= $2
                order by jobs.lane limit 1)
        from below where lane is not null limit $1 + 1),
     lanes as materialized (
        select lane from (select lane from above union all select lane from below)
        where lane is not null limit $1)
     select jobs.id, (select ($1 + count(*) - 1) / count(*) from lanes) as share
     from lanes cross join jobs on jobs.id in (
         select own.id from jobs as own where own.ready and own.lane = lanes.lane
         order by own.priority desc, own.due_at
         limit (select ($1 + count(*) - 1) / count(*) from lanes))
     limit $1";

const CLAIM: &str = concat!(
    "update jobs set status = 'running', worker_id = $1, lease_id = lease_id + 1, due_at = null,
            ready = false, revision = revision + 1, lease_until = ",
    after!("$3"),
    ", started_at = coalesce(started_at, ",
    now!(),
    "), updated_at = ",
    now!(),
    " where id ",
    among!("$2"),
    " returning id, lease_id, lane, tenant, subject, session_id, definition, input, checkpoint,
               created_at, deadline_at, traceparent, interruptions, updated_at as claimed_at,
               (select version from sessions where id = session_id) as session_version"
);

/// Makes up to `$1` jobs ready whose time has come.
const WAKE_DUE: &str = concat!(
    "update jobs set ready = true where id in (
        select id from jobs where not ready and due_at <= ",
    now!(),
    " order by due_at limit $1)"
);

const NEXT_DUE: &str = concat!(
    "select exists (select 1 from jobs where ready) as ready,
            (select min(due_at) from jobs where not ready and due_at is not null) as due_at, ",
    now!(),
    " as now"
);

/// What a record changes of its job.
const RECORD: &str = concat!(
    "update jobs set status = $3,
            lease_until = case when $3 = 'running' then lease_until end,
            worker_id = case when $3 = 'running' then worker_id end,
            due_at = case
                when $3 = 'waiting' then coalesce($4, ",
    now!(),
    ")
                when $3 = 'suspended' then deadline_at
            end,
            ready = $3 = 'waiting' and coalesce($4, 0) <= ",
    now!(),
    ", finished_at = case when $3 in ('completed', 'faulted') then ",
    now!(),
    " end,
            checkpoint = $5, progress = $6, attempts = $7, throttles = $8, output = $9, error = $10,
            suspension = $11,
            -- It got somewhere: what interrupts it from now on is counted anew.
            interruptions = case when $3 in ('waiting', 'suspended') then 0 else interruptions end,
            revision = revision + $12, updated_at = ",
    now!(),
    " where id = $1 and lease_id = $2 and status = 'running' returning id"
);

/// Tells of the record just made of the job `$1`: its `$2` events `$3`, the webhooks that were asked
/// for, and its calls `$4`. Each event has a revision of its own, the last one the job's.
const TELL: &str = "insert into job_events (job_id, sequence, at, kind, data)
     select jobs.id, revision - $2 + 1 + (value ->> 'ordinal'), updated_at, value ->> 'kind',
            value ->> 'data'
     from jobs, json_each($3) where jobs.id = $1;
     insert into webhook_deliveries (job_id, sequence, due_at)
     select jobs.id, revision - $2 + 1 + (value ->> 'ordinal'), updated_at
     from jobs, json_each($3)
     where jobs.id = $1 and callback_events like '%' || (value ->> 'kind') || '%';
     insert into job_calls (job_id, sequence, ordinal, at, duration_ms, task, api, scopes, method,
                            path, attempt, outcome, status)
     select jobs.id, revision, value ->> 'ordinal', value ->> 'at', value ->> 'duration_ms',
            value ->> 'task', value ->> 'api', value ->> 'scopes', value ->> 'method',
            unhex(value ->> 'path'), value ->> 'attempt', value ->> 'outcome', value ->> 'status'
     from jobs, json_each($4) where jobs.id = $1";

/// Inserts a job, its first event and its tags, unless its session cannot be used: three statements, for a
/// transaction.
const INSERT: &str = concat!(
    "insert into jobs (id, tenant, subject, session_id, status, due_at, namespace, name, version,
                       definition, input, progress, tags, warnings, traceparent, callback,
                       callback_events, priority, lane, ready, created_at, updated_at,
                       deadline_at)
     select $3, $1, $2, $4, 'pending', max(coalesce($5, 0), ",
    now!(),
    "), $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $7, $20, coalesce($5, 0) <= ",
    now!(),
    ", ",
    now!(),
    ", ",
    now!(),
    ", ",
    after!("$6"),
    " where $4 is null or exists (
         select 1 from sessions
         where id = $4 and tenant = $1 and subject = $2 and state = 'active');
     insert into job_events (job_id, sequence, at, kind, data)
     select id, revision, created_at, 'submitted', $19 from jobs where id = $3;
     insert into job_tags (tenant, subject, name, value, job_id)
     select $1, $2, tag.key, tag.value, jobs.id from jobs, json_each($14) as tag where jobs.id = $3"
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

/// Inserts jobs in a transaction of their own.
async fn insert_jobs_at_once(
    pool: &Pool<Db>,
    rows: &[JobRow],
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let mut transaction = begin(pool).await?;
    let inserted = insert_jobs(&mut transaction, rows).await?;
    transaction.commit().await?;
    Ok(inserted)
}

/// Inserts jobs, each with its first event and its tags, unless its session cannot be used, and returns
/// them.
async fn insert_jobs(
    transaction: &mut Transaction<'_, Db>,
    rows: &[JobRow],
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    for row in rows {
        sqlx::query(INSERT)
            .bind(&row.tenant)
            .bind(&row.subject)
            .bind(row.id)
            .bind(row.session_id)
            .bind(row.run_at)
            .bind(row.deadline_micros)
            .bind(row.priority)
            .bind(&row.namespace)
            .bind(&row.name)
            .bind(&row.version)
            .bind(&row.definition)
            .bind(&row.input)
            .bind(&row.progress)
            .bind(&row.tags)
            .bind(&row.warnings)
            .bind(&row.traceparent)
            .bind(&row.callback)
            .bind(&row.callback_events)
            .bind(&row.told)
            .bind(row.lane)
            .execute(&mut **transaction)
            .await?;
    }
    let jobs: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    sqlx::query(concat!(
        store::job_with!("jobs.output", "jobs", "sessions"),
        " where jobs.id ",
        among!("$1"),
        " order by jobs.id"
    ))
    .bind(ids(&jobs))
    .fetch_all(&mut **transaction)
    .await
}

/// Claims jobs that are ready, each with an event if it never ran before; returns them, and how many each
/// lane was asked for.
async fn claim_ready(
    pool: &Pool<Db>,
    worker: Uuid,
    limit: i64,
    lease_micros: i64,
    after: i64,
) -> Result<(Vec<SqliteRow>, i64), sqlx::Error> {
    let mut transaction = begin(pool).await?;
    let places = sqlx::query(PLACES).bind(limit).bind(after).fetch_all(&mut *transaction).await?;
    let Some(place) = places.first() else { return Ok((Vec::new(), limit)) };
    let share = place.try_get("share")?;
    let places = ids(&store::read_ids(&places)?);
    let claim = sqlx::query(CLAIM).bind(worker).bind(&places).bind(lease_micros);
    let claimed = claim.fetch_all(&mut *transaction).await?;
    sqlx::query(concat!(
        "insert into job_events (job_id, sequence, at, kind, data)
         select id, revision, updated_at, 'started', '{}' from jobs where lease_id = 1 and id ",
        among!("$1")
    ))
    .bind(&places)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok((claimed, share))
}

/// Makes up to `limit` jobs ready whose time has come; returns whether some are, and when the next is.
async fn wake_due(pool: &Pool<Db>, limit: i64) -> Result<SqliteRow, sqlx::Error> {
    let mut transaction = begin(pool).await?;
    sqlx::query(WAKE_DUE).bind(limit).execute(&mut *transaction).await?;
    let next = sqlx::query(NEXT_DUE).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(next)
}

/// Writes records, in a transaction of their own; returns the jobs whose leases held.
async fn record_at_once(
    pool: &Pool<Db>,
    rows: &[RecordRow],
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let mut transaction = begin(pool).await?;
    let recorded = record(&mut transaction, rows).await?;
    transaction.commit().await?;
    Ok(recorded)
}

/// Writes records, in a transaction; returns the jobs whose leases held.
async fn record(
    transaction: &mut Transaction<'_, Db>,
    rows: &[RecordRow],
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let mut recorded = Vec::with_capacity(rows.len());
    for row in rows {
        let changed = sqlx::query(RECORD)
            .bind(row.id)
            .bind(row.lease_id)
            .bind(row.status.as_str())
            .bind(row.due_at)
            .bind(&row.checkpoint)
            .bind(&row.progress)
            .bind(row.attempts)
            .bind(row.throttles)
            .bind(&row.output)
            .bind(&row.error)
            .bind(&row.suspension)
            .bind(row.told)
            .fetch_optional(&mut **transaction)
            .await?;
        let Some(changed) = changed else { continue };
        recorded.push(changed);
        if row.events.is_some() || row.calls.is_some() {
            let tell = sqlx::query(TELL).bind(row.id).bind(row.told);
            tell.bind(&row.events).bind(&row.calls).execute(&mut **transaction).await?;
        }
    }
    Ok(recorded)
}

fn ids(ids: &[Uuid]) -> String {
    let texts: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
    serde_json::to_string(&texts).expect("a list of texts is JSON")
}

/// There are none.
async fn tell_others(_: &Connections) {}

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
    let (keeper, turn) = (writer.clone(), 0.into());
    let submitter = store::start_submitter(&writer);
    Ok(Arc::new(store::Database { writer, reader, keeper, cipher, announcements, submitter, turn }))
}

pub(super) async fn inspect(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<(SchemaState, SharedStore), StoreError> {
    let reader = reader(options(config)?).await?;
    let schema = store::schema_state(&reader, &MIGRATIONS).await?;
    let announcements = announcements::Announcements::default();
    let (writer, keeper, turn) = (reader.clone(), reader.clone(), 0.into());
    let submitter = store::start_submitter(&writer);
    let store = store::Database { writer, reader, keeper, cipher, announcements, submitter, turn };
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
