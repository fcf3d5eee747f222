//! A job as clients see it: the one place that decides field names.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use errand_shared::{
    identity::SuspensionReason,
    jobs::{DefinitionName, Job, JobStatus},
    time::Timestamp,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// When a client that polls may look again.
const POLL_AFTER_SECONDS: &str = "1";

/// All of a job but its output, which may be large.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    id: Uuid,
    status: JobStatus,
    definition: DefinitionName,
    session_key: Option<String>,
    task: Option<String>,
    tasks: Vec<String>,
    progress: Progress,
    due_at: Option<Timestamp>,
    attempts: u32,
    tags: BTreeMap<String, String>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    updated_at: Timestamp,
    finished_at: Option<Timestamp>,
    error: Option<Value>,
    warnings: Vec<String>,
    suspension: Option<Suspension>,
    links: Links,
}

#[derive(Debug, Serialize)]
pub(super) struct Representation {
    #[serde(flatten)]
    job: Listed,
    output: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Progress {
    completed: u64,
    total: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Suspension {
    reason: SuspensionReason,
    detail: String,
    api: String,
    scopes: Vec<String>,
    claims: Option<String>,
    consent_url: Option<String>,
    resume_url: String,
    until: Timestamp,
}

#[derive(Debug, Serialize)]
struct Links {
    #[serde(rename = "self")]
    this: String,
    events: String,
    calls: String,
    cancel: String,
    resume: String,
    retry: String,
}

impl Representation {
    pub(super) fn new(mut job: Job, public_url: &str) -> Self {
        let output = job.output.take();
        Self { job: Listed::new(job, public_url), output }
    }
}

impl Listed {
    pub(super) fn new(job: Job, public_url: &str) -> Self {
        let this = location(public_url, job.id);
        let resume = format!("{this}/resume");
        // A running job has no due time, and a suspended one only its deadline.
        let due_at =
            job.due_at.filter(|_| matches!(job.status, JobStatus::Pending | JobStatus::Waiting));
        Self {
            id: job.id,
            status: job.status,
            definition: job.definition,
            session_key: job.session_key,
            task: job.progress.tasks.first().cloned(),
            tasks: job.progress.tasks,
            progress: Progress { completed: job.progress.completed, total: job.progress.total },
            due_at,
            attempts: job.attempts,
            tags: job.tags,
            created_at: job.created_at,
            started_at: job.started_at,
            updated_at: job.updated_at,
            finished_at: job.finished_at,
            error: job.error,
            warnings: job.warnings,
            suspension: job.suspension.map(|suspension| Suspension {
                reason: suspension.reason,
                detail: suspension.detail,
                api: suspension.api,
                scopes: suspension.scopes,
                claims: suspension.claims,
                consent_url: suspension.consent_url,
                resume_url: resume.clone(),
                until: job.deadline_at,
            }),
            links: Links {
                events: format!("{this}/events"),
                calls: format!("{this}/calls"),
                cancel: format!("{this}/cancel"),
                retry: format!("{this}/retry"),
                this,
                resume,
            },
        }
    }
}

/// Where a job is found.
pub(super) fn location(public_url: &str, id: Uuid) -> String {
    format!("{public_url}/v1/jobs/{id}")
}

/// The job's `ETag`: it changes with every change of the job.
pub(super) fn etag(job: &Job) -> String {
    format!("\"{}\"", job.revision)
}

/// `202`: the job is durable and goes on without the client.
pub(super) fn accepted(job: Job, public_url: &str) -> Response {
    let headers = [
        (header::LOCATION, location(public_url, job.id)),
        (header::RETRY_AFTER, POLL_AFTER_SECONDS.to_owned()),
        (header::ETAG, etag(&job)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (StatusCode::ACCEPTED, headers, Json(Representation::new(job, public_url))).into_response()
}

#[derive(Debug, Serialize)]
struct Jobs {
    jobs: Vec<Representation>,
}

/// `202`: all of them are durable and go on without the client.
pub(super) fn all_accepted(jobs: Vec<Job>, public_url: &str) -> Response {
    let headers = [(header::RETRY_AFTER, POLL_AFTER_SECONDS), (header::CACHE_CONTROL, "no-store")];
    let jobs = jobs.into_iter().map(|job| Representation::new(job, public_url)).collect();
    (StatusCode::ACCEPTED, headers, Json(Jobs { jobs })).into_response()
}

/// `200` with the job.
pub(super) fn found(job: Job, public_url: &str) -> Response {
    let mut response = Json(Representation::new(job, public_url)).into_response();
    // The user's data: for nobody's cache.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
