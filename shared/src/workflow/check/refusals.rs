//! The words for constructs of the specification that are refused.

use serde_json::Value;

/// Kinds of task that are not supported yet or never will be.
pub(super) const TASKS: [&str; 3] = ["listen", "emit", "run"];

/// Properties that belong to such a kind.
pub(super) const TASK_PROPERTIES: [&str; 1] = ["foreach"];

pub(super) const CREDENTIALS: &str =
    "Credentials cannot be part of a workflow. Name a configured downstream API with `use`.";

pub(super) const ELSEWHERE: &str = "Definitions are never fetched from elsewhere.";

fn not_yet(name: &str) -> String {
    format!("`{name}` is not supported yet.")
}

/// Why task `kind` of [`TASKS`], which has `value` there, is refused.
pub(super) fn task(kind: &str, value: &Value) -> String {
    match kind {
        "run" if value.get("workflow").is_some() => not_yet("run.workflow"),
        "run" => {
            "`run` is not supported: this service never runs containers, scripts or shells.".into()
        }
        "listen" => "`listen` is not supported yet; poll with `call: http` and `wait`.".into(),
        _ => not_yet(kind),
    }
}

/// Why `call: function` is refused.
pub(super) fn call(function: &str) -> String {
    match function {
        "openapi" => "`call: openapi` is not supported yet; use `call: http`.".into(),
        "grpc" | "asyncapi" | "a2a" | "mcp" => {
            format!("`call: {function}` is not supported; use `call: http`.")
        }
        _ if function.contains("://") || function.contains('@') => ELSEWHERE.into(),
        _ => format!("`call: {function}` is neither `http` nor a function known here."),
    }
}

/// Why `use.name` is refused.
pub(super) fn reusable(name: &str) -> String {
    match name {
        "authentications" => CREDENTIALS.into(),
        "secrets" => "Secrets are not available to workflows.".into(),
        "catalogs" => ELSEWHERE.into(),
        "extensions" => "Extensions are not supported.".into(),
        "functions" => not_yet("use.functions"),
        _ => format!("Unknown property `{name}`."),
    }
}
