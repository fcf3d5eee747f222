//! What every Errand process does at its start and at its end.

use std::{path::Path, process::ExitCode, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ConfigError, process_environment},
    storage::{self, SharedStore, StoreError},
    telemetry::chain,
    time::{SharedClock, SystemClock},
    workflow::cage::{Cages, SharedCages},
};

/// Exit code for wrong usage or configuration; 1 is for work that failed.
pub const WRONG_CONFIGURATION: u8 = 2;

/// What every process needs before it can do its own part.
#[derive(Debug)]
pub struct Process {
    /// The configuration.
    pub config: Config,
    /// The database, its schema up to date.
    pub store: SharedStore,
    /// The machine's clock.
    pub clock: SharedClock,
    /// Where expressions run that may run wild.
    pub cages: SharedCages,
}

/// Why a process cannot start: an operator's matter, exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Every problem of the configuration, one a line.
    #[error("{0}")]
    Configuration(#[from] ConfigError),
    /// The database cannot be used.
    #[error("[database] url: {}", chain(.0))]
    Database(StoreError),
    /// Anything else a process needs: an address, a file.
    #[error("{0}")]
    Other(String),
}

impl Process {
    /// Reads the configuration, begins to log, opens the database.
    pub async fn start(config: Option<&Path>) -> Result<Self, StartError> {
        let config = Config::load(config, process_environment())?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let store = storage::open(&config.database, &config.encryption)
            .await
            .map_err(StartError::Database)?;
        let cages = Arc::new(Cages::new(&config.limits));
        Ok(Self { config, store, clock: Arc::new(SystemClock), cages })
    }
}

/// Runs a process to its end: 0 if it stopped as it was asked to, 2 with one line on stderr if it
/// could not start.
#[expect(clippy::print_stderr, reason = "whoever starts a process reads why it did not start")]
pub fn report(result: Result<(), StartError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(WRONG_CONFIGURATION)
        }
    }
}

/// Returns a token that is cancelled by SIGTERM or SIGINT; a second signal ends the process at once.
///
/// To be called first of all: until then SIGTERM kills the process, or, as the first one of a
/// container, is not even delivered.
#[expect(clippy::exit, reason = "the second signal says: now")]
pub fn stop_on_signals() -> CancellationToken {
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let mut signals = Signals::listen();
    tokio::spawn(async move {
        signals.next().await;
        signalled.cancel();
        signals.next().await;
        std::process::exit(1);
    });
    stop
}

/// The signals that ask a process to stop, heard from [`Signals::listen`] on.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).expect("any process can listen for these two");
        Self {
            terminate: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Self {
        Self
    }

    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
