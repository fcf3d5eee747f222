//! The interpreter: one pure function, [`step`].
//!
//! It is level-triggered. Given the same checkpoint it wants the same things, however often it is
//! asked; so after a crash the checkpoint alone is enough to go on.
//!
//! A step walks the tree of the active path. Each task on it either is *blocked*, having left on the
//! way what it wants (calls, a time), or is *done* with an output, or fails with a [`Fault`]. What a
//! task wanted that then turns out to be done or failed is forgotten on the spot (see [`Job::task`]):
//! so the losers of a race and the rest of a timed-out task are not wanted any more.

mod activity;
mod attempt;
mod evaluation;

use std::io;

use serde_json::Value;

use self::evaluation::{Frame, Surroundings};
use super::{
    cage::Cages,
    call::{Call, Reply},
    checkpoint::{Checkpoint, End, Json, ListState, TaskState},
    document::{Task, Then, Workflow},
    error::WorkflowError,
    expressions::{Evaluator, is_true},
    progress::{TaskEvent, task_pointer},
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
/// Write `checkpoint` before acting on the outcome, unless the act changes nothing: the ids of its calls
/// are fixed in it. A reply to a call that is not wanted is ignored. `random` gives numbers from 0 to
/// 1, for jitter.
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
    random: &mut dyn FnMut() -> f64,
) -> Outcome {
    if checkpoint.end.is_none() {
        let before = workflow.is_caged.then(|| checkpoint.clone());
        checkpoint.unpause(now);
        let mut root = checkpoint.root.take();
        let noted = checkpoint.happened.len();
        let (result, calls, wake, interrupted) = {
            let mut job = Job {
                workflow,
                limits,
                checkpoint,
                replies,
                now,
                random,
                noted,
                started: 0,
                evaluator: Evaluator::new(cages),
                calls: Vec::new(),
                wake: None,
            };
            let result = job.run(&mut root);
            let interrupted = job.evaluator.is_interrupted();
            // The child, if there was one, ends with the evaluator.
            (result, job.calls, job.wake, interrupted)
        };
        if let (true, Some(before)) = (interrupted, before) {
            *checkpoint = before;
            return Outcome::Interrupted;
        }
        checkpoint.root = root;
        match result.and_then(|output| checkpoint.within(output, limits)) {
            Ok(None) => return Outcome::Pending { calls, wake },
            Ok(Some(output)) => {
                checkpoint.root = None;
                checkpoint.end = Some(End::Completed(Json(output)));
            }
            Err(fault) => {
                checkpoint.pause(now);
                // What is not raised by a task is raised by the workflow, whose pointer is empty.
                let error = fault.error.raised_by("", &workflow.dsl);
                checkpoint.end = Some(End::Faulted(error));
            }
        }
    }
    match &checkpoint.end {
        Some(End::Faulted(error)) => Outcome::Faulted(error.clone()),
        Some(End::Completed(output)) => Outcome::Completed(output.0.clone()),
        None => Outcome::Pending { calls: Vec::new(), wake: Some(now) },
    }
}

impl Checkpoint {
    /// `output`, unless it, or without one this checkpoint, is more than may be kept. What is too
    /// large is dropped: nothing can go on with it.
    fn within(&mut self, output: Option<Value>, limits: &Limits) -> Result<Option<Value>, Fault> {
        let mut size = Size(0);
        let written = match &output {
            Some(output) => serde_json::to_writer(&mut size, output),
            None => serde_json::to_writer(&mut size, &self),
        };
        if written.is_err() || size.0 > limits.checkpoint_bytes {
            self.root = None;
            let detail = format!("A job keeps at most {} bytes.", limits.checkpoint_bytes);
            return Err(Fault::limit(detail));
        }
        Ok(output)
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
    /// It goes on later; what it waits for was left with the job.
    Blocked,
    /// Its `if` does not hold: the task hands on what it was given.
    Skipped,
    /// It gave this output and leads there; none: where its task's `then` leads.
    Done(Value, Option<Then>),
}

/// An error on its way up.
struct Fault {
    error: WorkflowError,
    /// Not before this it is tried again: `Retry-After`.
    not_before: Option<Timestamp>,
    /// Whether no document can catch it: limits end a job.
    is_final: bool,
    /// Whether it has passed the task that raised it.
    is_located: bool,
}

impl Fault {
    /// The job went over one of its limits.
    fn limit(detail: impl Into<String>) -> Self {
        Self { is_final: true, ..WorkflowError::runtime(detail).into() }
    }
}

impl From<WorkflowError> for Fault {
    fn from(error: WorkflowError) -> Self {
        Self { error, not_before: None, is_final: false, is_located: false }
    }
}

/// One step of one job.
struct Job<'a> {
    workflow: &'a Workflow,
    limits: &'a Limits,
    checkpoint: &'a mut Checkpoint,
    replies: Vec<Reply>,
    now: Timestamp,
    random: &'a mut dyn FnMut() -> f64,
    /// How much had happened before this step.
    noted: usize,
    /// Tasks started in this step.
    started: usize,
    evaluator: Evaluator<'a>,
    /// What is wanted, as far as the walk has come.
    calls: Vec<Call>,
    wake: Option<Timestamp>,
}

impl Job<'_> {
    /// The workflow's output, once it is done.
    fn run(&mut self, root: &mut Option<ListState>) -> Result<Option<Value>, Fault> {
        let workflow = self.workflow;
        let frame = Frame::default();
        if root.is_none() {
            let raw = self.checkpoint.input.0.clone();
            let input = self.incoming(&workflow.input, &raw, &frame)?.unwrap_or(raw);
            *root = Some(ListState::begin(Some(input)));
        }
        let list = root.as_mut().ok_or_else(inconsistent)?;
        if let (None, Some(timeout)) = (self.checkpoint.timeout_at, &workflow.timeout) {
            let input = self.checkpoint.input.0.clone();
            self.checkpoint.timeout_at = Some(self.now + self.length(timeout, &input, &frame)?);
        }
        if let Some(timeout_at) = self.checkpoint.timeout_at {
            if self.now >= timeout_at {
                // Whoever lets the job go on gives it the whole time again.
                self.checkpoint.timeout_at = None;
                return Err(WorkflowError::timeout("the workflow's timeout is over").into());
            }
            self.wake_at(timeout_at);
        }
        let around = Surroundings { pointer: "/do", local: None };
        let Flow::Done(output, _) = self.list(&workflow.tasks, list, &Value::Null, around)? else {
            return Ok(None);
        };
        match self.outgoing(&workflow.output, &output, &frame) {
            Ok(shaped) => Ok(Some(shaped.unwrap_or(output))),
            Err(fault) => {
                // Whoever lets the job go on comes here again.
                *list =
                    ListState { at: workflow.tasks.len(), data: Some(Json(output)), task: None };
                Err(fault.into())
            }
        }
    }

    /// Moves a list on that was given `input`.
    fn list(
        &mut self,
        tasks: &[Task],
        list: &mut ListState,
        input: &Value,
        around: Surroundings<'_>,
    ) -> Result<Flow, Fault> {
        loop {
            let Some(task) = tasks.get(list.at) else {
                let output = list.data.take().map_or_else(|| input.clone(), |data| data.0);
                return Ok(Flow::Done(output, None));
            };
            let pointer = task_pointer(around.pointer, list.at, task);
            let around = Surroundings { pointer: &pointer, ..around };
            let raw_input = list.data.as_ref().map_or(input, |data| &data.0);
            match self.task(task, &mut list.task, raw_input, around)? {
                Flow::Blocked => return Ok(Flow::Blocked),
                // The specification follows the `then` of tasks that ran.
                Flow::Skipped => list.at += 1,
                Flow::Done(output, then) => {
                    let then = then.unwrap_or(task.then);
                    if then == Then::End {
                        return Ok(Flow::Done(output, Some(then)));
                    }
                    list.data = Some(Json(output));
                    list.at = match then {
                        Then::Continue => list.at + 1,
                        Then::Exit | Then::End => tasks.len(),
                        Then::Task(index) => index,
                    };
                }
            }
        }
    }

    /// Begins or continues a task; `slot` is its state, empty before it has begun and when it ended.
    fn task(
        &mut self,
        task: &Task,
        slot: &mut Option<Box<TaskState>>,
        raw_input: &Value,
        around: Surroundings<'_>,
    ) -> Result<Flow, Fault> {
        let wanted = (self.calls.len(), self.wake);
        let mut flow = self.advance(task, slot, raw_input, around);
        if !matches!(flow, Ok(Flow::Blocked)) {
            self.calls.truncate(wanted.0);
            self.wake = wanted.1;
        }
        match &mut flow {
            Ok(Flow::Blocked) => {}
            Ok(Flow::Done(..) | Flow::Skipped) => *slot = None,
            Err(fault) if fault.is_located => {}
            Err(fault) => {
                fault.is_located = true;
                fault.error = fault.error.clone().raised_by(around.pointer, &self.workflow.dsl);
                // Whoever lets the job go on begins this task anew.
                *slot = None;
                self.note(TaskEvent::Faulted, around.pointer);
            }
        }
        flow
    }

    fn advance(
        &mut self,
        task: &Task,
        slot: &mut Option<Box<TaskState>>,
        raw_input: &Value,
        around: Surroundings<'_>,
    ) -> Result<Flow, Fault> {
        if slot.is_none() {
            if self.started >= STEP_TASK_STARTS || self.evaluator.is_spent() {
                self.wake_at(self.now);
                return Ok(Flow::Blocked);
            }
            self.count_start()?;
            let Some(state) = self.begin_task(task, raw_input, around)? else {
                self.checkpoint.completed += task.leaves();
                return Ok(Flow::Skipped);
            };
            self.note(TaskEvent::Started, around.pointer);
            *slot = Some(Box::new(state));
        }
        let state = slot.as_deref_mut().ok_or_else(inconsistent)?;
        if let Some(timeout_at) = state.timeout_at {
            if self.now >= timeout_at {
                return Err(WorkflowError::timeout("the task's timeout is over").into());
            }
            self.wake_at(timeout_at);
        }
        let mut frame = Frame {
            around,
            name: Some(&task.name),
            started_at: Some(state.started_at),
            raw_input: Some(raw_input),
            input: Some(state.input.as_ref().map_or(raw_input, |input| &input.0)),
            ..Frame::default()
        };
        let Flow::Done(raw_output, then) =
            self.go_on(&task.activity, &mut state.activity, &frame)?
        else {
            return Ok(Flow::Blocked);
        };
        frame.raw_output = Some(&raw_output);
        let shaped = self.outgoing(&task.output, &raw_output, &frame)?;
        let output = shaped.as_ref().unwrap_or(&raw_output);
        if task.export.template.is_some() || task.export.schema.is_some() {
            frame.output = Some(output);
            let exported = self.outgoing(&task.export, output, &frame)?;
            if let Some(context) = exported {
                self.checkpoint.context = Json(context);
            }
        }
        if task.activity.tasks().is_none() {
            self.checkpoint.completed += 1;
        }
        self.note(TaskEvent::Completed, around.pointer);
        Ok(Flow::Done(shaped.unwrap_or(raw_output), then))
    }

    fn count_start(&mut self) -> Result<(), Fault> {
        self.started += 1;
        self.checkpoint.task_starts += 1;
        if self.checkpoint.task_starts > self.limits.task_starts {
            let detail = format!("A job starts at most {} tasks.", self.limits.task_starts);
            return Err(Fault::limit(detail));
        }
        Ok(())
    }

    /// The state a task begins with; none if its `if` skips it.
    fn begin_task(
        &mut self,
        task: &Task,
        raw_input: &Value,
        around: Surroundings<'_>,
    ) -> Result<Option<TaskState>, Fault> {
        let mut frame = Frame {
            around,
            name: Some(&task.name),
            started_at: Some(self.now),
            raw_input: Some(raw_input),
            ..Frame::default()
        };
        let input = self.incoming(&task.input, raw_input, &frame)?.map(Json);
        let data = input.as_ref().map_or(raw_input, |input| &input.0);
        frame.input = Some(data);
        if let Some(condition) = &task.condition
            && !is_true(&self.compute(condition, data, &frame)?)
        {
            return Ok(None);
        }
        let timeout_at = match &task.timeout {
            Some(timeout) => Some(self.now + self.length(timeout, data, &frame)?),
            None => None,
        };
        let activity = self.begin(&task.activity, data, &frame)?;
        Ok(Some(TaskState { started_at: self.now, input, timeout_at, activity }))
    }

    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }

    fn note(&mut self, what: TaskEvent, task: &str) {
        self.checkpoint.note(self.noted, what, task);
    }
}

/// A checkpoint of another document.
fn inconsistent() -> Fault {
    Fault::limit("The checkpoint does not belong to this workflow.")
}

#[cfg(test)]
mod tests;
