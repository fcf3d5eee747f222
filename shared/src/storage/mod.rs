//! Rows, leases, transactions, and encryption at rest.
//!
//! What can be asked of a database stands in a few traits: [`Submissions`] (what the API writes and
//! reads), [`Queue`] (what a worker claims and records), [`Grants`] (the tokens of a session),
//! [`Gates`] (token requests that are held), [`CallSlots`] (calls at once), [`Audit`] (what happened to
//! a job), [`Webhooks`] (whom to tell of it), [`Retention`] (what is kept no longer) and [`Rotation`]
//! (keys).
//! `store/` implements them once, in SQL that both databases speak; `postgres/` and `sqlite/` each
//! compile it with the little that differs. `conformance` is what either must do.
//!
//! Everything about a job is timed by the database's clock: several machines share one queue.

mod announcements;
mod audit;
mod call_slots;
mod cipher;
#[cfg(test)]
pub(crate) mod conformance;
mod gates;
mod gather;
mod grants;
mod own_jobs;
mod own_sessions;
mod postgres;
mod queue;
mod retention;
mod rotation;
mod sqlite;
mod submissions;
mod webhooks;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret;

pub use self::{
    audit::{AUDIT_PAGE, Audit},
    call_slots::{CallSlot, CallSlots},
    cipher::CipherError,
    gates::{GateReason, Gates, Passage, Probe},
    gather::{Batch, Gather},
    grants::{
        Abandoned, Grants, HeldGrant, HeldToken, IdleGrant, NewAccessToken, RefreshStart,
        SessionState,
    },
    own_jobs::{Change, JobFilter, OwnJobs, Page, TenantJob, TenantJobs},
    own_sessions::{OwnSessions, SessionView},
    queue::{Backlog, ClaimedJob, ClaimedSession, Lease, Next, Queue, Record, Renewed},
    retention::{Retention, Retired, Walked},
    rotation::{Opened, Rotation},
    submissions::{
        Grant, IdempotencyKey, KnownGrant, KnownSession, NewGrant, NewJob, NewTokens, Replay,
        SessionSelector, Submission, Submissions, Submitted,
    },
    webhooks::{Delivery, Tried, Webhooks},
};
use crate::config::{DatabaseConfig, EncryptionConfig};

/// A database with its key ring.
#[async_trait]
pub trait Store:
    Submissions
    + OwnJobs
    + TenantJobs
    + Queue
    + Grants
    + Gates
    + CallSlots
    + Audit
    + Webhooks
    + OwnSessions
    + Retention
    + Rotation
{
    /// Answers if the database does.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Tells every worker, of this process and (PostgreSQL) of others, that a job became due.
    ///
    /// Cheap: announcements within a few milliseconds are sent as one. A lost one costs a poll.
    fn announce(&self);

    /// The same, and returns when they were told: for a process that ends.
    async fn announce_now(&self);

    /// Returns once a job may have become due since the last call, here or elsewhere.
    async fn wait_for_announcement(&self);
}

/// A store that several parties hold.
pub type SharedStore = Arc<dyn Store>;

/// Opens the configured database and brings its schema up to date.
///
/// Several processes may do so at once on PostgreSQL: migrations run under its advisory lock.
pub async fn open(
    database: &DatabaseConfig,
    encryption: &EncryptionConfig,
) -> Result<SharedStore, StoreError> {
    let cipher = cipher::Cipher::new(encryption);
    if database.url.expose_secret().starts_with("sqlite:") {
        sqlite::open(database, cipher).await
    } else {
        postgres::open(database, cipher).await
    }
}

/// Opens the configured database as it is: creates nothing and migrates nothing.
///
/// The store is for looking only, and only if the schema is up to date.
pub async fn inspect(
    database: &DatabaseConfig,
    encryption: &EncryptionConfig,
) -> Result<(SchemaState, SharedStore), StoreError> {
    let cipher = cipher::Cipher::new(encryption);
    if database.url.expose_secret().starts_with("sqlite:") {
        sqlite::inspect(database, cipher).await
    } else {
        postgres::inspect(database, cipher).await
    }
}

/// How a database's schema compares with this version's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// All migrations of this version were applied, perhaps those of a newer one too.
    UpToDate,
    /// Some are still to be applied.
    Behind,
    /// A migration of this number was applied that is not this version's, or broke off.
    Foreign {
        /// Its number.
        version: i64,
    },
}

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The job's lease is no longer this worker's: whatever it wanted to write, somebody else decides.
    #[error("the job's lease was lost")]
    LeaseLost,
    /// A stored value does not open.
    #[error("`{table}.{column}` of {row} cannot be decrypted")]
    Undecryptable {
        /// Its table.
        table: &'static str,
        /// Its column.
        column: &'static str,
        /// Its row.
        row: uuid::Uuid,
        /// Why.
        source: CipherError,
    },
    /// A stored value is not what this version writes.
    #[error("`{what}` of {row} cannot be read")]
    Unreadable {
        /// Its column.
        what: &'static str,
        /// Its row.
        row: uuid::Uuid,
        /// Why.
        source: serde_json::Error,
    },
    /// The schema could not be brought up to date.
    #[error("the schema could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The database is not reachable or did not do it. Try again.
    #[error("the database did not answer")]
    Database(#[source] Arc<sqlx::Error>),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl StoreError {
    /// Whether it is about what was to be written, and not about the database: others may succeed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Database(error) if is_refusal(error))
    }
}

fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| match code.parse::<u32>() {
        // SQLite's, whose last byte says: too big, constraint, mismatch.
        Ok(number) if code.len() < 5 || code.starts_with('0') => {
            matches!(number & 0xff, 18..=20)
        }
        // PostgreSQL's, by class: data, integrity, and transactions that stood in another's way.
        _ => ["21", "22", "23", "40"].iter().any(|class| code.starts_with(class)),
    })
}
