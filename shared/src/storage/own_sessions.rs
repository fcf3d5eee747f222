//! Sessions as their owners see and stop them.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;

use super::{SessionState, StoreError};
use crate::{
    identity::{Principal, RefreshToken},
    jobs::JobStatus,
    time::Timestamp,
};

/// What a user may do with the sessions that act for them.
#[async_trait]
pub trait OwnSessions: fmt::Debug + Send + Sync {
    /// Returns the owner's sessions, newest first; stopped ones while they have unfinished jobs.
    async fn sessions(
        &self,
        owner: &Principal,
        client_id: &str,
    ) -> Result<Vec<SessionView>, StoreError>;

    /// Erases the session's tokens and suspends its unfinished jobs, in one transaction; no call of
    /// them is recorded after it, and so none is sent. Returns the refresh tokens that it had, for
    /// their revocation; none if the owner has no such session, or has stopped it before.
    async fn stop_session(
        &self,
        owner: &Principal,
        client_id: &str,
        key: &str,
    ) -> Result<Option<Vec<RefreshToken>>, StoreError>;
}

/// A session without its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its key.
    pub key: String,
    /// Whether it can be used.
    pub state: SessionState,
    /// When its key was first used.
    pub created_at: Timestamp,
    /// When it last got a token.
    pub refreshed_at: Timestamp,
    /// When the first of its grants ends that cannot be renewed; none if all can.
    pub ends_at: Option<Timestamp>,
    /// Its jobs by status; those with none are left out.
    pub jobs: BTreeMap<JobStatus, u64>,
}
