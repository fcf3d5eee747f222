//! `cancel`, `retry` and `DELETE`: what a user may do to a job that is there.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use errand_shared::storage::{Change, StoreError};

use super::{
    get::{JobId, load, unknown},
    representation::accepted,
};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// `POST /v1/jobs/{id}/cancel`: ends it. A call that is under way is given up within two seconds; no
/// further one is sent.
pub(crate) async fn cancel(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    JobId(id): JobId,
) -> Result<Response, Problem> {
    let change = state.store.cancel(id, &caller.principal).await;
    made(change, Problem::already_finished)?;
    tracing::info!(job.id = %id, "job cancelled by its user");
    let job = load(&state, id, &caller.principal).await?;
    Ok(accepted(job, &state.public_url))
}

/// `POST /v1/jobs/{id}/retry`: goes on from the task that failed.
pub(crate) async fn retry(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    JobId(id): JobId,
) -> Result<Response, Problem> {
    let change = state.store.retry(id, &caller.principal).await;
    made(change, Problem::not_faulted)?;
    state.store.announce();
    let job = load(&state, id, &caller.principal).await?;
    Ok(accepted(job, &state.public_url))
}

/// `DELETE /v1/jobs/{id}`: erases it with everything of it.
pub(crate) async fn delete(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    JobId(id): JobId,
) -> Result<StatusCode, Problem> {
    let change = state.store.delete(id, &caller.principal).await;
    made(change, Problem::unfinished)?;
    Ok(StatusCode::NO_CONTENT)
}

fn made(
    change: Result<Change, StoreError>,
    not_allowed: impl FnOnce() -> Problem,
) -> Result<(), Problem> {
    match change.map_err(|error| refusal::unstored(&error))? {
        Change::Made => Ok(()),
        Change::NotAllowed => Err(not_allowed()),
        Change::Unknown => Err(unknown()),
    }
}
