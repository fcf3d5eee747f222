use std::process::ExitCode;

use errand_shared::process::{StartError, WRONG_CONFIGURATION};

/// Why a command did not do what it was asked. `Display` is what its user reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Usage or configuration is wrong: exit code 2.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The command ran and failed: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    /// Something that the command needs and its user can change.
    pub(crate) fn unusable(message: impl Into<String>) -> Self {
        Self::Start(StartError::Other(message.into()))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Start(_) => ExitCode::from(WRONG_CONFIGURATION),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}
