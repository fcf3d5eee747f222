//! What a document means, after its check.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    expressions::{Expression, Template},
    schema::Schema,
    uri_template::UriTemplate,
};
use crate::config::DownstreamApis;

/// How many tasks a workflow has at most whose steps are brief.
const FEW_TASKS: u64 = 16;

/// A document that passed its check, ready to run.
#[derive(Debug)]
pub struct Workflow {
    /// The document as it was written: what `$workflow.definition` shows.
    pub(super) definition: Value,
    pub(super) dsl: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) input: Shaping,
    pub(super) output: Shaping,
    /// How long a job may last, from its first step on.
    pub(super) timeout: Option<Arc<Delay>>,
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

    /// How many tasks it has, not counting those that only group others; `None` if it loops or jumps,
    /// so that nobody can tell how many will run.
    pub fn total(&self) -> Option<u64> {
        (!jumps(&self.tasks)).then(|| self.tasks.iter().map(Task::leaves).sum())
    }

    /// Whether each step of it is a matter of microseconds, as long as its data is small: a few tasks,
    /// each of them once, no schema, and no expression in a child process.
    pub fn is_brief(&self) -> bool {
        let are_few = self.total().is_some_and(|total| total <= FEW_TASKS);
        let validates = self.input.schema.is_some() || self.output.schema.is_some();
        are_few && !self.is_caged && !validates && self.tasks.iter().all(Task::is_brief)
    }
}

fn jumps(tasks: &[Task]) -> bool {
    let leads_away = |then: &Then| matches!(then, Then::Task(_));
    tasks.iter().any(|task| {
        leads_away(&task.then)
            || match &task.activity {
                Activity::For(_) => true,
                Activity::Switch(cases) => cases.iter().any(|case| leads_away(&case.then)),
                Activity::Try(attempt) => {
                    attempt.then.as_ref().is_some_and(leads_away) || jumps(&attempt.tasks)
                }
                Activity::Do(tasks) => jumps(tasks),
                Activity::Fork(fork) => jumps(&fork.branches),
                Activity::Call(_) | Activity::Set(_) | Activity::Wait(_) | Activity::Raise(_) => {
                    false
                }
            }
    })
}

/// What data goes through at a place: `input`, `output` or `export`.
#[derive(Debug, Default)]
pub(super) struct Shaping {
    /// `from` or `as`.
    pub(super) template: Option<Template>,
    /// Of what comes in, or of what `as` gave.
    pub(super) schema: Option<Schema>,
}

/// One task of a list.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) condition: Option<Expression>,
    pub(super) input: Shaping,
    pub(super) timeout: Option<Arc<Delay>>,
    pub(super) activity: Activity,
    pub(super) output: Shaping,
    pub(super) export: Shaping,
    pub(super) then: Then,
}

impl Task {
    /// See [`Workflow::is_brief`].
    fn is_brief(&self) -> bool {
        let validates = [&self.input, &self.output, &self.export].map(|data| data.schema.is_some());
        let repeats = matches!(self.activity, Activity::Try(_));
        let within = self.activity.tasks().is_none_or(|tasks| tasks.iter().all(Self::is_brief));
        !repeats && within && !validates.contains(&true)
    }

    /// How many tasks it is, not counting those that only group others. What a `catch` does is not
    /// counted: it is the exception.
    pub(super) fn leaves(&self) -> u64 {
        self.activity.tasks().map_or(1, |tasks| tasks.iter().map(Self::leaves).sum())
    }
}

/// What a task does.
#[derive(Debug)]
pub(super) enum Activity {
    Do(Vec<Task>),
    Call(Box<HttpCall>),
    Set(Template),
    Wait(Delay),
    For(Box<Loop>),
    Fork(Fork),
    Switch(Vec<Case>),
    Raise(Arc<RaisedError>),
    Try(Box<Try>),
}

impl Activity {
    /// The tasks it groups; none if it does something itself.
    pub(super) fn tasks(&self) -> Option<&[Task]> {
        match self {
            Self::Do(tasks) => Some(tasks),
            Self::For(repeat) => Some(&repeat.tasks),
            Self::Fork(fork) => Some(&fork.branches),
            Self::Try(attempt) => Some(&attempt.tasks),
            Self::Call(_) | Self::Set(_) | Self::Wait(_) | Self::Switch(_) | Self::Raise(_) => None,
        }
    }
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

/// `for`
#[derive(Debug)]
pub(super) struct Loop {
    /// Variable of the item.
    pub(super) each: String,
    /// Variable of its index.
    pub(super) at: String,
    /// Gives the items: an expression, or an array written out.
    pub(super) items: Template,
    /// Asked before each turn.
    pub(super) condition: Option<Expression>,
    pub(super) tasks: Vec<Task>,
}

/// `fork`
#[derive(Debug)]
pub(super) struct Fork {
    pub(super) branches: Vec<Task>,
    /// Whether the first branch that is done gives the output, and the others are dropped.
    pub(super) compete: bool,
}

/// A case of `switch`.
#[derive(Debug)]
pub(super) struct Case {
    /// None: this is what happens if no other case matches.
    pub(super) when: Option<Expression>,
    pub(super) then: Then,
}

/// An error that `raise` describes.
#[derive(Debug)]
pub(super) struct RaisedError {
    /// Gives a string, like the others.
    pub(super) kind: Template,
    pub(super) status: u16,
    pub(super) title: Option<Template>,
    pub(super) detail: Option<Template>,
    pub(super) instance: Option<Template>,
}

/// `try` with its `catch`.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) tasks: Vec<Task>,
    pub(super) errors: ErrorFilter,
    /// Variable of the caught error.
    pub(super) variable: String,
    pub(super) when: Option<Expression>,
    pub(super) except_when: Option<Expression>,
    pub(super) retry: Option<Arc<RetryPolicy>>,
    /// `catch.do`
    pub(super) handler: Option<Vec<Task>>,
    /// `catch.then`
    pub(super) then: Option<Then>,
}

/// `catch.errors.with`: what is given must be equal, of the type its kind.
#[derive(Debug, Default)]
pub(super) struct ErrorFilter {
    pub(super) kind: Option<String>,
    pub(super) status: Option<u64>,
    pub(super) title: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) instance: Option<String>,
}

/// When and how often a `try` is made again.
#[derive(Debug)]
pub(super) struct RetryPolicy {
    /// What its expressions call the error.
    pub(super) variable: String,
    pub(super) when: Option<Expression>,
    pub(super) except_when: Option<Expression>,
    pub(super) delay: Option<Delay>,
    pub(super) backoff: Backoff,
    /// Added to the delay: a random length between these.
    pub(super) jitter: Option<(Delay, Delay)>,
    /// How often, after the first try.
    pub(super) count: Option<u64>,
    /// How long one try may take.
    pub(super) attempt: Option<Delay>,
    /// How long after the beginning of the first try another one may begin.
    pub(super) duration: Option<Delay>,
}

/// How the delay grows from try to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backoff {
    /// Not at all.
    Constant,
    /// Once, twice, three times.
    Linear,
    /// Once, twice, four times.
    Exponential,
}

/// A length of time.
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
