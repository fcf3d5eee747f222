//! `/livez`, `/readyz` and `/metrics`: for whoever runs the process, without a token.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use errand_shared::metrics;

use crate::state::AppState;

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "alive\n"
}

/// What this process counts.
pub(crate) async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    let media_type = [(header::CONTENT_TYPE, metrics::MEDIA_TYPE)];
    (media_type, metrics::render(&state.store).await).into_response()
}

/// The process can take jobs: the database answers and the identity provider's keys are known.
pub(crate) async fn ready(State(state): State<Arc<AppState>>) -> (StatusCode, &'static str) {
    if state.store.ping().await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n");
    }
    if !state.verifier.is_ready() && state.verifier.warm().await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the identity provider's keys are not known\n");
    }
    (StatusCode::OK, "ready\n")
}
