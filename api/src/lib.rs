//! HTTP in and out: who may ask, what is asked, what the answer looks like.
//!
//! `router` lists every address. A request passes `authentication`, a handler in `jobs/`, and comes
//! back as a representation (`jobs/representation.rs`, the one place that decides field names) or as
//! a `problem`.

mod authentication;
mod health;
mod jobs;
mod problem;
mod refusal;
mod router;
mod state;
mod streams;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use errand_shared::{config::Config, storage::SharedStore, time::SharedClock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::state::AppState;

/// How long open requests may take to end once the API stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The HTTP interface: one of any number on the same database.
#[derive(Debug)]
pub struct Api {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<AppState>,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("[api] listen: cannot listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

impl Api {
    /// Takes the configured address; answers nothing yet.
    pub async fn bind(
        config: &Config,
        store: SharedStore,
        clock: SharedClock,
    ) -> Result<Self, BindError> {
        let address = config.api.listen;
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, state: Arc::new(AppState::new(config, store, clock)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled, then ends the requests that are open.
    pub async fn run(self, stop: CancellationToken) {
        tracing::info!("listening on http://{}", self.address);
        let state = Arc::clone(&self.state);
        let stopping = stop.clone();
        let serving = axum::serve(self.listener, router::router(Arc::clone(&state)))
            .with_graceful_shutdown(async move {
                stopping.cancelled().await;
                state.stopping.cancel();
            });
        let ended = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        tokio::select! {
            _ = serving => {}
            () = ended => tracing::warn!("some requests did not end in time"),
        }
    }
}
