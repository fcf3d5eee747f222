//! `GET /v1/jobs/{id}`: the job, or news of it.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use errand_shared::{
    identity::{Principal, SuspensionReason},
    jobs::{Job, JobStatus, Suspension},
    workflow::check,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::representation::{etag, found};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// No request is held longer.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// How often a held request looks at the job.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Answers at once, or, with `Prefer: wait=N` (RFC 7240), once the job is another than the one that
/// `If-None-Match` names, after N seconds at the latest.
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    JobId(id): JobId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut job = load(&state, id, &caller.principal).await?;
    let seen = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let wait = wait(&headers);
    let known = seen.map_or_else(|| etag(&job), str::to_owned);
    if let Some(wait) = wait {
        let until = Instant::now() + wait;
        while names(&known, &job) && !job.status.is_final() && Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep_until(until.min(Instant::now() + LOOK_EVERY)) => {}
                () = state.stopping.cancelled() => break,
            }
            job = load(&state, job.id, &caller.principal).await?;
        }
    }
    let tag = etag(&job);
    let mut response = if seen.is_some_and(|seen| names(seen, &job)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        found(job, &state.public_url)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    if wait.is_some() {
        let applied = HeaderValue::from_static("wait");
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// The id in an address. What cannot be one is the id of no job.
#[derive(Debug)]
pub(crate) struct JobId(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for JobId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let id = Path::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| unknown())
    }
}

pub(super) async fn load(state: &AppState, id: Uuid, owner: &Principal) -> Result<Job, Problem> {
    let job = state.store.job(id, owner).await.map_err(|error| refusal::unstored(&error))?;
    complete(state, job.ok_or_else(unknown)?, owner).await
}

/// Adds what only the document of a job says.
pub(super) async fn complete(
    state: &AppState,
    mut job: Job,
    owner: &Principal,
) -> Result<Job, Problem> {
    if job.status == JobStatus::Suspended && job.suspension.is_none() {
        job.suspension = revoked(state, job.id, owner).await?;
    }
    Ok(job)
}

/// What is missing to a job whose session was stopped: a new sign-in, for the first API that its
/// document names. Jobs are stopped many at once, without a look into their documents.
async fn revoked(
    state: &AppState,
    id: Uuid,
    owner: &Principal,
) -> Result<Option<Suspension>, Problem> {
    let definition = state.store.definition(id, owner).await;
    let definition = definition.map_err(|error| refusal::unstored(&error))?;
    let workflow = definition.and_then(|definition| {
        check(&definition, &state.limits, Some(&state.downstream_apis)).ok()
    });
    let name = workflow.and_then(|workflow| workflow.apis().first().cloned());
    Ok(name.and_then(|name| {
        let api = state.downstream_apis.get(&name)?;
        let reason = SuspensionReason::SessionRevoked;
        Some(Suspension::new(reason, None, &state.identity, &owner.tenant, &name, api))
    }))
}

/// The same for a job that never was and for somebody else's.
pub(crate) fn unknown() -> Problem {
    Problem::not_found("You have no job with this id.")
}

/// Whether the `If-None-Match` value names the job as it is (RFC 9110 13.1.2).
fn names(seen: &str, job: &Job) -> bool {
    let tag = etag(job);
    seen.split(',')
        .map(str::trim)
        .any(|seen| seen == "*" || seen.strip_prefix("W/").unwrap_or(seen) == tag)
}

fn wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = preferences
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| preference.trim().strip_prefix("wait="))?;
    let seconds = seconds.trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_to_wait_is_found_and_bounded() {
        for (prefer, seconds) in [
            ("wait=10", Some(10)),
            ("respond-async, wait=5", Some(5)),
            ("wait=3600", Some(60)),
            ("wait=soon", None),
            ("return=minimal", None),
        ] {
            let headers = HeaderMap::from_iter([(
                header::HeaderName::from_static("prefer"),
                HeaderValue::from_static(prefer),
            )]);
            assert_eq!(wait(&headers), seconds.map(Duration::from_secs), "{prefer}");
        }
    }
}
