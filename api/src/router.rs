//! Every address.

use std::{any::Any, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use errand_shared::metrics;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    health, jobs, openapi, operator,
    problem::{self, Problem},
    sessions,
    state::AppState,
    workflows,
};

pub(crate) fn router(state: Arc<AppState>) -> Router {
    let public = if state.metrics_here { with_metrics() } else { Router::new() };
    public
        .route("/v1/jobs", get(jobs::list).post(jobs::submit))
        .route("/v1/jobs/batch", post(jobs::submit_batch))
        .route("/v1/jobs/{id}", get(jobs::get).delete(jobs::delete))
        .route("/v1/jobs/{id}/calls", get(jobs::calls))
        .route("/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{id}/events", get(jobs::events))
        .route("/v1/jobs/{id}/resume", post(jobs::resume))
        .route("/v1/jobs/{id}/retry", post(jobs::retry))
        .route("/v1/operator/jobs", get(operator::list))
        .route("/v1/operator/jobs/{id}", get(operator::get))
        .route("/v1/operator/jobs/{id}/cancel", post(operator::cancel))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{key}", get(sessions::get).delete(sessions::stop))
        .route("/v1/workflows", get(workflows::list))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi::json))
        .route("/docs", get(openapi::docs))
        .route("/problems/{name}", get(problem::page))
        .fallback(async || Problem::not_found("There is nothing at this address."))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(count))
        .with_state(state)
}

/// `/metrics` where nothing else is.
pub(crate) fn metrics(state: Arc<AppState>) -> Router {
    with_metrics().with_state(state)
}

fn with_metrics() -> Router<Arc<AppState>> {
    Router::new().route("/metrics", get(health::metrics))
}

/// Counts the request under its route, so that no id becomes a label.
async fn count(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    metrics::http_request(method.as_str(), route, response.status().as_u16(), began.elapsed());
    response
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a request panicked");
    Problem::internal().into_response()
}
