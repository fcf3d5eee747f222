//! `POST /v1/jobs`: 202 once grant and job are durable, and not before.

use std::{sync::Arc, time::Duration};

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
    sessions::Initiated,
    storage::{IdempotencyKey, NewJob, Replay, Submission, Submitted},
    telemetry::child_traceparent,
    time::Timestamp,
    workflow::parse::parse_json,
};
use uuid::Uuid;

use super::{get::load, representation::accepted, request::Request};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// The endpoint, as far as `Idempotency-Key` is concerned.
const ENDPOINT: &str = "POST /v1/jobs";

const MAX_IDEMPOTENCY_KEY: usize = 255;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

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
    let AppState { limits, downstream_apis, webhooks, inline, .. } = &*state;
    let now = state.clock.now();
    let request = Request::read(value, limits, downstream_apis, webhooks, *inline, now)
        .map_err(Problem::invalid_body)?;
    let idempotency = key.map(|key| IdempotencyKey { endpoint: ENDPOINT, key, body: &body });
    if let Some(key) = &idempotency {
        let replay = state.store.find_replay(&caller.principal, key).await;
        match replay.map_err(|error| refusal::unstored(&error))? {
            Replay::New => {}
            Replay::Same(id) => return answer(&state, id, &caller).await,
            Replay::Different => return Err(Problem::idempotency_key_reused()),
        }
    }
    let traceparent =
        child_traceparent(headers.get("traceparent").and_then(|value| value.to_str().ok()));
    match store(&state, &caller, &request, idempotency, &traceparent).await? {
        Stored::New(job) => Ok(accepted(*job, &state.public_url)),
        Stored::Before(id) => answer(&state, id, &caller).await,
    }
}

/// Which job a submission made.
enum Stored {
    /// This one.
    New(Box<Job>),
    /// None: another request with the same key came first.
    Before(Uuid),
}

/// Stores the job with its grant.
async fn store(
    state: &AppState,
    caller: &Caller,
    request: &Request,
    idempotency: Option<IdempotencyKey<'_>>,
    traceparent: &str,
) -> Result<Stored, Problem> {
    let apis = apis(state, caller, request)?;
    let name = DefinitionName {
        namespace: request.workflow.namespace().to_owned(),
        name: request.workflow.name().to_owned(),
        version: request.workflow.version().to_owned(),
    };
    let id = Uuid::now_v7();
    for _ in 0..SESSION_ATTEMPTS {
        // Kept until the job is stored: others who want the same session wait for it.
        let initiated = if apis.is_empty() {
            None
        } else {
            let key = request.session_key.as_deref();
            let initiating = state.sessions.initiate(caller, key, &apis, request.preflight);
            let refused = |error| refusal::uninitiated(&error, caller, &state.identity);
            Some(initiating.await.map_err(refused)?)
        };
        let ends_at = initiated.as_ref().and_then(Initiated::ends_at);
        let warnings = warnings(ends_at, state.clock.now() + request.deadline);
        let submission = Submission {
            owner: &caller.principal,
            client: caller.client.as_deref(),
            grant: initiated.as_ref().map(|initiated| initiated.grant()),
            idempotency,
            job: NewJob {
                id,
                name: &name,
                definition: &request.definition,
                input: &request.input,
                run_at: request.run_at,
                deadline: request.deadline,
                tags: &request.tags,
                callback: request.callback.as_ref(),
                warnings: &warnings,
                total_tasks: request.workflow.total(),
                traceparent,
            },
        };
        let submitted = state.store.submit(&submission).await;
        match submitted.map_err(|error| refusal::unstored(&error))? {
            Submitted::Created(job) => {
                state.store.announce();
                tracing::info!(job.id = %id, "job submitted");
                return Ok(Stored::New(job));
            }
            Submitted::Replayed(id) => return Ok(Stored::Before(id)),
            Submitted::KeyReused => return Err(Problem::idempotency_key_reused()),
            Submitted::SessionChanged => {}
        }
    }
    Err(Problem::unavailable("The session is being changed by somebody else.", 1))
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

async fn answer(state: &AppState, id: Uuid, caller: &Caller) -> Result<Response, Problem> {
    let job = load(state, id, &caller.principal).await?;
    Ok(accepted(job, &state.public_url))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid_request("Send one Idempotency-Key."));
    }
    let key = value.to_str().ok().filter(|key| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()));
    let expected = "Expected an Idempotency-Key of 1 to 255 printable ASCII characters.";
    key.map(Some).ok_or_else(|| Problem::invalid_request(expected))
}

async fn read_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
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
