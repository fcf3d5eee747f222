//! HTTP in and out: who may ask, what is asked, what the answer looks like.
//!
//! `router` lists every address. A request passes `authentication`, a handler in `jobs/`, and comes
//! back as a representation (`jobs/representation.rs`, the one place that decides field names) or as
//! a `problem`.

mod authentication;
mod health;
mod jobs;
mod openapi;
mod operator;
mod problem;
mod refusal;
mod router;
mod sessions;
mod state;
mod streams;
mod workflows;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum_server::{Handle, Server};
use errand_shared::{
    config::Config,
    storage::SharedStore,
    time::SharedClock,
    workflow::{cage::SharedCages, registry::RegistryError},
};
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::state::AppState;

/// How long open requests may take to end once the API stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send a request's headers, and how long a connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The HTTP interface: one of any number on the same database.
#[derive(Debug)]
pub struct Api {
    server: Server<SocketAddr>,
    /// Where `/metrics` is answered, if not by `server`.
    metrics: Option<Server<SocketAddr>>,
    address: SocketAddr,
    state: Arc<AppState>,
}

/// Why the API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be listened on.
    #[error("{key}: cannot listen on {address}")]
    Address {
        /// Which one it is.
        key: &'static str,
        /// The configured one.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A registered workflow cannot be used.
    #[error(transparent)]
    Workflows(#[from] RegistryError),
}

impl Api {
    /// Reads the registered workflows and takes the configured address; answers nothing yet.
    pub async fn bind(
        config: &Config,
        store: SharedStore,
        clock: SharedClock,
        cages: SharedCages,
    ) -> Result<Self, BindError> {
        let state = Arc::new(AppState::new(config, store, clock, cages)?);
        let (server, address) = listen("[api] listen", config.api.listen).await?;
        let metrics = match config.telemetry.metrics_listen {
            Some(address) => Some(listen("[telemetry] metrics_listen", address).await?.0),
            None => None,
        };
        Ok(Self { server, metrics, address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled, then ends the requests that are open.
    pub async fn run(self, stop: CancellationToken) {
        tracing::info!("listening on http://{}", self.address);
        let handle = Handle::new();
        if let Some(metrics) = self.metrics {
            let router = router::metrics(Arc::clone(&self.state));
            tokio::spawn(metrics.handle(handle.clone()).serve(router.into_make_service()));
        }
        let (state, stopping) = (Arc::clone(&self.state), handle.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            state.stopping.cancel();
            stopping.graceful_shutdown(Some(STOP_TIMEOUT));
        });
        let mut server = self.server.handle(handle);
        // Without a time limit a client that sends nothing holds its connection for ever.
        server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        if let Err(error) = server.serve(router::router(self.state).into_make_service()).await {
            tracing::error!("the API ended: {error}");
        }
    }
}

/// Takes an address; `key` is where it is configured.
async fn listen(
    key: &'static str,
    address: SocketAddr,
) -> Result<(Server<SocketAddr>, SocketAddr), BindError> {
    let failed = |source| BindError::Address { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let listener = listener.into_std().map_err(failed)?;
    Ok((axum_server::from_tcp(listener).map_err(failed)?, address))
}
