//! What the API asks of a database at a submission, which is one transaction, and at a look at a job.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::{NewAccessToken, SessionState, StoreError};
use crate::{
    identity::{AssertionHash, Principal, RefreshToken},
    jobs::{Callback, DefinitionName, Job},
    time::Timestamp,
};

/// Submissions, and jobs as their owners see them.
#[async_trait]
pub trait Submissions: fmt::Debug + Send + Sync {
    /// Returns the session that a submission would use, if there is one.
    async fn find_session(
        &self,
        owner: &Principal,
        client_id: &str,
        selector: SessionSelector<'_>,
    ) -> Result<Option<KnownSession>, StoreError>;

    /// Says what became of an `Idempotency-Key` in the last 24 hours.
    async fn find_replay(
        &self,
        owner: &Principal,
        key: &IdempotencyKey<'_>,
    ) -> Result<Replay, StoreError>;

    /// Writes grants, jobs and idempotency key in one transaction; durable when it returns.
    ///
    /// A new grant replaces those of its APIs under its key and wakes every suspended job of that
    /// session.
    async fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, StoreError>;

    /// Writes a new grant into the session under its key and wakes every suspended job of it.
    async fn replace_grant(&self, owner: &Principal, grant: &NewGrant) -> Result<(), StoreError>;

    /// Returns the job's document, if the job is there and `owner`'s.
    async fn definition(&self, id: Uuid, owner: &Principal) -> Result<Option<Value>, StoreError>;

    /// Returns the job, if it is there and `owner`'s.
    async fn job(&self, id: Uuid, owner: &Principal) -> Result<Option<Job>, StoreError>;
}

/// Which of a principal's sessions is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSelector<'a> {
    /// The one with the caller's own key.
    Key(&'a str),
    /// The one whose key was allocated for this very user token.
    Allocated(&'a AssertionHash),
}

/// A session as far as a submission needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSession {
    /// Its id.
    pub id: Uuid,
    /// Whether its grant can be used.
    pub state: SessionState,
    /// The user token that was exchanged last.
    pub assertion_hash: AssertionHash,
    /// Its grants, dead ones included.
    pub grants: Vec<KnownGrant>,
}

/// A grant of a session as far as a submission needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownGrant {
    /// The API it is good for; empty: any.
    pub api: String,
    /// Whether there is a refresh token.
    pub renewable: bool,
    /// When its last access token ends; none too if the refresh token is dead, because a submission
    /// then has to bring another grant.
    pub expires_at: Option<Timestamp>,
}

/// An `Idempotency-Key` with what it was sent with.
#[derive(Debug, Clone, Copy)]
pub struct IdempotencyKey<'a> {
    /// Name of the endpoint: the same key elsewhere is another key.
    pub endpoint: &'static str,
    /// The header's value.
    pub key: &'a str,
    /// The request's body; only a keyed hash of it is kept.
    pub body: &'a [u8],
}

/// What an `Idempotency-Key` was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// Nothing yet.
    New,
    /// The same body, which became these jobs, in its order.
    Same(Vec<Uuid>),
    /// Another body.
    Different,
}

/// All that one `POST /v1/jobs` writes, or one `POST /v1/jobs/batch`.
#[derive(Debug)]
pub struct Submission<'a> {
    /// Whose jobs they are.
    pub owner: &'a Principal,
    /// The application that the owner submitted them with, if the token names one.
    pub client: Option<&'a str>,
    /// The rights they will act with, each of another session. Two submissions that name the same
    /// sessions name them in the same order, or they could wait for each other for ever.
    pub grants: Vec<Grant<'a>>,
    /// The client's `Idempotency-Key`.
    pub idempotency: Option<IdempotencyKey<'a>>,
    /// The jobs, at least one.
    pub jobs: Vec<NewJob<'a>>,
}

/// The right a job will act with.
#[derive(Debug, Clone, Copy)]
pub enum Grant<'a> {
    /// A session that is active; if it no longer is, no job is written that acts with it, nor any beside it.
    Known(Uuid),
    /// What a new exchange brought.
    New(&'a NewGrant),
}

impl Grant<'_> {
    /// The session, if it is there already.
    pub(super) fn known(&self) -> Option<Uuid> {
        match self {
            Self::Known(id) => Some(*id),
            Self::New(_) => None,
        }
    }
}

/// What the user's token was exchanged for, for a session that may exist already.
#[derive(Debug)]
pub struct NewGrant {
    /// Errand's own client id.
    pub client_id: String,
    /// The caller's own key; none to allocate one.
    pub session_key: Option<String>,
    /// The user token that was exchanged.
    pub assertion_hash: AssertionHash,
    /// What came of each exchange. Grants of other APIs in the session stay as they are.
    pub tokens: Vec<NewTokens>,
}

/// What one exchange brought.
#[derive(Debug)]
pub struct NewTokens {
    /// The API that the refresh token is good for; empty: any.
    pub api: String,
    /// What the grant lives on; without one it ends with the access token.
    pub refresh_token: Option<RefreshToken>,
    /// The access token that came with it.
    pub access_token: NewAccessToken,
}

/// A job to be written.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// UUID, version 7.
    pub id: Uuid,
    /// Which of the submission's grants it will act with; none if its document names no API.
    pub grant: Option<usize>,
    /// Name of its document.
    pub name: &'a DefinitionName,
    /// Its document, verbatim.
    pub definition: &'a Value,
    /// Its input.
    pub input: &'a Value,
    /// Not before this it starts; none for now.
    pub run_at: Option<Timestamp>,
    /// How long it may take, waiting included.
    pub deadline: Duration,
    /// Among its owner's jobs: greater goes first; from 0.
    pub priority: u8,
    /// Its submitter's labels.
    pub tags: &'a BTreeMap<String, String>,
    /// Whom to tell of it.
    pub callback: Option<&'a Callback>,
    /// What its submitter should know.
    pub warnings: &'a [String],
    /// Countable tasks of its document.
    pub total_tasks: Option<u64>,
    /// W3C Trace Context of the submission.
    pub traceparent: &'a str,
}

/// What became of a submission.
#[derive(Debug, PartialEq)]
pub enum Submitted {
    /// They were written, and are these.
    Created(Vec<Job>),
    /// Another request with the same `Idempotency-Key` and body came first and made these jobs.
    Replayed(Vec<Uuid>),
    /// Another request with the same `Idempotency-Key` and another body came first.
    KeyReused,
    /// A session is no longer active: look again.
    SessionChanged,
}
