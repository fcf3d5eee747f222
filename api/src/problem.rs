//! Every error answer: RFC 9457 `application/problem+json`.
//!
//! `type` is `/problems/NAME`; what stands there is the section of that name in `docs/problems.md`.

use axum::{
    extract::{Path, rejection::PathRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use errand_shared::workflow;
use serde::Serialize;
use serde_json::{Map, Value};

const PAGES: &str = include_str!("../../docs/problems.md");

/// An error answer with its headers.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<workflow::Problem>,
    #[serde(flatten)]
    members: Map<String, Value>,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("/problems/{name}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            members: Map::new(),
            headers: Vec::new(),
        }
    }

    /// Adds a header; left out if `value` cannot be one.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// Adds a member to the body (RFC 9457 3.2).
    pub(crate) fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn invalid_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Invalid request", detail)
    }

    /// The body is at fault, in the places that `errors` name (pointers into the posted body).
    pub(crate) fn invalid_body(errors: Vec<workflow::Problem>) -> Self {
        let detail = match errors.as_slice() {
            [only] if only.pointer.is_empty() => only.detail.clone(),
            [only] => format!("{}: {}", only.pointer, only.detail),
            _ => format!("{} places need a change; see `errors`.", errors.len()),
        };
        let problem = Self::new(StatusCode::BAD_REQUEST, "invalid_body", "Invalid body", detail);
        Self { errors, ..problem }
    }

    pub(crate) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Method not allowed",
            "This address does not answer to this method.",
        )
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "Body too large",
            format!("The body may have at most {limit} bytes."),
        )
    }

    /// A job of a batch is larger than one alone may be.
    pub(crate) fn jobs_too_large(limit: usize, errors: Vec<workflow::Problem>) -> Self {
        Self { errors, ..Self::body_too_large(limit) }
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Unsupported media type",
            "Send `Content-Type: application/json`.",
        )
    }

    pub(crate) fn not_suspended() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "not_suspended",
            "Not suspended",
            "Only a suspended job can be resumed.",
        )
    }

    pub(crate) fn not_faulted() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "not_faulted",
            "Not faulted",
            "Only a faulted job can be tried again.",
        )
    }

    pub(crate) fn already_finished() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "already_finished",
            "Already finished",
            "The job has ended; there is nothing left to cancel.",
        )
    }

    pub(crate) fn unfinished() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "unfinished",
            "Unfinished",
            "Only a finished job can be deleted. Cancel it first.",
        )
    }

    pub(crate) fn idempotency_key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "Idempotency-Key reused",
            "This Idempotency-Key was sent with another body in the last 24 hours. Use a new key \
             for a new job.",
        )
    }

    pub(crate) fn too_many_streams(limit: usize) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_streams",
            "Too many streams",
            format!("You have {limit} event streams open already."),
        )
        .header(header::RETRY_AFTER, "10")
    }

    pub(crate) fn unavailable(detail: &str, retry_after_seconds: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable", detail)
            .header(header::RETRY_AFTER, &retry_after_seconds.max(1).to_string())
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "Internal error",
            "Something went wrong on this side.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// `GET /problems/NAME`: what the problem means and what to do.
pub(crate) async fn page(name: Result<Path<String>, PathRejection>) -> Response {
    let start = name.ok().and_then(|Path(name)| PAGES.find(&format!("## {name}\n")));
    let Some(start) = start else {
        return Problem::not_found("There is no problem of this name.").into_response();
    };
    let rest = &PAGES[start..];
    let end = rest[3..].find("\n## ").map_or(rest.len(), |end| end + 3);
    let markdown = HeaderValue::from_static("text/markdown; charset=utf-8");
    ([(header::CONTENT_TYPE, markdown)], rest[..end].trim_end().to_owned() + "\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `/problems/NAME` that the sources mention, by the second argument of `Problem::new`.
    #[test]
    fn every_problem_has_a_page_and_every_page_a_problem() {
        let sources = [include_str!("problem.rs"), include_str!("refusal.rs")];
        let mut named: Vec<&str> = sources
            .iter()
            .flat_map(|source| source.split("StatusCode::").skip(1))
            .filter_map(|after| {
                let name = after.split('"').nth(1)?;
                let before = after.split('"').next()?;
                let argument = before.trim_end().ends_with(',') && !before.contains(')');
                (argument
                    && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'))
                .then_some(name)
            })
            .collect();
        named.sort_unstable();
        named.dedup();
        let mut pages: Vec<&str> =
            PAGES.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        pages.sort_unstable();
        assert_eq!(named, pages);
    }
}
