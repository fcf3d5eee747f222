//! What a worker keeps of a job between two claims, encrypted in its row.

use std::time::Duration;

use errand_shared::{
    jobs::SentCall,
    storage::ClaimedJob,
    workflow::{CHECKPOINT_FORMAT, Call, Checkpoint},
};
use serde::{Deserialize, Serialize};

/// The workflow's checkpoint, and how far its current call is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) call: CallState,
    /// How long the job's steps took so far, in all.
    pub(crate) evaluated: Duration,
    /// Sent since the last record.
    #[serde(skip)]
    pub(crate) sent: Vec<SentCall>,
}

/// How far a call is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CallState {
    id: u64,
    /// Tries, the first included.
    pub(crate) attempts: u32,
    /// How often the API asked for patience.
    pub(crate) throttles: u32,
    /// How often in a row there was no token for it.
    pub(crate) token_failures: u32,
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
    /// Not a state at all.
    #[error("its checkpoint cannot be read")]
    Unreadable(#[from] serde_json::Error),
}

impl State {
    /// Reads the job's state; a new one before its first step.
    pub(crate) fn read(job: &ClaimedJob) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Some(written) = &job.checkpoint else {
            let id = job.lease.job_id.to_string();
            return Ok(Self {
                format: CHECKPOINT_FORMAT,
                checkpoint: Checkpoint::start(id, job.input.clone(), job.claimed_at),
                call: CallState::default(),
                evaluated: Duration::ZERO,
                sent: Vec::new(),
            });
        };
        let Format { format } = serde_json::from_slice(written)?;
        if format != CHECKPOINT_FORMAT {
            return Err(StateError::Format(format));
        }
        Ok(serde_json::from_slice(written)?)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a checkpoint has string keys only")
    }

    /// Makes `call` the current one.
    pub(crate) fn turn_to(&mut self, call: &Call) {
        if self.call.id != call.id {
            self.call = CallState { id: call.id, ..CallState::default() };
        }
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
