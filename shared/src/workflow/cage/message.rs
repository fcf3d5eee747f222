//! What parent and child say to each other: one line of JSON there, one back.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long a child's answer may be; the parent reads no more, the child says so itself.
pub(super) const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// An expression to be compiled, and to be evaluated if there are data.
#[derive(Debug, Serialize)]
pub(super) struct Request<'r> {
    pub(super) source: &'r str,
    /// Names without `$`.
    pub(super) variables: &'r [String],
    /// The variables' values, and the data.
    pub(super) evaluate: Option<(Vec<&'r Value>, &'r Value)>,
}

/// A [`Request`] as the child reads it.
#[derive(Debug, Deserialize)]
pub(super) struct Question {
    pub(super) source: String,
    pub(super) variables: Vec<String>,
    pub(super) evaluate: Option<(Vec<Value>, Value)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What the expression gave, `null` if it was only compiled; or a sentence for its author.
    pub(super) result: Result<Value, String>,
    /// CPU time of the child so far.
    pub(super) cpu_milliseconds: u64,
}
