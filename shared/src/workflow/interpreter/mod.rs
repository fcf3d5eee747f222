//! The interpreter: one pure function, [`step`].
//!
//! It is level-triggered. Given the same checkpoint it wants the same things, however often it is
//! asked; so after a crash the checkpoint alone is enough to go on.

mod evaluation;

use std::{io, time::Duration};

use serde_json::Value;

use self::evaluation::{Frame, checked};
use super::{
    cage::Cages,
    call::{self, Call, Evaluated, Reply},
    checkpoint::{ActivityState, Checkpoint, End, Json, ListState, TaskState},
    document::{Activity, Address, Delay, HttpCall, Task, Then, Workflow},
    duration,
    error::WorkflowError,
    expressions::{Evaluator, Template, is_true},
    parse::push_token,
};
use crate::{config::Limits, time::Timestamp};

/// How many tasks one step starts before it lets others run.
const STEP_TASK_STARTS: usize = 1_000;

/// What a job wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Have these calls made; step again with a [`Reply`] to any of them, or at `wake`.
    Pending {
        /// All calls that are wanted now, in document order. Whatever else is on its way is not
        /// wanted any more.
        calls: Vec<Call>,
        /// When to step again even without a reply; `now` itself: the step was only long.
        wake: Option<Timestamp>,
    },
    /// It is done; this is its output.
    Completed(Value),
    /// It failed.
    Faulted(WorkflowError),
    /// The machine was too busy for one of its expressions. The checkpoint is as it was: step again
    /// later, with the same replies.
    Interrupted,
}

/// Moves a job on until it wants something.
///
/// Write `checkpoint` before acting on the outcome: the ids of its calls are fixed in it. A reply to
/// a call that is not wanted is ignored. `random` gives numbers from 0 to 1, for jitter.
///
/// Expressions that are not tree-shaped run in a child process of `cages`, which is started for the
/// first of them and is gone when this returns. Blocks while they run and while it waits for a place
/// for the child; so call it where blocking is allowed, without a limit of your own on its duration.
/// What an expression does to its child is an error of its task (`expression`, 400).
pub fn step(
    workflow: &Workflow,
    limits: &Limits,
    cages: &Cages,
    checkpoint: &mut Checkpoint,
    replies: Vec<Reply>,
    now: Timestamp,
    _random: &mut dyn FnMut() -> f64,
) -> Outcome {
    if checkpoint.end.is_none() {
        let before = workflow.is_caged.then(|| checkpoint.clone());
        let mut root = checkpoint.root.take();
        let evaluator = Evaluator::new(cages);
        let mut job = Job { workflow, limits, checkpoint, replies, now, started: 0, evaluator };
        let progress = job.run(&mut root);
        let interrupted = job.evaluator.is_interrupted();
        // Its child ends here.
        drop(job);
        if let (true, Some(before)) = (interrupted, before) {
            *checkpoint = before;
            return Outcome::Interrupted;
        }
        checkpoint.root = root;
        checkpoint.end = match progress.and_then(|wanted| wanted.within(checkpoint, limits)) {
            Ok(Wanted::Nothing(output)) => Some(End::Completed(Json(output))),
            Ok(Wanted::Call(call)) => return Outcome::Pending { calls: vec![call], wake: None },
            Ok(Wanted::Time(until)) => {
                return Outcome::Pending { calls: Vec::new(), wake: Some(until) };
            }
            // What is not raised by a task is raised by the workflow, whose pointer is empty.
            Err(error) => Some(End::Faulted(error.raised_by("", &workflow.dsl))),
        };
    }
    match &checkpoint.end {
        Some(End::Faulted(error)) => Outcome::Faulted(error.clone()),
        Some(End::Completed(output)) => Outcome::Completed(output.0.clone()),
        None => Outcome::Pending { calls: Vec::new(), wake: Some(now) },
    }
}

/// What is missing for a job to go on.
enum Wanted {
    Nothing(Value),
    Call(Call),
    Time(Timestamp),
}

impl Wanted {
    /// Itself, unless what is to be kept has become too large.
    fn within(self, checkpoint: &Checkpoint, limits: &Limits) -> Result<Self, WorkflowError> {
        let mut size = Size(0);
        let written = match &self {
            Self::Nothing(output) => serde_json::to_writer(&mut size, output),
            Self::Call(_) | Self::Time(_) => serde_json::to_writer(&mut size, checkpoint),
        };
        if written.is_err() || size.0 > limits.checkpoint_bytes {
            let detail = format!("A job keeps at most {} bytes.", limits.checkpoint_bytes);
            return Err(WorkflowError::runtime(detail));
        }
        Ok(self)
    }
}

/// Counts what is written.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What became of a list or a task in this step.
enum Flow {
    /// It goes on later.
    Blocked(Wanted),
    /// It gave this output.
    Done(Value, Then),
}

/// One step of one job.
struct Job<'a> {
    workflow: &'a Workflow,
    limits: &'a Limits,
    checkpoint: &'a mut Checkpoint,
    replies: Vec<Reply>,
    now: Timestamp,
    /// Tasks started in this step.
    started: usize,
    evaluator: Evaluator<'a>,
}

impl Job<'_> {
    fn run(&mut self, root: &mut Option<ListState>) -> Result<Wanted, WorkflowError> {
        let frame = Frame::default();
        if root.is_none() {
            let raw = self.checkpoint.input.0.clone();
            let input = self.transform(self.workflow.input_from.as_ref(), &raw, &frame)?;
            *root = Some(ListState::begin(input));
        }
        let list = root.as_mut().ok_or_else(inconsistent)?;
        match self.list(&self.workflow.tasks, list, "/do")? {
            Flow::Blocked(wanted) => Ok(wanted),
            Flow::Done(output, _) => self
                .transform(self.workflow.output_as.as_ref(), &output, &frame)
                .map(Wanted::Nothing),
        }
    }

    fn list(
        &mut self,
        tasks: &[Task],
        list: &mut ListState,
        pointer: &str,
    ) -> Result<Flow, WorkflowError> {
        loop {
            let Some(task) = tasks.get(list.at) else {
                return Ok(Flow::Done(std::mem::take(&mut list.data.0), Then::Continue));
            };
            let mut pointer = pointer.to_owned();
            push_token(&mut pointer, &list.at.to_string());
            push_token(&mut pointer, &task.name);
            let flow = self.task(task, list, &pointer);
            match flow.map_err(|error| error.raised_by(&pointer, &self.workflow.dsl))? {
                Flow::Blocked(wanted) => return Ok(Flow::Blocked(wanted)),
                Flow::Done(output, then) => {
                    list.task = None;
                    list.data = Json(output);
                    list.at = match then {
                        Then::Continue => list.at + 1,
                        Then::Exit | Then::End => tasks.len(),
                        Then::Task(index) => index,
                    };
                    if then == Then::End {
                        return Ok(Flow::Done(std::mem::take(&mut list.data.0), then));
                    }
                }
            }
        }
    }

    /// Begins or continues the current task of `list`.
    fn task(
        &mut self,
        task: &Task,
        list: &mut ListState,
        pointer: &str,
    ) -> Result<Flow, WorkflowError> {
        if list.task.is_none() {
            if self.started >= STEP_TASK_STARTS || self.evaluator.is_spent() {
                return Ok(Flow::Blocked(Wanted::Time(self.now)));
            }
            self.count_start()?;
            let Some(state) = self.begin(task, &list.data.0, pointer)? else {
                self.checkpoint.completed += task.leaves();
                // The specification follows the `then` of tasks that ran.
                return Ok(Flow::Done(std::mem::take(&mut list.data.0), Then::Continue));
            };
            list.task = Some(Box::new(state));
        }
        let Some(state) = list.task.as_deref_mut() else {
            return Err(inconsistent());
        };
        let mut frame = Frame {
            pointer,
            name: Some(&task.name),
            started_at: Some(state.started_at),
            raw_input: Some(&list.data.0),
            input: Some(state.input.as_ref().map_or(&list.data.0, |input| &input.0)),
            ..Frame::default()
        };
        let (raw_output, then) = match self.go_on(&task.activity, &mut state.activity, &frame)? {
            Flow::Blocked(wanted) => return Ok(Flow::Blocked(wanted)),
            Flow::Done(output, Then::End) => (output, Then::End),
            Flow::Done(output, _) => (output, task.then),
        };
        frame.raw_output = Some(&raw_output);
        let output = self.transform(task.output_as.as_ref(), &raw_output, &frame)?;
        if let Some(template) = &task.export_as {
            frame.output = Some(&output);
            let context = self.evaluate(template, &output, &frame)?;
            self.checkpoint.context = Json(context);
        }
        if !matches!(task.activity, Activity::Do(_)) {
            self.checkpoint.completed += 1;
        }
        Ok(Flow::Done(output, then))
    }

    fn count_start(&mut self) -> Result<(), WorkflowError> {
        self.started += 1;
        self.checkpoint.task_starts += 1;
        if self.checkpoint.task_starts > self.limits.task_starts {
            let detail = format!("A job starts at most {} tasks.", self.limits.task_starts);
            return Err(WorkflowError::runtime(detail));
        }
        Ok(())
    }

    /// The state a task begins with; none if its `if` skips it.
    fn begin(
        &mut self,
        task: &Task,
        raw_input: &Value,
        pointer: &str,
    ) -> Result<Option<TaskState>, WorkflowError> {
        let mut frame = Frame {
            pointer,
            name: Some(&task.name),
            started_at: Some(self.now),
            raw_input: Some(raw_input),
            ..Frame::default()
        };
        let input = match &task.input_from {
            Some(from) => Some(Json(self.evaluate(from, raw_input, &frame)?)),
            None => None,
        };
        let data = input.as_ref().map_or(raw_input, |input| &input.0);
        frame.input = Some(data);
        if let Some(condition) = &task.condition
            && !is_true(&self.compute(condition, data, &frame)?)
        {
            return Ok(None);
        }
        let activity = match &task.activity {
            Activity::Set(_) => ActivityState::Set,
            Activity::Do(_) => ActivityState::Do(ListState::begin(data.clone())),
            Activity::Wait(delay) => {
                ActivityState::Wait(self.now + self.delay(delay, data, &frame)?)
            }
            Activity::Call(call) => ActivityState::Call(self.call(call, data, &frame)?),
        };
        Ok(Some(TaskState { started_at: self.now, input, activity }))
    }

    /// Continues what a task does.
    fn go_on(
        &mut self,
        activity: &Activity,
        state: &mut ActivityState,
        frame: &Frame,
    ) -> Result<Flow, WorkflowError> {
        let input = frame.input.unwrap_or(&Value::Null);
        let output = match (activity, state) {
            (Activity::Do(tasks), ActivityState::Do(list)) => {
                return self.list(tasks, list, &format!("{}/do", frame.pointer));
            }
            (Activity::Set(template), ActivityState::Set) => {
                self.evaluate(template, input, frame)?
            }
            (Activity::Wait(_), ActivityState::Wait(until)) => {
                if self.now < *until {
                    return Ok(Flow::Blocked(Wanted::Time(*until)));
                }
                input.clone()
            }
            (Activity::Call(call), ActivityState::Call(request)) => {
                let reply = self.replies.iter().position(|reply| reply.call == request.id);
                match reply.map(|index| self.replies.swap_remove(index)) {
                    None => return Ok(Flow::Blocked(Wanted::Call(request.clone()))),
                    Some(reply) => {
                        checked(call::output(call, request, &reply.result?, self.workflow)?)?
                    }
                }
            }
            _ => return Err(inconsistent()),
        };
        Ok(Flow::Done(output, Then::Continue))
    }

    fn delay(
        &mut self,
        delay: &Delay,
        input: &Value,
        frame: &Frame,
    ) -> Result<Duration, WorkflowError> {
        let expression = match delay {
            Delay::Fixed(length) => return Ok(*length),
            Delay::Computed(expression) => expression,
        };
        let length = match self.compute(expression, input, frame)? {
            Value::String(text) => duration::parse_iso8601(&text),
            Value::Object(object) => duration::from_object(&object).ok(),
            _ => None,
        };
        length.filter(|length| *length <= self.limits.max_deadline).ok_or_else(|| {
            WorkflowError::expression(format!("`{expression}` gives no duration a job may wait."))
        })
    }

    /// Fixes the request of a task.
    fn call(
        &mut self,
        call: &HttpCall,
        input: &Value,
        frame: &Frame,
    ) -> Result<Call, WorkflowError> {
        if self.checkpoint.calls >= self.limits.calls {
            let detail = format!("A job makes at most {} calls.", self.limits.calls);
            return Err(WorkflowError::runtime(detail));
        }
        let reference = match &call.address {
            Address::Literal(template) => {
                template.expand(input).map_err(WorkflowError::expression)?
            }
            Address::Computed(expression) => match self.compute(expression, input, frame)? {
                Value::String(reference) if !reference.is_empty() => reference,
                _ => {
                    let detail = format!("`{expression}` gives no address.");
                    return Err(WorkflowError::expression(detail));
                }
            },
        };
        let mut part = |template: &Option<Template>| {
            template.as_ref().map(|template| self.evaluate(template, input, frame)).transpose()
        };
        let none = || Value::Object(serde_json::Map::new());
        let evaluated = Evaluated {
            reference,
            headers: part(&call.headers)?.unwrap_or_else(none),
            query: part(&call.query)?.unwrap_or_else(none),
            body: part(&call.body)?,
        };
        let id = self.checkpoint.calls + 1;
        let request = call::request(call, evaluated, id, frame.pointer, self.workflow)?;
        self.checkpoint.calls = id;
        Ok(request)
    }
}

/// A checkpoint of another document.
fn inconsistent() -> WorkflowError {
    WorkflowError::runtime("The checkpoint does not belong to this workflow.")
}

#[cfg(test)]
mod tests;
