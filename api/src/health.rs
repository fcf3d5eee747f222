//! `/livez` and `/readyz`: for whoever runs the process, without a token.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use crate::state::AppState;

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "alive\n"
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
