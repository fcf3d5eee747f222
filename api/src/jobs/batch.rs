//! `POST /v1/jobs/batch`: many jobs at once, all or none.

use std::sync::Arc;

use axum::{body::Body, extract::State, http::HeaderMap, response::Response};
use errand_shared::{
    storage::IdempotencyKey,
    workflow::{self, CheckError, parse::parse_json},
};
use serde_json::Value;
use tokio::task::block_in_place;

use super::{
    get::complete,
    representation::all_accepted,
    request::Request,
    submit::{Stored, idempotency_key, read_body, read_request, submit_all, too_busy_to_check},
};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

/// The endpoint, as far as `Idempotency-Key` is concerned.
const ENDPOINT: &str = "POST /v1/jobs/batch";

const MAX_JOBS: usize = 1000;

/// Of the whole batch; each job has the limit of a submission.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// More would help nobody to mend a batch.
const MAX_PROBLEMS: usize = 100;

pub(crate) async fn submit_batch(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let body = read_body(&headers, body, MAX_BYTES).await?;
    // A thousand documents keep a core busy for longer than others should wait for it.
    let requests = block_in_place(|| read_requests(&state, &body))?;
    let idempotency = key.map(|key| IdempotencyKey { endpoint: ENDPOINT, key, body: &body });
    let jobs = match submit_all(&state, &caller, &headers, &requests, idempotency).await? {
        Stored::New(jobs) => jobs,
        Stored::Before(ids) => {
            let found = state.store.jobs_by_id(&caller.principal, &ids).await;
            let mut jobs = Vec::with_capacity(ids.len());
            for job in found.map_err(|error| refusal::unstored(&error))? {
                jobs.push(complete(&state, job, &caller.principal).await?);
            }
            jobs
        }
    };
    Ok(all_accepted(jobs, &state.public_url))
}

fn read_requests(state: &AppState, body: &[u8]) -> Result<Vec<Request>, Problem> {
    let value = parse_json(body).map_err(|problem| Problem::invalid_body(vec![problem]))?;
    let jobs = jobs_of(value).map_err(Problem::invalid_body)?;
    let limit = state.limits.body_bytes;
    let too_large: Vec<_> = jobs
        .iter()
        .enumerate()
        .filter(|(_, job)| job.to_string().len() > limit)
        .map(|(at, _)| problem(&format!("/jobs/{at}"), "The job is larger than one may be."))
        .collect();
    if !too_large.is_empty() {
        return Err(Problem::jobs_too_large(limit, too_large));
    }
    let mut requests = Vec::with_capacity(jobs.len());
    let mut problems = Vec::new();
    for (at, job) in jobs.into_iter().enumerate() {
        match read_request(state, job) {
            Ok(request) => requests.push(request),
            Err(CheckError::Interrupted(_)) => return Err(too_busy_to_check()),
            Err(CheckError::Problems(found)) => problems.extend(
                found
                    .into_iter()
                    .map(|found| problem(&format!("/jobs/{at}{}", found.pointer), &found.detail)),
            ),
        }
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    if problems.is_empty() { Ok(requests) } else { Err(Problem::invalid_body(problems)) }
}

/// The jobs of `{"jobs": […]}`.
fn jobs_of(body: Value) -> Result<Vec<Value>, Vec<workflow::Problem>> {
    let Value::Object(mut members) = body else {
        return Err(vec![problem("", "Expected an object.")]);
    };
    let jobs = members.shift_remove("jobs");
    if let Some(name) = members.keys().next() {
        let name = name.replace('~', "~0").replace('/', "~1");
        return Err(vec![problem(&format!("/{name}"), "Unknown property.")]);
    }
    match jobs {
        Some(Value::Array(jobs)) if (1..=MAX_JOBS).contains(&jobs.len()) => Ok(jobs),
        _ => {
            let expected = format!("Expected a list of 1 to {MAX_JOBS} jobs.");
            Err(vec![problem("/jobs", &expected)])
        }
    }
}

fn problem(pointer: &str, detail: &str) -> workflow::Problem {
    workflow::Problem { pointer: pointer.to_owned(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_batch_is_a_list_of_jobs_and_nothing_else() {
        assert_eq!(jobs_of(json!({ "jobs": [1, 2] })).unwrap(), [1, 2]);
        let many = vec![Value::Null; MAX_JOBS + 1];
        for (wrong, pointer) in [
            (json!([]), ""),
            (json!({}), "/jobs"),
            (json!({ "jobs": [] }), "/jobs"),
            (json!({ "jobs": {} }), "/jobs"),
            (json!({ "jobs": many }), "/jobs"),
            (json!({ "jobs": [1], "a/b": 1 }), "/a~1b"),
        ] {
            assert_eq!(jobs_of(wrong).unwrap_err()[0].pointer, pointer);
        }
    }
}
