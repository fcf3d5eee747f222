//! `/v1/operator/jobs`: what whoever runs a tenant's jobs may see of them, and an end to them.
//!
//! Nothing that a user or a document has put in, and nothing that was answered.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use errand_shared::{
    identity::{Principal, SuspensionReason},
    jobs::{DefinitionName, JobStatus},
    storage::{Change, TenantJob},
    time::Timestamp,
    workflow::Progress,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    authentication::Operator,
    jobs::{JobId, ListQuery, page_of, unknown},
    problem::Problem,
    refusal,
    state::AppState,
};

/// The types of the standard: a document could put anything into one of its own.
const STANDARD_ERRORS: &str = "https://serverlessworkflow.io/spec/";

/// A job as operators see it.
#[derive(Debug, Serialize)]
struct Representation {
    id: Uuid,
    /// Whose it is: `oid`.
    subject: String,
    status: JobStatus,
    definition: DefinitionName,
    session_key: Option<String>,
    task: Option<String>,
    tasks: Vec<String>,
    progress: Counted,
    due_at: Option<Timestamp>,
    attempts: u32,
    throttles: u32,
    interruptions: u32,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    updated_at: Timestamp,
    finished_at: Option<Timestamp>,
    deadline_at: Timestamp,
    error: Option<Fault>,
    suspension: Option<Suspension>,
}

#[derive(Debug, Serialize)]
struct Counted {
    completed: u64,
    total: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Fault {
    #[serde(rename = "type")]
    kind: Option<String>,
    status: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Suspension {
    reason: SuspensionReason,
    api: Option<String>,
    scopes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Jobs {
    jobs: Vec<Representation>,
    /// For `?cursor=`; null on the last page.
    next_cursor: Option<String>,
}

/// `GET /v1/operator/jobs`: all of the tenant's, newest first.
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    Operator(tenant): Operator,
    query: ListQuery,
) -> Result<Response, Problem> {
    if query.is_of_owner() {
        let detail = "This list knows `status`, `limit` and `cursor` only.";
        return Err(Problem::invalid_request(detail));
    }
    let found = state.store.tenant_jobs(&tenant, query.status, query.one_more()).await;
    let found = found.map_err(|error| refusal::unstored(&error))?;
    let (page, next_cursor) = page_of(found, query.limit, |job| job.id);
    let jobs = page.into_iter().map(Representation::from).collect();
    Ok((NO_STORE, Json(Jobs { jobs, next_cursor })).into_response())
}

/// `GET /v1/operator/jobs/{id}`
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    Operator(tenant): Operator,
    JobId(id): JobId,
) -> Result<Response, Problem> {
    let job = load(&state, id, &tenant).await?;
    Ok((NO_STORE, Json(Representation::from(job))).into_response())
}

/// `POST /v1/operator/jobs/{id}/cancel`
pub(crate) async fn cancel(
    State(state): State<Arc<AppState>>,
    Operator(tenant): Operator,
    JobId(id): JobId,
) -> Result<Response, Problem> {
    let subject = load(&state, id, &tenant).await?.subject;
    let change = state.store.cancel(id, &Principal { tenant: tenant.clone(), subject }).await;
    match change.map_err(|error| refusal::unstored(&error))? {
        Change::Made => {}
        Change::NotAllowed => return Err(Problem::already_finished()),
        Change::Unknown => return Err(unknown()),
    }
    tracing::info!(job.id = %id, "job cancelled by an operator");
    let job = load(&state, id, &tenant).await?;
    Ok((StatusCode::ACCEPTED, NO_STORE, Json(Representation::from(job))).into_response())
}

const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

async fn load(state: &AppState, id: Uuid, tenant: &str) -> Result<TenantJob, Problem> {
    let job = state.store.tenant_job(id, tenant).await;
    job.map_err(|error| refusal::unstored(&error))?.ok_or_else(unknown)
}

impl From<TenantJob> for Representation {
    fn from(job: TenantJob) -> Self {
        let is_timed = matches!(job.status, JobStatus::Pending | JobStatus::Waiting);
        let Progress { tasks, completed, total } = job.progress;
        let suspension = match job.suspension {
            Some(missing) => Some(Suspension {
                reason: missing.reason,
                api: Some(missing.api),
                scopes: missing.scopes,
            }),
            // Its session was stopped.
            None if job.status == JobStatus::Suspended => Some(Suspension {
                reason: SuspensionReason::SessionRevoked,
                api: None,
                scopes: Vec::new(),
            }),
            None => None,
        };
        Self {
            id: job.id,
            subject: job.subject,
            status: job.status,
            definition: job.definition,
            session_key: job.session_key,
            task: tasks.first().cloned(),
            tasks,
            progress: Counted { completed, total },
            due_at: job.due_at.filter(|_| is_timed),
            attempts: job.attempts,
            throttles: job.throttles,
            interruptions: job.interruptions,
            created_at: job.created_at,
            started_at: job.started_at,
            updated_at: job.updated_at,
            finished_at: job.finished_at,
            deadline_at: job.deadline_at,
            error: job.error.as_ref().map(Fault::of),
            suspension,
        }
    }
}

impl Fault {
    fn of(error: &Value) -> Self {
        let kind = error["type"].as_str().filter(|kind| kind.starts_with(STANDARD_ERRORS));
        Self { kind: kind.map(str::to_owned), status: error["status"].as_u64() }
    }
}
