//! What a worker keeps of a job between two claims, encrypted in its row.

use std::{collections::BTreeMap, time::Duration};

use errand_shared::{
    storage::ClaimedJob,
    time::Timestamp,
    workflow::{CHECKPOINT_FORMAT, Call, Checkpoint},
};
use serde::{Deserialize, Serialize};

use crate::workflows::{Ready, WorkflowDigest};

/// The workflow's checkpoint, and how far the calls are that it wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    /// Of the document that the checkpoint belongs to.
    digest: WorkflowDigest,
    pub(crate) checkpoint: Checkpoint,
    /// By the id of the call.
    calls: BTreeMap<u64, CallState>,
    /// How long the job's steps took so far, in all.
    pub(crate) evaluated: Duration,
}

/// How far a call is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CallState {
    /// Tries, the first included.
    pub(crate) attempts: u32,
    /// How often the API asked for patience.
    pub(crate) throttles: u32,
    /// How often in a row there was no token for it.
    pub(crate) token_failures: u32,
    /// Not sent before this.
    pub(crate) not_before: Option<Timestamp>,
    /// It was about to be sent when this was written: whoever reads this later cannot know whether
    /// it was.
    sent: bool,
}

/// The stored state is not of this version.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Written by a newer release, which has since been taken back.
    #[error("its checkpoint has format {0}, which this release does not know")]
    Format(u32),
    /// Of another document than the job's.
    #[error("its checkpoint belongs to another document")]
    Foreign,
    /// Not a state at all.
    #[error("its checkpoint cannot be read")]
    Unreadable(#[from] serde_json::Error),
}

impl State {
    /// Reads the job's state; a new one before its first step.
    ///
    /// A job that had faulted was let go on by its user, or it would not have been claimed. What its
    /// other branches had sent when it faulted stays sent.
    pub(crate) fn read(job: &ClaimedJob, document: &Ready) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Some(written) = &job.checkpoint else {
            let id = job.lease.job_id.to_string();
            return Ok(Self {
                format: CHECKPOINT_FORMAT,
                digest: document.digest,
                checkpoint: Checkpoint::start(id, job.input.clone(), job.claimed_at),
                calls: BTreeMap::new(),
                evaluated: Duration::ZERO,
            });
        };
        let Format { format } = serde_json::from_slice(written)?;
        if format != CHECKPOINT_FORMAT {
            return Err(StateError::Format(format));
        }
        let mut state: Self = serde_json::from_slice(written)?;
        if state.digest != document.digest {
            return Err(StateError::Foreign);
        }
        state.checkpoint.retry();
        Ok(state)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a checkpoint has string keys only")
    }

    /// Forgets the calls that are not among `wanted`.
    pub(crate) fn keep(&mut self, wanted: &[Call]) {
        self.calls.retain(|id, _| wanted.iter().any(|call| call.id == *id));
    }

    pub(crate) fn call(&mut self, call: &Call) -> &mut CallState {
        self.calls.entry(call.id).or_default()
    }

    /// The job is claimed again at `due_at`: the calls whose time has come by then need none of their
    /// own, and whoever makes the job due earlier has them made earlier.
    pub(crate) fn rest_until(&mut self, due_at: Timestamp) {
        for call in self.calls.values_mut() {
            call.not_before.take_if(|time| *time <= due_at);
        }
    }

    /// Which try of the call is under way.
    pub(crate) fn attempt(&self, call: &Call) -> u32 {
        self.calls.get(&call.id).map_or(1, |call| call.attempts)
    }

    /// The most tries, and the most throttles, of any call.
    pub(crate) fn tries(&self) -> (u32, u32) {
        let most = |count: fn(&CallState) -> u32| self.calls.values().map(count).max();
        let attempts = most(|call| call.attempts).unwrap_or_default();
        (attempts, most(|call| call.throttles).unwrap_or_default())
    }
}

impl CallState {
    /// Whether a worker died while it was on its way; that try is not counted.
    pub(crate) fn was_interrupted(&mut self) -> bool {
        let interrupted = self.sent;
        if interrupted {
            self.undo();
        }
        interrupted
    }

    /// It is about to be sent.
    pub(crate) fn begin(&mut self) {
        self.attempts += 1;
        self.token_failures = 0;
        self.not_before = None;
        self.sent = true;
    }

    /// It was not a try after all.
    pub(crate) fn undo(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
        self.sent = false;
    }

    /// It failed.
    pub(crate) fn fail(&mut self) {
        self.sent = false;
    }

    /// The API asked for patience, which is not a try.
    pub(crate) fn throttle(&mut self) {
        self.undo();
        self.throttles += 1;
    }
}
