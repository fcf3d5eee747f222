//! `GET /v1/jobs/{id}/calls`: what was called in the user's name.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use errand_shared::{
    jobs::{CallOutcome, SentCall},
    storage::AUDIT_PAGE,
    time::Timestamp,
};
use serde::Serialize;

use super::{
    cursor::Cursor,
    get::{JobId, load},
};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// A call as clients see it.
#[derive(Debug, Serialize)]
struct Representation {
    task: String,
    api: String,
    method: String,
    path: String,
    status: Option<u16>,
    outcome: CallOutcome,
    at: Timestamp,
    duration_ms: u64,
    attempt: u32,
    scopes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Calls {
    calls: Vec<Representation>,
    /// For `?cursor=`; null once all calls so far are there.
    next_cursor: Option<String>,
}

impl From<SentCall> for Representation {
    fn from(call: SentCall) -> Self {
        Self {
            task: call.task,
            api: call.api,
            method: call.method,
            path: call.path,
            status: call.status,
            outcome: call.outcome,
            at: call.at,
            duration_ms: call.duration_ms,
            attempt: call.attempt,
            scopes: call.scopes,
        }
    }
}

/// Answers with the calls in the order they were recorded.
pub(crate) async fn calls(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    JobId(id): JobId,
    Cursor(cursor): Cursor,
) -> Result<Response, Problem> {
    let job = load(&state, id, &caller.principal).await?;
    let skip: u32 = match &cursor {
        None => 0,
        Some(cursor) => cursor
            .parse()
            .map_err(|_| Problem::invalid_request("`cursor` is not one of this list."))?,
    };
    let calls = state.store.calls(job.id, &caller.principal, skip).await;
    let calls = calls.map_err(|error| refusal::unstored(&error))?;
    let is_full = calls.len() == AUDIT_PAGE;
    let next_cursor = is_full.then(|| (skip as usize + calls.len()).to_string());
    let calls = calls.into_iter().map(Representation::from).collect();
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, Json(Calls { calls, next_cursor })).into_response())
}
