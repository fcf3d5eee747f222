//! Where a job stands: the tree of its active path.
//!
//! Finished tasks leave nothing behind but the data they handed on, so a checkpoint does not grow with
//! history. Everything that depends on time or on an answer is fixed in it when it is decided, so
//! whoever goes on from it replays nothing.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{call::Call, error::WorkflowError, progress::Happened};
use crate::time::Timestamp;

/// Which [`Checkpoint`]s this program writes; to be stored beside them.
pub const CHECKPOINT_FORMAT: u32 = 2;

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
    /// When the `timeout` of the whole workflow is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout_at: Option<Timestamp>,
    /// Since when the job stands still because it faulted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) paused_at: Option<Timestamp>,
    /// The list of the whole workflow; none before the first step.
    pub(super) root: Option<ListState>,
    /// The result, once there is one. After a fault `root` still shows where it happened.
    pub(super) end: Option<End>,
    /// What the last steps did; not part of the state.
    #[serde(skip)]
    pub(super) happened: Vec<Happened>,
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
            timeout_at: None,
            paused_at: None,
            root: None,
            end: None,
            happened: Vec::new(),
        }
    }

    /// Lets a job that faulted go on from the task that failed, which begins anew: a call with a new id.
    ///
    /// The time until the next step does not count for any timeout. False, and nothing is changed, if
    /// there is nothing to go on with: the job did not fault, or not in one of its tasks.
    pub fn retry(&mut self) -> bool {
        let is_possible = matches!(self.end, Some(End::Faulted(_))) && self.root.is_some();
        if is_possible {
            self.end = None;
        }
        is_possible
    }

    /// Notes that the job stands still from `now` on, until its user has acted: the time until the
    /// next step does not count for any timeout.
    pub fn pause(&mut self, now: Timestamp) {
        self.paused_at = Some(now);
    }

    /// Moves all timeouts of a job that goes on by the time it stood still.
    pub(super) fn unpause(&mut self, now: Timestamp) {
        if let Some(since) = self.paused_at.take() {
            let length = now.since(since);
            if let Some(timeout_at) = &mut self.timeout_at {
                *timeout_at = *timeout_at + length;
            }
            if let Some(root) = &mut self.root {
                root.postpone(length);
            }
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
    /// Raw input of the current task: output of the one before; none: the input of what holds the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Json>,
    /// The current task, once it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<Box<TaskState>>,
}

impl ListState {
    pub(super) fn begin(data: Option<Value>) -> Self {
        Self { at: 0, data: data.map(Json), task: None }
    }

    fn postpone(&mut self, length: Duration) {
        if let Some(task) = &mut self.task {
            task.postpone(length);
        }
    }
}

/// A task that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TaskState {
    pub(super) started_at: Timestamp,
    /// What `input.from` gave; none: the raw input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input: Option<Json>,
    /// When its `timeout` is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout_at: Option<Timestamp>,
    pub(super) activity: ActivityState,
}

impl TaskState {
    /// Moves its timeouts; what it waits for is not moved.
    fn postpone(&mut self, length: Duration) {
        if let Some(timeout_at) = &mut self.timeout_at {
            *timeout_at = *timeout_at + length;
        }
        match &mut self.activity {
            ActivityState::Immediate | ActivityState::Call(_) | ActivityState::Wait(_) => {}
            ActivityState::Do(list) => list.postpone(length),
            ActivityState::For(repeat) => {
                if let Some(list) = &mut repeat.turn {
                    list.postpone(length);
                }
            }
            ActivityState::Fork(branches) => {
                for branch in branches {
                    if let BranchState::Running(Some(task)) = branch {
                        task.postpone(length);
                    }
                }
            }
            ActivityState::Try(attempt) => {
                attempt.since = attempt.since + length;
                match &mut attempt.phase {
                    TryPhase::Body { list, timeout_at } => {
                        if let Some(timeout_at) = timeout_at {
                            *timeout_at = *timeout_at + length;
                        }
                        list.postpone(length);
                    }
                    TryPhase::Backoff { .. } => {}
                    TryPhase::Catch { list, .. } => list.postpone(length),
                }
            }
        }
    }
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActivityState {
    /// It is done in the step in which it begins.
    Immediate,
    Call(Call),
    /// Until when.
    Wait(Timestamp),
    Do(ListState),
    For(ForState),
    /// One state for each branch.
    Fork(Vec<BranchState>),
    Try(TryState),
}

/// A loop that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ForState {
    /// An array.
    pub(super) items: Json,
    /// Of the present turn, or of the next one.
    pub(super) index: usize,
    /// Output of the turn before; none: the task's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Json>,
    /// The present turn, once its `while` is known to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) turn: Option<ListState>,
}

/// A branch of a fork. Its raw input is the input of the fork.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BranchState {
    /// None: it has not begun.
    Running(Option<Box<TaskState>>),
    /// Its output.
    Done(Json),
}

/// A try that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TryState {
    /// How often it was tried again.
    pub(super) retries: u64,
    /// Begin of the first try.
    pub(super) since: Timestamp,
    pub(super) phase: TryPhase,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TryPhase {
    Body {
        list: ListState,
        /// When this try takes too long.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_at: Option<Timestamp>,
    },
    /// It failed, and is tried again later.
    Backoff { until: Timestamp },
    /// It failed with this error, which is handled.
    Catch { error: WorkflowError, list: ListState },
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
