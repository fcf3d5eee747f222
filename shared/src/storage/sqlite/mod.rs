//! SQLite: one process, one writer.

/// The database's clock, in microseconds.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000000 as integer)"
    };
}
/// That many microseconds from now.
macro_rules! after {
    ($micros:literal) => {
        concat!("(", now!(), " + ", $micros, ")")
    };
}
/// Is one of the ids.
macro_rules! among {
    ($ids:literal) => {
        concat!("in (select unhex(value) from json_each(", $ids, "))")
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
    Decode, Encode, Pool, Sqlite, Transaction, Type,
    encode::IsNull,
    error::BoxDynError,
    sqlite::{
        SqliteArgumentsBuffer, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous, SqliteTypeInfo, SqliteValueRef,
    },
};
use uuid::Uuid;

use super::{SharedStore, StoreError, announcements, cipher::Cipher};
use crate::{config::DatabaseConfig, time::Timestamp};

type Db = Sqlite;

const CLAIM: &str = concat!(
    "update jobs set status = 'running', worker_id = $1, lease_id = lease_id + 1, due_at = null,
            revision = revision + 1, lease_until = ",
    after!("$3"),
    ", started_at = coalesce(started_at, ",
    now!(),
    "), updated_at = ",
    now!(),
    " where id in (
        select id from jobs
        where status in ('pending', 'waiting', 'suspended') and due_at <= ",
    now!(),
    " order by due_at limit $2)
     returning id, lease_id, tenant, subject, session_id, definition, input, checkpoint, created_at,
               deadline_at, traceparent, updated_at as claimed_at"
);

/// A deferred transaction that reads and then writes fails at once when another writes meanwhile,
/// whatever the busy timeout.
async fn begin(pool: &Pool<Db>) -> Result<Transaction<'static, Db>, sqlx::Error> {
    pool.begin_with("begin immediate").await
}

fn ids(ids: &[Uuid]) -> String {
    let texts: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
    serde_json::to_string(&texts).expect("a list of texts is JSON")
}

pub(super) async fn open(
    config: &DatabaseConfig,
    cipher: Cipher,
) -> Result<SharedStore, StoreError> {
    let options = SqliteConnectOptions::from_str(config.url.expose_secret())?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // An acknowledged job survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10));
    create(options.get_filename()).map_err(sqlx::Error::Io)?;
    // One writer: several would wait for each other in SQLite's busy loop, hundreds of milliseconds
    // in the worst case, instead of in the pool's queue.
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await?;
    sqlx::migrate!("../migrations/sqlite").run(&writer).await.map_err(StoreError::Migration)?;
    let reader = SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options.read_only(true).create_if_missing(false))
        .await?;
    let announcements = announcements::Announcements::default();
    Ok(Arc::new(store::Database { writer, reader, cipher, announcements }))
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
