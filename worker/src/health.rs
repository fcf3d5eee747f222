//! `/livez`, `/readyz` and `/metrics` of a worker process. Three answers need no web framework.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use errand_shared::{metrics, storage::SharedStore};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("[worker] listen or [telemetry] metrics_listen: cannot listen on {address}")]
pub struct HealthError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Answers probes of a worker process.
#[derive(Debug)]
pub struct HealthListener(TcpListener);

impl HealthListener {
    /// Takes the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, HealthError> {
        let listener = TcpListener::bind(address).await;
        listener.map(Self).map_err(|source| HealthError { address, source })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, store: SharedStore) {
        loop {
            let Ok((stream, _)) = self.0.accept().await else {
                // Out of file descriptors, for example: not a reason to spin.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let store = SharedStore::clone(&store);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let store = SharedStore::clone(&store);
                    async move { Ok::<_, Infallible>(answer(&request, &store).await) }
                });
                // A client that breaks off is its own matter.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

async fn answer(request: &Request<Incoming>, store: &SharedStore) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/livez" => (StatusCode::OK, "alive\n"),
        "/readyz" if store.ping().await.is_ok() => (StatusCode::OK, "ready\n"),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n"),
        "/metrics" => {
            let mut response = Response::new(Full::from(metrics::render(store).await));
            let media_type = HeaderValue::from_static(metrics::MEDIA_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, media_type);
            return response;
        }
        _ => (StatusCode::NOT_FOUND, "not found\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
