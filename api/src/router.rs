//! Every address.

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    health, jobs,
    problem::{self, Problem},
    sessions,
    state::AppState,
    workflows,
};

pub(crate) fn router(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/v1/jobs", post(jobs::submit))
        .route("/v1/jobs/{id}", get(jobs::get))
        .route("/v1/jobs/{id}/calls", get(jobs::calls))
        .route("/v1/jobs/{id}/events", get(jobs::events))
        .route("/v1/jobs/{id}/resume", post(jobs::resume))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{key}", get(sessions::get).delete(sessions::stop))
        .route("/v1/workflows", get(workflows::list))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/problems/{name}", get(problem::page))
        .fallback(async || Problem::not_found("There is nothing at this address."))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(state)
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a request panicked");
    Problem::internal().into_response()
}
