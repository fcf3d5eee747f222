//! `POST /v1/jobs`: 202 once grant and job are durable, and not before.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, header},
    response::Response,
};
use errand_shared::{
    config::DownstreamApi,
    identity::Caller,
    jobs::{DefinitionName, Job},
    metrics,
    sessions::{Initiated, Preflight},
    storage::{IdempotencyKey, NewJob, Replay, Submission, Submitted},
    telemetry::child_traceparent,
    time::Timestamp,
    workflow::{CheckError, parse::parse_json},
};
use serde_json::Value;
use tokio::task::block_in_place;
use uuid::Uuid;

use super::{
    get::load,
    representation::accepted,
    request::{Documents, Request},
};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// The endpoint, as far as `Idempotency-Key` is concerned.
const ENDPOINT: &str = "POST /v1/jobs";

const MAX_IDEMPOTENCY_KEY: usize = 255;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// After this a document may be sent again that could not be checked.
const CHECK_AGAIN_SECONDS: u64 = 10;

/// How often a session that changes under a submission is looked at again.
const SESSION_ATTEMPTS: usize = 3;

/// Verifies, checks, exchanges, stores, and only then says yes.
pub(crate) async fn submit(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let body = read_body(&headers, body, state.limits.body_bytes).await?;
    let value = parse_json(&body).map_err(|problem| Problem::invalid_body(vec![problem]))?;
    let request = block_in_place(|| read_request(&state, value)).map_err(unread)?;
    let idempotency = key.map(|key| IdempotencyKey { endpoint: ENDPOINT, key, body: &body });
    let job = match submit_all(&state, &caller, &headers, &[request], idempotency).await? {
        Stored::New(mut jobs) => jobs.pop().ok_or_else(Problem::internal)?,
        Stored::Before(ids) => {
            let id = ids.first().ok_or_else(Problem::internal)?;
            load(&state, *id, &caller.principal).await?
        }
    };
    Ok(accepted(job, &state.public_url))
}

/// The jobs of a submission, in its order.
pub(super) enum Stored {
    /// These were made.
    New(Vec<Job>),
    /// None: these were made before, with the same `Idempotency-Key`.
    Before(Vec<Uuid>),
}

/// Reads one job of a body; the problems' pointers lead into it. Expressions are compiled for it:
/// beside the threads that serve everybody.
pub(super) fn read_request(state: &AppState, job: Value) -> Result<Request, CheckError> {
    let AppState { registry, inline, limits, downstream_apis, cages, webhooks, .. } = state;
    let documents = Documents { registry, inline: *inline, limits, apis: downstream_apis, cages };
    Request::read(job, &documents, webhooks, state.clock.now())
}

fn unread(error: CheckError) -> Problem {
    match error {
        CheckError::Problems(problems) => Problem::invalid_body(problems),
        CheckError::Interrupted(_) => too_busy_to_check(),
    }
}

pub(super) fn too_busy_to_check() -> Problem {
    Problem::unavailable(
        "There is too much to do to check the document's expressions.",
        CHECK_AGAIN_SECONDS,
    )
}

/// Makes a job of each request, all or none, with the rights that they take.
pub(super) async fn submit_all(
    state: &AppState,
    caller: &Caller,
    headers: &HeaderMap,
    requests: &[Request],
    idempotency: Option<IdempotencyKey<'_>>,
) -> Result<Stored, Problem> {
    if let Some(key) = &idempotency {
        let replay = state.store.find_replay(&caller.principal, key).await;
        match replay.map_err(|error| refusal::unstored(&error))? {
            Replay::New => {}
            Replay::Same(ids) => return Ok(Stored::Before(ids)),
            Replay::Different => return Err(Problem::idempotency_key_reused()),
        }
    }
    let rights = Rights::of(state, caller, requests)?;
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let traceparents: Vec<String> = requests.iter().map(|_| child_traceparent(parent)).collect();
    let names: Vec<DefinitionName> = requests.iter().map(name_of).collect();
    let ids: Vec<Uuid> = requests.iter().map(|_| Uuid::now_v7()).collect();
    for _ in 0..SESSION_ATTEMPTS {
        // Kept until the jobs are stored: others who want the same sessions wait for it.
        let initiated = rights.initiate(state, caller).await?;
        let now = state.clock.now();
        let warnings: Vec<Vec<String>> = requests
            .iter()
            .zip(&rights.of_request)
            .map(|(request, right)| {
                let ends_at = right.and_then(|right| initiated[right].ends_at());
                warnings(ends_at, now + request.deadline)
            })
            .collect();
        let jobs = requests.iter().enumerate().map(|(at, request)| NewJob {
            id: ids[at],
            grant: rights.of_request[at],
            name: &names[at],
            definition: &request.definition,
            input: &request.input,
            run_at: request.run_at,
            deadline: request.deadline,
            priority: request.priority,
            tags: &request.tags,
            callback: request.callback.as_ref(),
            warnings: &warnings[at],
            total_tasks: request.workflow.total(),
            traceparent: &traceparents[at],
        });
        let submission = Submission {
            owner: &caller.principal,
            client: caller.client.as_deref(),
            grants: initiated.iter().map(Initiated::grant).collect(),
            idempotency,
            jobs: jobs.collect(),
        };
        let submitted = state.store.submit(&submission).await;
        match submitted.map_err(|error| refusal::unstored(&error))? {
            Submitted::Created(jobs) => {
                state.store.announce();
                metrics::jobs_submitted(ids.len());
                match ids.as_slice() {
                    [id] => tracing::info!(job.id = %id, "job submitted"),
                    ids => tracing::info!(jobs = ids.len(), "jobs submitted"),
                }
                return Ok(Stored::New(jobs));
            }
            Submitted::Replayed(ids) => return Ok(Stored::Before(ids)),
            Submitted::KeyReused => return Err(Problem::idempotency_key_reused()),
            Submitted::SessionChanged => rights.look_again(state, caller),
        }
    }
    Err(Problem::unavailable("The session is being changed by somebody else.", 1))
}

fn name_of(request: &Request) -> DefinitionName {
    DefinitionName {
        namespace: request.workflow.namespace().to_owned(),
        name: request.workflow.name().to_owned(),
        version: request.workflow.version().to_owned(),
    }
}

/// The sessions that requests want to act with.
struct Rights<'a> {
    /// In the order of their keys, which is the same in every submission: whoever waits for one of
    /// them holds none that comes after it.
    sessions: Vec<Right<'a>>,
    /// Which of them each request acts with; none if its document names no API.
    of_request: Vec<Option<usize>>,
}

struct Right<'a> {
    /// The caller's own key; none to allocate one.
    key: Option<&'a str>,
    /// Each once, in the order in which the documents name them.
    apis: Vec<&'a DownstreamApi>,
    preflight: Preflight,
}

impl<'a> Rights<'a> {
    fn of(state: &'a AppState, caller: &Caller, requests: &'a [Request]) -> Result<Self, Problem> {
        let mut by_key: BTreeMap<Option<&str>, Right<'a>> = BTreeMap::new();
        let mut keys = Vec::with_capacity(requests.len());
        for request in requests {
            let named = apis(state, caller, request)?;
            let key = request.session_key.as_deref();
            keys.push((!named.is_empty()).then_some(key));
            if named.is_empty() {
                continue;
            }
            let preflight = Preflight::First;
            let right = by_key.entry(key).or_insert(Right { key, apis: Vec::new(), preflight });
            for api in named {
                if !right.apis.iter().any(|known| known.name == api.name) {
                    right.apis.push(api);
                }
            }
            if request.preflight == Preflight::All {
                right.preflight = Preflight::All;
            }
        }
        let order: Vec<Option<&str>> = by_key.keys().copied().collect();
        let of_request = keys.into_iter().map(|key| order.binary_search(&key?).ok()).collect();
        Ok(Self { sessions: by_key.into_values().collect(), of_request })
    }

    async fn initiate(&self, state: &AppState, caller: &Caller) -> Result<Vec<Initiated>, Problem> {
        let mut initiated = Vec::with_capacity(self.sessions.len());
        for Right { key, apis, preflight } in &self.sessions {
            let initiating = state.sessions.initiate(caller, *key, apis, *preflight).await;
            let refused = |error| refusal::uninitiated(&error, caller, &state.identity);
            initiated.push(initiating.map_err(refused)?);
        }
        Ok(initiated)
    }

    fn look_again(&self, state: &AppState, caller: &Caller) {
        for Right { key, .. } in &self.sessions {
            state.sessions.look_again(caller, *key);
        }
    }
}

/// Returns the APIs that the document names, in its order; the caller must be allowed to name each.
fn apis<'a>(
    state: &'a AppState,
    caller: &Caller,
    request: &Request,
) -> Result<Vec<&'a DownstreamApi>, Problem> {
    let mut apis = Vec::new();
    for name in request.workflow.apis() {
        // The check has refused names that are not configured.
        let Some(api) = state.downstream_apis.get(name) else { continue };
        let required = &api.required_scopes;
        if !required.is_empty() && !required.iter().any(|scope| caller.scopes.contains(scope)) {
            let detail = format!("The token has none of the scopes that `{name}` takes.");
            return Err(refusal::insufficient_scope(&detail, required));
        }
        apis.push(api);
    }
    Ok(apis)
}

/// What the submitter should know about a sign-in that may end before the job does.
fn warnings(sign_in_ends_at: Option<Timestamp>, deadline: Timestamp) -> Vec<String> {
    let ends_early = sign_in_ends_at.filter(|ends_at| *ends_at < deadline);
    let warning = ends_early.map(|ends_at| {
        format!(
            "The identity provider issued no refresh token: from {ends_at} on, a call of this job \
             waits until its user signs in again and resumes it."
        )
    });
    warning.into_iter().collect()
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid_request("Send one Idempotency-Key."));
    }
    let key = value.to_str().ok().filter(|key| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()));
    let expected = "Expected an Idempotency-Key of 1 to 255 printable ASCII characters.";
    key.map(Some).ok_or_else(|| Problem::invalid_request(expected))
}

pub(super) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Vec<u8>, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|value| value.split(';').next()).map(str::trim);
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Err(Problem::unsupported_media_type());
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::unsupported_media_type());
    }
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(body)) => Ok(body.into()),
        Ok(Err(error)) if is_too_large(&error) => Err(Problem::body_too_large(limit)),
        Ok(Err(_)) => Err(Problem::invalid_request("The body ended early.")),
        Err(_) => Err(Problem::invalid_request("The body did not arrive in time.")),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    use std::error::Error;
    error.source().is_some_and(<dyn Error>::is::<http_body_util::LengthLimitError>)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_idempotency_key_is_taken_as_it_is_or_refused(
            key in prop_oneof![any::<Vec<u8>>(), prop::collection::vec(b' '..=b'~', 0..400)],
        ) {
            let Ok(value) = HeaderValue::from_bytes(&key) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.append("idempotency-key", value.clone());
            let is_good = (1..=255).contains(&key.len())
                && key.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\t');
            match idempotency_key(&headers) {
                Ok(taken) => prop_assert!(is_good && taken.map(str::as_bytes) == Some(&key)),
                Err(_) => prop_assert!(!is_good),
            }
            headers.append("idempotency-key", value);
            prop_assert!(idempotency_key(&headers).is_err());
        }
    }
}
