//! The error object of the specification.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where the standard error types live up to version 1.0.3 of the specification.
const TYPES: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/";
/// Where they live in later versions, after the project was renamed.
const TYPES_RENAMED: &str = "https://open-workflow-specification.org/spec/1.0.0/errors/";

/// The specification's hosts, old and new.
const OWN_HOSTS: [&str; 2] =
    ["https://serverlessworkflow.io/", "https://open-workflow-specification.org/"];

/// What ended a task: problem details (RFC 9457) whose `instance` is the task's JSON Pointer.
///
/// ```
/// let error: errand_shared::workflow::WorkflowError = serde_json::from_str(r#"{
///   "type": "https://serverlessworkflow.io/spec/1.0.0/errors/communication",
///   "status": 503, "title": "Service Unavailable", "detail": "…", "instance": "/do/0/getData"
/// }"#).unwrap();
/// assert_eq!(error.status, 503);
/// ```
///
/// Source: Open Workflow Specification 1.0, *Standard Error Types*.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowError {
    /// URI of the kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// HTTP status that describes it.
    pub status: u16,
    /// The same for every error of its kind and status.
    pub title: String,
    /// About this case; `null` if there is nothing to add.
    pub detail: Option<String>,
    /// JSON Pointer of the task; `null` until the interpreter knows it, and for errors of the whole job.
    pub instance: Option<String>,
}

impl WorkflowError {
    /// A call that was answered by `status`, or not at all.
    pub fn communication(status: u16, detail: impl Into<String>) -> Self {
        let reason = http::StatusCode::from_u16(status).ok();
        let title = reason.and_then(|status| status.canonical_reason());
        Self::new("communication", status, title.unwrap_or("Communication error"), detail)
    }

    /// A call that must not be repeated may or may not have been processed (RFC 9110 9.2.2).
    pub fn outcome_unknown() -> Self {
        let detail = "the call was sent, and it is not known whether it was processed";
        Self::new("communication", 504, "Outcome unknown", detail)
    }

    /// No token can be had for a call, and nothing the user does would change that.
    pub fn authentication(detail: impl Into<String>) -> Self {
        Self::new("authentication", 401, "Authentication error", detail)
    }

    /// The configuration does not allow what a task asked for.
    pub fn authorization(detail: impl Into<String>) -> Self {
        Self::new("authorization", 403, "Authorization error", detail)
    }

    /// The job's deadline is over.
    pub fn timeout(detail: impl Into<String>) -> Self {
        Self::new("timeout", 408, "Timeout error", detail)
    }

    /// An expression failed, or its result cannot be used where it stands.
    pub fn expression(detail: impl Into<String>) -> Self {
        Self::new("expression", 400, "Expression error", detail)
    }

    /// Data does not match the schema of the place it goes through.
    pub fn validation(detail: impl Into<String>) -> Self {
        Self::new("validation", 400, "Validation error", detail)
    }

    /// The job went over one of its limits.
    pub fn runtime(detail: impl Into<String>) -> Self {
        Self::new("runtime", 500, "Runtime error", detail)
    }

    /// Its workers were lost so many times in a row, and the job got no further.
    pub fn interrupted(times: u32) -> Self {
        let detail = format!(
            "{times} times in a row the worker that ran the job was lost, and the job got no further. \
             It is not run again by itself; `retry` lets it go on from its last record."
        );
        Self::new("runtime", 500, "Interrupted too often", detail)
    }

    /// The workflow no longer fits the configuration.
    pub fn configuration(detail: impl Into<String>) -> Self {
        Self::new("configuration", 400, "Configuration error", detail)
    }

    /// What `raise` describes.
    pub(super) fn raised(
        kind: String,
        status: u16,
        title: Option<String>,
        detail: Option<String>,
        instance: Option<String>,
    ) -> Self {
        let reason = http::StatusCode::from_u16(status).ok();
        let reason = reason.and_then(|status| status.canonical_reason()).unwrap_or("Error");
        let title = title.unwrap_or_else(|| reason.to_owned());
        Self { kind, status, title, detail, instance }
    }

    /// Whether its type is `kind`.
    ///
    /// The specification moved its types from one address to another, and writes them in more ways
    /// than it defines. So of those only the last segment counts.
    pub(super) fn is_of_kind(&self, kind: &str) -> bool {
        name_of(&self.kind) == name_of(kind)
    }

    fn new(kind: &str, status: u16, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPES}{kind}"),
            status,
            title: title.to_owned(),
            detail: Some(detail.into()),
            instance: None,
        }
    }

    /// This error as task `pointer` of a document of version `dsl` raises it.
    pub(super) fn raised_by(mut self, pointer: &str, dsl: &str) -> Self {
        if self.instance.is_some() {
            return self;
        }
        self.instance = Some(pointer.to_owned());
        let patch = dsl.strip_prefix("1.0.").and_then(|patch| patch.parse::<u32>().ok());
        if patch.is_some_and(|patch| patch > 3)
            && let Some(kind) = self.kind.strip_prefix(TYPES)
        {
            self.kind = format!("{TYPES_RENAMED}{kind}");
        }
        self
    }
}

/// What tells types apart: the last segment of those of the specification, the whole of others; and
/// which of the two it is.
fn name_of(kind: &str) -> (bool, &str) {
    let is_standard = OWN_HOSTS.iter().any(|host| kind.starts_with(host));
    let name = kind.rsplit('/').next().unwrap_or_default();
    if is_standard && !name.is_empty() { (true, name) } else { (false, kind) }
}

impl fmt::Display for WorkflowError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.title, self.status)
    }
}

impl std::error::Error for WorkflowError {}

impl From<WorkflowError> for Value {
    fn from(error: WorkflowError) -> Self {
        serde_json::to_value(error).expect("texts and a number are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_of_the_type_follows_the_version_of_the_document() {
        let raised = |dsl| WorkflowError::runtime("x").raised_by("/do/0/a", dsl);
        let old = "https://serverlessworkflow.io/spec/1.0.0/errors/runtime";
        assert_eq!(raised("1.0.0").kind, old);
        assert_eq!(raised("1.0.3").kind, old);
        let new = "https://open-workflow-specification.org/spec/1.0.0/errors/runtime";
        assert_eq!(raised("1.0.4").kind, new);
    }

    #[test]
    fn kinds_are_compared_not_spellings() {
        let error = WorkflowError::communication(404, "x");
        for kind in [
            "https://serverlessworkflow.io/spec/1.0.0/errors/communication",
            "https://open-workflow-specification.org/spec/1.0.0/errors/communication",
            "https://open-workflow-specification.org/dsl/errors/types/communication",
        ] {
            assert!(error.is_of_kind(kind), "{kind}");
        }
        for kind in [
            "https://serverlessworkflow.io/spec/1.0.0/errors/timeout",
            "https://serverlessworkflow.io/",
            "https://acme.example/errors/communication",
            "communication",
        ] {
            assert!(!error.is_of_kind(kind), "{kind}");
        }
    }

    #[test]
    fn the_innermost_task_is_the_instance() {
        let error = WorkflowError::communication(503, "x").raised_by("/do/0/a", "1.0.3");
        assert_eq!(error.title, "Service Unavailable");
        let outer = error.raised_by("/do/0", "1.0.3");
        assert_eq!(outer.instance.as_deref(), Some("/do/0/a"));
    }
}
