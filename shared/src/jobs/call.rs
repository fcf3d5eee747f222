//! What was done in the user's name.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A call that was sent, or may have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentCall {
    /// JSON Pointer of its task.
    pub task: String,
    /// Name of its downstream API.
    pub api: String,
    /// Scopes that its token was asked for with.
    pub scopes: Vec<String>,
    /// HTTP method.
    pub method: String,
    /// Its path below the API's base URL, without the query.
    pub path: String,
    /// Number of the try, from 1; throttles do not count.
    pub attempt: u32,
    /// When it was sent, by the database's clock.
    pub at: Timestamp,
    /// Until its answer was there, or was given up.
    pub duration_ms: u64,
    /// What became of it.
    pub outcome: CallOutcome,
    /// Status of the answer, if there was one.
    pub status: Option<u16>,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// There was an answer.
    Answered,
    /// There was an answer that is too large, or not as announced.
    UnusableAnswer,
    /// There was no connection: the API never saw it.
    NotConnected,
    /// No answer in time.
    TimedOut,
    /// The connection was lost before the answer.
    ConnectionLost,
    /// Its workflow no longer wanted it: a timeout, another branch that was faster.
    Aborted,
    /// The worker went away; nobody knows whether it was sent.
    Interrupted,
}

impl CallOutcome {
    /// The word in SQL and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::UnusableAnswer => "unusable_answer",
            Self::NotConnected => "not_connected",
            Self::TimedOut => "timed_out",
            Self::ConnectionLost => "connection_lost",
            Self::Interrupted => "interrupted",
            Self::Aborted => "aborted",
        }
    }
}
