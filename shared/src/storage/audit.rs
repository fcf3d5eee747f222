//! What the API asks of a database about a job's past.

use std::fmt;

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::{
    identity::Principal,
    jobs::{EventPosition, JobEvent, SentCall},
};

/// Rows of one answer at most.
pub const AUDIT_PAGE: usize = 1_000;

/// The past of jobs, for their owners.
#[async_trait]
pub trait Audit: fmt::Debug + Send + Sync {
    /// Returns up to [`AUDIT_PAGE`] events of the job after a position, oldest first, those of its session
    /// in the job's lifetime among them. None for somebody else's job.
    async fn events(
        &self,
        job_id: Uuid,
        owner: &Principal,
        after: EventPosition,
    ) -> Result<Vec<JobEvent>, StoreError>;

    /// Returns up to [`AUDIT_PAGE`] calls of the job after the first `skip`, in the order they were
    /// recorded. None for somebody else's job.
    async fn calls(
        &self,
        job_id: Uuid,
        owner: &Principal,
        skip: u32,
    ) -> Result<Vec<SentCall>, StoreError>;
}
