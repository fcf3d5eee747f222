//! What a job is. Which rows it is kept in stands in [`storage`](crate::storage), what its HTTP
//! representation looks like stands in the API.

mod call;
mod callback;
mod event;
mod status;
mod suspension;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use self::{
    call::{CallOutcome, SentCall},
    callback::Callback,
    event::{EventKind, EventPosition, JobEvent, NotAPosition},
    status::{JobStatus, UnknownStatus},
    suspension::Suspension,
};
use crate::{time::Timestamp, workflow::Progress};

/// A job as its owner may see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// UUID, version 7.
    pub id: Uuid,
    /// Where it stands.
    pub status: JobStatus,
    /// Name of its document.
    pub definition: DefinitionName,
    /// Key of the session it acts with; none if its document names no API.
    pub session_key: Option<String>,
    /// What it is doing.
    pub progress: Progress,
    /// Not before this it goes on; meaningful while pending or waiting.
    pub due_at: Option<Timestamp>,
    /// Tries of the current call, the first included.
    pub attempts: u32,
    /// Its submitter's labels.
    pub tags: BTreeMap<String, String>,
    /// Submitted.
    pub created_at: Timestamp,
    /// First claimed by a worker.
    pub started_at: Option<Timestamp>,
    /// Last changed.
    pub updated_at: Timestamp,
    /// Completed, faulted or cancelled.
    pub finished_at: Option<Timestamp>,
    /// After this it is faulted.
    pub deadline_at: Timestamp,
    /// The workflow's output, once completed.
    pub output: Option<Value>,
    /// The workflow error object, once faulted.
    pub error: Option<Value>,
    /// What is missing, while suspended.
    pub suspension: Option<Suspension>,
    /// What its submitter should know.
    pub warnings: Vec<String>,
    /// Grows with every change; the job's `ETag`.
    pub revision: i64,
}

/// A document's name (Open Workflow Specification, `document`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionName {
    /// `document.namespace`
    pub namespace: String,
    /// `document.name`
    pub name: String,
    /// `document.version`
    pub version: String,
}
