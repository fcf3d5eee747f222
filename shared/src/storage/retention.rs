//! What a worker asks of a database about what nobody needs any more.
//!
//! Any number of workers may ask at once: each passes over what another is at.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::identity::{Principal, RefreshToken};

/// Jobs and sessions whose time is over.
#[async_trait]
pub trait Retention: fmt::Debug + Send + Sync {
    /// Deletes up to `limit` jobs that ended longer than `age` ago, the oldest first, each with all
    /// that refers to it; returns how many.
    ///
    /// One that somebody is still to be told of stays until that is tried no more.
    async fn delete_finished(&self, age: Duration, limit: u32) -> Result<u64, StoreError>;

    /// Deletes up to `limit` events of sessions that are older than `age`, the oldest first; returns how
    /// many.
    async fn delete_session_events(&self, age: Duration, limit: u32) -> Result<u64, StoreError>;

    /// Looks at the `limit` sessions after `after` that are not stopped, in the order of their ids,
    /// and stops those without unfinished jobs whose last one ended longer than `grace` ago, and that
    /// got no tokens since.
    async fn stop_idle(
        &self,
        grace: Duration,
        after: Uuid,
        limit: u32,
    ) -> Result<Walked<Vec<Retired>>, StoreError>;

    /// Looks at the `limit` sessions after `after` that are stopped, in the order of their ids, and
    /// deletes those that no job refers to and that got no tokens for `age`; says how many.
    async fn delete_stopped(
        &self,
        age: Duration,
        after: Uuid,
        limit: u32,
    ) -> Result<Walked<u64>, StoreError>;
}

/// Some steps of a walk over all sessions.
#[derive(Debug)]
pub struct Walked<T> {
    /// After whom to go on; none at the end.
    pub last: Option<Uuid>,
    /// What came of it.
    pub found: T,
}

/// A session that was stopped because nothing needed it.
#[derive(Debug)]
pub struct Retired {
    /// Whose it was.
    pub owner: Principal,
    /// Errand's own client id that its tokens were issued to.
    pub client_id: String,
    /// The refresh tokens that it had, for their revocation.
    pub tokens: Vec<RefreshToken>,
}
