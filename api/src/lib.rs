//! HTTP in and out.

use errand_shared::{config::Config, storage::SharedStore, time::SharedClock};
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

/// The HTTP interface of Errand.
#[derive(Debug)]
pub struct Api;

/// Not.
#[derive(Debug, thiserror::Error)]
#[error("[api] listen: cannot listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

impl Api {
    /// Takes the configured address.
    pub async fn bind(
        _config: &Config,
        _store: SharedStore,
        _clock: SharedClock,
    ) -> Result<Self, BindError> {
        Ok(Self)
    }
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }
    /// Answers until stop.
    pub async fn run(self, _stop: CancellationToken) {}
}
