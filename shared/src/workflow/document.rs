//! What a document means, after its check.

use std::time::Duration;

use serde_json::Value;

use super::{
    expressions::{Expression, Template},
    uri_template::UriTemplate,
};
use crate::config::DownstreamApis;

/// A document that passed its check, ready to run.
#[derive(Debug)]
pub struct Workflow {
    /// The document as it was written: what `$workflow.definition` shows.
    pub(super) definition: Value,
    pub(super) dsl: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) input_from: Option<Template>,
    pub(super) output_as: Option<Template>,
    pub(super) tasks: Vec<Task>,
    pub(super) apis: Vec<String>,
    /// What it was checked against; `None`: addresses are not decided.
    pub(super) configuration: Option<DownstreamApis>,
    /// Whether an expression of it runs in a cage.
    pub(super) is_caged: bool,
}

impl Workflow {
    /// `document.namespace`
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `document.name`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `document.version`
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Names of the downstream APIs it calls, each once, in the order of the document.
    pub fn apis(&self) -> &[String] {
        &self.apis
    }

    /// Whether some of its expressions run in a child process, so that a step of it can be
    /// [`Interrupted`](super::Outcome::Interrupted).
    pub fn is_caged(&self) -> bool {
        self.is_caged
    }

    /// How many tasks it has, not counting those that only group others; `None` if it jumps, so that
    /// nobody can tell how many will run.
    pub fn total(&self) -> Option<u64> {
        fn jumps(tasks: &[Task]) -> bool {
            tasks.iter().any(|task| {
                matches!(task.then, Then::Task(_))
                    || matches!(&task.activity, Activity::Do(tasks) if jumps(tasks))
            })
        }
        (!jumps(&self.tasks)).then(|| self.tasks.iter().map(Task::leaves).sum())
    }
}

/// One task of a list.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) condition: Option<Expression>,
    pub(super) input_from: Option<Template>,
    pub(super) activity: Activity,
    pub(super) output_as: Option<Template>,
    pub(super) export_as: Option<Template>,
    pub(super) then: Then,
}

impl Task {
    /// How many tasks it is, not counting those that only group others.
    pub(super) fn leaves(&self) -> u64 {
        match &self.activity {
            Activity::Do(tasks) => tasks.iter().map(Self::leaves).sum(),
            _ => 1,
        }
    }
}

/// What a task does.
#[derive(Debug)]
pub(super) enum Activity {
    Do(Vec<Task>),
    Call(Box<HttpCall>),
    Set(Template),
    Wait(Delay),
}

/// Where the job goes after a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// To the next task of the list.
    Continue,
    /// Out of the list.
    Exit,
    /// To the end of the workflow.
    End,
    /// To the task at this index of the same list.
    Task(usize),
}

/// How long a task waits.
#[derive(Debug)]
pub(super) enum Delay {
    Fixed(Duration),
    /// Gives an ISO 8601 duration or a duration object.
    Computed(Expression),
}

/// `call: http`
#[derive(Debug)]
pub(super) struct HttpCall {
    /// Upper case.
    pub(super) method: String,
    pub(super) address: Address,
    /// Name of the API; empty if the document was checked without configuration and names none.
    pub(super) api: String,
    pub(super) headers: Option<Template>,
    pub(super) query: Option<Template>,
    pub(super) body: Option<Template>,
    pub(super) output: Output,
    /// Whether a 3xx is an answer like any other. Redirects are never followed.
    pub(super) redirect: bool,
}

/// The address of a call, before it is decided.
#[derive(Debug)]
pub(super) enum Address {
    Literal(UriTemplate),
    Computed(Expression),
}

/// What a call gives as output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The body: JSON if it is announced as such, else text.
    Content,
    /// Request, status, headers and content.
    Response,
    /// The body in base64.
    Raw,
}
