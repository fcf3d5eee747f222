//! What a worker asks of a database: claims, leases and fenced records.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::StoreError;
use crate::{
    identity::Principal,
    jobs::{EventKind, JobStatus, SentCall, Suspension},
    time::Timestamp,
    workflow::Progress,
};

/// The jobs table as a queue.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync {
    /// Takes up to `limit` jobs that are ready, under a new lease each. Users take turns; one user's jobs
    /// come by priority, and then the longest due first.
    ///
    /// Must not be dropped half-way: rows could stay leased that nobody knows of, until the lease
    /// is over.
    async fn claim(
        &self,
        worker: Uuid,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<ClaimedJob>, StoreError>;

    /// Makes ready what is due; returns how long until the next job is. None if there is none.
    async fn wake_due(&self) -> Result<Option<Duration>, StoreError>;

    /// Makes the leases of `jobs` last for `lease` from now; returns those that are still this worker's.
    async fn renew(
        &self,
        worker: Uuid,
        jobs: &[Uuid],
        lease: Duration,
    ) -> Result<Vec<Renewed>, StoreError>;

    /// Returns the leases that `worker` holds: what is none of them any more was taken away.
    async fn held(&self, worker: Uuid) -> Result<Vec<Renewed>, StoreError>;

    /// Gives back the jobs of workers whose leases ran out, and counts the interruption; returns how
    /// many. One that was interrupted before is due after a pause, which grows.
    async fn rescue(&self) -> Result<u64, StoreError>;

    /// Gives back everything that `worker` still holds; returns how many.
    async fn release(&self, worker: Uuid) -> Result<u64, StoreError>;

    /// How much there is to do; looks at [`Backlog::MOST`] rows of a kind at most.
    async fn backlog(&self) -> Result<Backlog, StoreError>;

    /// Gives back one job whose worker task ended without a record, as [`Queue::rescue`] does.
    async fn interrupt(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Gives back one job as it is, to be looked at again after `length`: only an operator can help.
    async fn hold(&self, lease: &Lease, length: Duration) -> Result<(), StoreError>;

    /// Writes what steps of different jobs came to, in one transaction. Returns of each whether it was
    /// written: if not, the lease is somebody else's; drop the job.
    async fn record(&self, records: &[(&Lease, &Record)]) -> Result<Vec<bool>, StoreError>;
}

/// The right to work on a job, with its fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job_id: Uuid,
    /// The fence: each claim of the job has a greater one.
    pub lease_id: i64,
    /// Whose job it is: what is written is encrypted for its owner.
    pub owner: Principal,
}

/// A lease as its worker knows it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// The job.
    pub job_id: Uuid,
    /// The fence.
    pub lease_id: i64,
}

/// What is unfinished, counted so that it costs the same however much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs by status; a lower bound once there are [`Backlog::MOST`].
    pub jobs: BTreeMap<JobStatus, u64>,
    /// For how long the oldest job that is ready has been waiting for a worker; none if there is none.
    /// A lower bound once there are [`Backlog::MOST`].
    pub lag: Option<Duration>,
}

impl Backlog {
    /// How many running jobs, and how many others, are counted.
    pub const MOST: i64 = 10_000;
}

/// A job in a worker's hands.
#[derive(Debug)]
pub struct ClaimedJob {
    /// The right to work on it.
    pub lease: Lease,
    /// The session it acts with.
    pub session: Option<ClaimedSession>,
    /// Its document, verbatim: JSON.
    pub definition: Vec<u8>,
    /// Its input.
    pub input: Value,
    /// What [`Record::checkpoint`] was last; none before the first. That of a fault if its user lets
    /// it go on after one.
    pub checkpoint: Option<Vec<u8>>,
    /// When it was claimed, by the database's clock.
    pub claimed_at: Timestamp,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// After this it is faulted.
    pub deadline_at: Timestamp,
    /// How often in a row a worker died with it in hand: since it was last put off or suspended by a
    /// record, or its user let it go on after a fault.
    pub interruptions: u32,
    /// W3C Trace Context of its submission.
    pub traceparent: String,
}

/// A session as it was when its job was claimed.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedSession {
    /// Its id.
    pub id: Uuid,
    /// Greater each time that its user acts: what was got before is of no use after a stop.
    pub version: i64,
}

/// What a step came to.
#[derive(Debug)]
pub struct Record {
    /// The worker's state of the job.
    pub checkpoint: Vec<u8>,
    /// What the job is doing.
    pub progress: Progress,
    /// Tries of the current call.
    pub attempts: u32,
    /// How often the current call was asked to wait.
    pub throttles: u32,
    /// What was sent since the record before.
    pub calls: Vec<SentCall>,
    /// What the owner is told of the time since then, in order; `next` tells of itself.
    pub events: Vec<(EventKind, Value)>,
    /// What happens next.
    pub next: Next,
}

/// What happens to a job after a record.
#[derive(Debug)]
pub enum Next {
    /// The worker goes on with it, under the same lease.
    Continue,
    /// Nothing before `due_at`; the lease ends.
    Wait {
        /// By the database's clock.
        due_at: Timestamp,
    },
    /// Nothing before the user acts, or the deadline; the lease ends.
    ///
    /// If the session's grant is no longer the one of `session_version`, the user has acted
    /// already, and the job is due at once.
    Suspend {
        /// What is missing.
        suspension: Suspension,
        /// The grant that did not do.
        session_version: i64,
    },
    /// The workflow's output; the end.
    Complete(Value),
    /// The workflow error object; the end.
    Fault(Value),
}

impl Next {
    /// What the job's status becomes.
    pub(super) fn status(&self) -> JobStatus {
        match self {
            Self::Continue => JobStatus::Running,
            Self::Wait { .. } => JobStatus::Waiting,
            Self::Suspend { .. } => JobStatus::Suspended,
            Self::Complete(_) => JobStatus::Completed,
            Self::Fault(_) => JobStatus::Faulted,
        }
    }
}

impl Record {
    /// What its owner is told, in order; `status` is what the job's status became.
    pub(super) fn told(&self, status: JobStatus) -> impl Iterator<Item = (EventKind, Value)> {
        self.events.iter().cloned().chain(self.told_of_next(status))
    }

    fn told_of_next(&self, status: JobStatus) -> Option<(EventKind, Value)> {
        let tasks = &self.progress.tasks;
        Some(match &self.next {
            Next::Continue => return None,
            // Whoever was told of the repetition knows.
            Next::Wait { .. }
                if matches!(self.events.last(), Some((EventKind::CallRetried, _))) =>
            {
                return None;
            }
            Next::Wait { due_at } => {
                (EventKind::Waiting, json!({ "task": tasks.first(), "until": due_at }))
            }
            Next::Suspend { suspension, .. } if status == JobStatus::Suspended => {
                let Suspension { reason, api, scopes, .. } = suspension;
                let missing = json!({ "reason": reason, "api": api, "scopes": scopes });
                (EventKind::Suspended, json!({ "task": tasks.first(), "suspension": missing }))
            }
            // The user has acted already.
            Next::Suspend { .. } => (EventKind::Waiting, json!({ "task": tasks.first() })),
            Next::Complete(_) => (EventKind::Completed, json!({})),
            // The document chose the rest of the error, which may be the user's data.
            Next::Fault(error) => {
                let status = error.get("status").filter(|status| status.is_number());
                (EventKind::Faulted, json!({ "error": { "status": status } }))
            }
        })
    }
}
