//! `POST /v1/jobs/{id}/resume`: the user is back.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use errand_shared::jobs::JobStatus;

use super::{
    get::{JobId, load},
    representation::accepted,
};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// Exchanges the user's fresh token into the job's session; every suspended job of that session
/// goes on from its last finished task.
pub(crate) async fn resume(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    JobId(id): JobId,
) -> Result<Response, Problem> {
    let job = load(&state, id, &caller.principal).await?;
    let (JobStatus::Suspended, Some(suspension), Some(session_key)) =
        (job.status, &job.suspension, &job.session_key)
    else {
        return Err(Problem::not_suspended());
    };
    let Some(api) = state.downstream_apis.get(&suspension.api) else {
        return Err(refusal::no_longer_configured(&suspension.api));
    };
    state
        .sessions
        .resume(&caller, session_key, api, &state.downstream_apis)
        .await
        .map_err(|error| refusal::uninitiated(&error, &caller, &state.identity))?;
    let job = load(&state, id, &caller.principal).await?;
    Ok(accepted(job, &state.public_url))
}
