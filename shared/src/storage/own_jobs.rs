//! Jobs as their owners see and end them, and as the operators of a tenant do.

use std::fmt;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::{
    identity::Principal,
    jobs::{DefinitionName, Job, JobStatus, Suspension},
    time::Timestamp,
    workflow::Progress,
};

/// What a user may do with jobs that are there.
#[async_trait]
pub trait OwnJobs: fmt::Debug + Send + Sync {
    /// Returns the owner's jobs that the filter lets through, newest first, without their outputs.
    async fn jobs(
        &self,
        owner: &Principal,
        filter: &JobFilter<'_>,
        page: Page,
    ) -> Result<Vec<Job>, StoreError>;

    /// Returns those of the jobs that are there and `owner`'s, in the order of their ids, without
    /// their outputs.
    async fn jobs_by_id(&self, owner: &Principal, ids: &[Uuid]) -> Result<Vec<Job>, StoreError>;

    /// Ends an unfinished job. A worker that has it loses its lease, and with it the right to record,
    /// and so to send, another call that changes something.
    async fn cancel(&self, id: Uuid, owner: &Principal) -> Result<Change, StoreError>;

    /// Makes a faulted job due again, with its checkpoint, and its deadline as long as it was.
    async fn retry(&self, id: Uuid, owner: &Principal) -> Result<Change, StoreError>;

    /// Erases a finished job with all that refers to it.
    async fn delete(&self, id: Uuid, owner: &Principal) -> Result<Change, StoreError>;
}

/// What an operator may see of the jobs of a tenant.
#[async_trait]
pub trait TenantJobs: fmt::Debug + Send + Sync {
    /// Returns the tenant's jobs, those with that status if one is given, newest first.
    async fn tenant_jobs(
        &self,
        tenant: &str,
        status: Option<JobStatus>,
        page: Page,
    ) -> Result<Vec<TenantJob>, StoreError>;

    /// Returns the job, if it is there and the tenant's.
    async fn tenant_job(&self, id: Uuid, tenant: &str) -> Result<Option<TenantJob>, StoreError>;
}

/// Which jobs are wanted; what is none excludes none.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobFilter<'a> {
    /// With this status.
    pub status: Option<JobStatus>,
    /// Acting with the session under this key.
    pub session_key: Option<&'a str>,
    /// With this tag, name and value.
    pub tag: Option<(&'a str, &'a str)>,
}

/// A part of a list by descending ids.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Only ids before this; none from the newest on.
    pub before: Option<Uuid>,
    /// At most so many.
    pub limit: u32,
}

/// What became of a change that only some states of a job allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Made,
    /// The job is there, in a state that does not allow it.
    NotAllowed,
    /// The owner has no such job.
    Unknown,
}

/// A job as an operator may see it: nothing that its user or its document has put in, and none of
/// what was answered.
#[derive(Debug, Clone)]
pub struct TenantJob {
    /// UUID, version 7.
    pub id: Uuid,
    /// Whose it is within the tenant.
    pub subject: String,
    /// Where it stands.
    pub status: JobStatus,
    /// Name of its document.
    pub definition: DefinitionName,
    /// Key of the session it acts with.
    pub session_key: Option<String>,
    /// What it is doing.
    pub progress: Progress,
    /// Not before this it goes on; meaningful while pending or waiting.
    pub due_at: Option<Timestamp>,
    /// Tries of the current call, the first included.
    pub attempts: u32,
    /// How often the current call was asked to wait.
    pub throttles: u32,
    /// How often a worker went away with the job in hand.
    pub interruptions: u32,
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
    /// The workflow error object, once faulted.
    pub error: Option<Value>,
    /// What is missing, while suspended; none too if its session was stopped.
    pub suspension: Option<Suspension>,
}
