//! Where a job stands: the tree of its active path.
//!
//! Finished tasks leave nothing behind but the data they handed on, so a checkpoint does not grow with
//! history. Everything that depends on time or on an answer is fixed in it when it is decided, so
//! nothing is ever replayed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{call::Call, error::WorkflowError};
use crate::time::Timestamp;

/// Which [`Checkpoint`]s this program writes; to be stored beside them.
pub const CHECKPOINT_FORMAT: u32 = 1;

/// The whole state of a job, as far as its workflow is concerned. It holds the user's data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub(super) job_id: String,
    pub(super) started_at: Timestamp,
    /// The job's input: `$workflow.input`.
    pub(super) input: Json,
    /// `$context`: what the last `export.as` gave.
    pub(super) context: Json,
    /// How many calls were given an id.
    pub(super) calls: u64,
    /// How many tasks were started or skipped.
    pub(super) task_starts: u64,
    /// How many tasks were finished or skipped, not counting those that only group others.
    pub(super) completed: u64,
    /// The list of the whole workflow; none before the first step.
    pub(super) root: Option<ListState>,
    /// The result, once there is one. After a fault `root` still shows where it happened.
    pub(super) end: Option<End>,
}

impl Checkpoint {
    /// A job that has not begun. `now` becomes `$workflow.startedAt`.
    pub fn start(job_id: impl Into<String>, input: Value, now: Timestamp) -> Self {
        Self {
            job_id: job_id.into(),
            started_at: now,
            input: Json(input),
            context: Json(Value::Null),
            calls: 0,
            task_starts: 0,
            completed: 0,
            root: None,
            end: None,
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    Completed(Json),
    Faulted(WorkflowError),
}

/// A list of tasks that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ListState {
    /// Index of the current task.
    pub(super) at: usize,
    /// Raw input of the current task: output of the one before.
    pub(super) data: Json,
    /// The current task, once it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<Box<TaskState>>,
}

impl ListState {
    pub(super) fn begin(data: Value) -> Self {
        Self { at: 0, data: Json(data), task: None }
    }
}

/// A task that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TaskState {
    pub(super) started_at: Timestamp,
    /// What `input.from` gave; none: the raw input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input: Option<Json>,
    pub(super) activity: ActivityState,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActivityState {
    Set,
    Call(Call),
    /// Until when.
    Wait(Timestamp),
    Do(ListState),
}

/// A JSON value that is written as text, so that the tree around it does not add to its depth: what
/// reads a checkpoint allows 128 levels, and so many may be in the data alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Json(pub(super) Value);

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(serde::de::Error::custom)
    }
}
