//! `/v1/sessions`: what acts for the user, and an end to it.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use errand_shared::{jobs::JobStatus, storage::SessionView, time::Timestamp};
use serde::Serialize;

use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// A session as its user sees it; never its tokens.
#[derive(Debug, Serialize)]
pub(crate) struct Representation {
    key: String,
    state: &'static str,
    created_at: Timestamp,
    refreshed_at: Timestamp,
    ends_at: Option<Timestamp>,
    jobs: BTreeMap<JobStatus, u64>,
}

impl From<SessionView> for Representation {
    fn from(session: SessionView) -> Self {
        Self {
            key: session.key,
            state: session.state.as_str(),
            created_at: session.created_at,
            refreshed_at: session.refreshed_at,
            ends_at: session.ends_at,
            jobs: session.jobs,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct List {
    sessions: Vec<Representation>,
}

/// `GET /v1/sessions`: one's own, newest first.
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<List>, Problem> {
    let sessions = state.sessions.list(&caller.principal).await;
    let sessions = sessions.map_err(|error| refusal::unstored(&error))?;
    Ok(Json(List { sessions: sessions.into_iter().map(Representation::from).collect() }))
}

/// `GET /v1/sessions/{key}`
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    key: Option<Path<String>>,
) -> Result<Json<Representation>, Problem> {
    let sessions = state.sessions.list(&caller.principal).await;
    let sessions = sessions.map_err(|error| refusal::unstored(&error))?;
    let wanted = key.and_then(|Path(key)| sessions.into_iter().find(|session| session.key == key));
    wanted.map(|session| Json(session.into())).ok_or_else(unknown)
}

/// `DELETE /v1/sessions/{key}`: its tokens are erased, its unfinished jobs wait for the user.
pub(crate) async fn stop(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    key: Option<Path<String>>,
) -> Result<StatusCode, Problem> {
    let Path(key) = key.ok_or_else(unknown)?;
    let stopped = state.sessions.stop(&caller.principal, &key).await;
    if stopped.map_err(|error| refusal::unstored(&error))? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(unknown())
    }
}

/// The same for a session that never was, that was stopped before, and for somebody else's.
fn unknown() -> Problem {
    Problem::not_found("You have no session with this key.")
}
