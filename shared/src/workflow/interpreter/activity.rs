//! What each kind of task begins with, and how it goes on.

use std::time::Duration;

use serde_json::Value;

use super::{
    Fault, Flow, Job,
    evaluation::{Frame, Local, Surroundings, checked},
    inconsistent,
};
use crate::workflow::{
    WorkflowError,
    call::{self, Call, Evaluated, Response},
    checkpoint::{ActivityState, BranchState, ForState, Json, ListState},
    document::{Activity, Address, Case, Delay, Fork, HttpCall, Loop, RaisedError, Then},
    duration,
    expressions::{Template, is_true},
    progress::task_pointer,
};

impl Job<'_> {
    /// The state with which a task begins that was given `input`.
    pub(super) fn begin(
        &mut self,
        activity: &Activity,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<ActivityState, Fault> {
        Ok(match activity {
            Activity::Set(_) | Activity::Switch(_) | Activity::Raise(_) => ActivityState::Immediate,
            Activity::Do(_) => ActivityState::Do(ListState::begin(None)),
            Activity::Wait(delay) => {
                ActivityState::Wait(self.now + self.length(delay, input, frame)?)
            }
            Activity::Call(call) => ActivityState::Call(self.call(call, input, frame)?),
            Activity::For(repeat) => ActivityState::For(self.begin_loop(repeat, input, frame)?),
            Activity::Fork(fork) => {
                let branches = fork.branches.iter().map(|_| BranchState::Running(None));
                ActivityState::Fork(branches.collect())
            }
            Activity::Try(attempt) => {
                ActivityState::Try(self.begin_attempt(attempt, input, frame)?)
            }
        })
    }

    /// Continues what a task does.
    pub(super) fn go_on(
        &mut self,
        activity: &Activity,
        state: &mut ActivityState,
        frame: &Frame<'_>,
    ) -> Result<Flow, Fault> {
        let input = frame.input.unwrap_or(&Value::Null);
        let output = match (activity, state) {
            (Activity::Do(tasks), ActivityState::Do(list)) => {
                let pointer = format!("{}/do", frame.around.pointer);
                let around = Surroundings { pointer: &pointer, ..frame.around };
                return self.list(tasks, list, input, around);
            }
            (Activity::For(repeat), ActivityState::For(state)) => {
                return self.turns(repeat, state, input, frame);
            }
            (Activity::Fork(fork), ActivityState::Fork(branches)) => {
                return self.branches(fork, branches, input, frame);
            }
            (Activity::Try(attempt), ActivityState::Try(state)) => {
                return self.attempt(attempt, state, input, frame);
            }
            (Activity::Set(template), ActivityState::Immediate) => {
                self.evaluate(template, input, frame)?
            }
            (Activity::Switch(cases), ActivityState::Immediate) => {
                return self.switch(cases, input, frame);
            }
            (Activity::Raise(error), ActivityState::Immediate) => {
                return Err(self.raised(error, input, frame)?.into());
            }
            (Activity::Wait(_), ActivityState::Wait(until)) => {
                if self.now < *until {
                    self.wake_at(*until);
                    return Ok(Flow::Blocked);
                }
                input.clone()
            }
            (Activity::Call(call), ActivityState::Call(request)) => {
                let reply = self.replies.iter().position(|reply| reply.call == request.id);
                match reply.map(|index| self.replies.swap_remove(index)) {
                    None => {
                        self.calls.push(request.clone());
                        return Ok(Flow::Blocked);
                    }
                    Some(reply) => self.answered(call, request, &reply.result?)?,
                }
            }
            _ => return Err(inconsistent()),
        };
        Ok(Flow::Done(output, None))
    }

    /// The output of a call that was answered.
    fn answered(
        &self,
        call: &HttpCall,
        request: &Call,
        response: &Response,
    ) -> Result<Value, Fault> {
        match call::output(call, request, response, self.workflow) {
            Ok(output) => Ok(checked(output)?),
            Err(error) => {
                let not_before = response.retry_after(self.now).map(|length| self.now + length);
                Err(Fault { not_before, ..error.into() })
            }
        }
    }

    fn begin_loop(
        &mut self,
        repeat: &Loop,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<ForState, Fault> {
        let items = self.evaluate(&repeat.items, input, frame)?;
        let Some(count) = items.as_array().map(Vec::len) else {
            let detail = "What a loop goes through must be an array.";
            return Err(WorkflowError::expression(detail).into());
        };
        if count > self.limits.loop_items {
            let detail = format!("A loop has at most {} items.", self.limits.loop_items);
            return Err(Fault::limit(detail));
        }
        Ok(ForState { items: Json(items), index: 0, data: None, turn: None })
    }

    /// Goes through the turns of a loop. A turn is given what the one before gave.
    fn turns(
        &mut self,
        repeat: &Loop,
        state: &mut ForState,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<Flow, Fault> {
        let pointer = format!("{}/do", frame.around.pointer);
        let items = state.items.0.as_array().ok_or_else(inconsistent)?;
        loop {
            let data = state.data.as_ref().map_or(input, |data| &data.0);
            let Some(item) = items.get(state.index) else {
                return Ok(Flow::Done(data.clone(), None));
            };
            let index = Value::from(state.index);
            let item = Local { name: &repeat.each, value: item, outer: frame.around.local };
            let index = Local { name: &repeat.at, value: &index, outer: Some(&item) };
            let around = Surroundings { local: Some(&index), ..frame.around };
            if state.turn.is_none() {
                if let Some(condition) = &repeat.condition
                    && !is_true(&self.compute(condition, data, &Frame { around, ..*frame })?)
                {
                    return Ok(Flow::Done(data.clone(), None));
                }
                state.turn = Some(ListState::begin(None));
            }
            let turn = state.turn.as_mut().ok_or_else(inconsistent)?;
            let around = Surroundings { pointer: &pointer, ..around };
            let Flow::Done(output, then) = self.list(&repeat.tasks, turn, data, around)? else {
                return Ok(Flow::Blocked);
            };
            if then == Some(Then::End) {
                return Ok(Flow::Done(output, then));
            }
            state.data = Some(Json(output));
            state.turn = None;
            state.index += 1;
        }
    }

    /// Moves all branches on. They all are visited, so that all that they want is known.
    fn branches(
        &mut self,
        fork: &Fork,
        branches: &mut [BranchState],
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<Flow, Fault> {
        if fork.branches.len() != branches.len() {
            return Err(inconsistent());
        }
        let list = format!("{}/fork/branches", frame.around.pointer);
        let mut ends = false;
        for (index, (task, branch)) in fork.branches.iter().zip(branches.iter_mut()).enumerate() {
            let BranchState::Running(slot) = branch else {
                continue;
            };
            let pointer = task_pointer(&list, index, task);
            let around = Surroundings { pointer: &pointer, ..frame.around };
            match self.task(task, slot, input, around)? {
                Flow::Blocked => {}
                // It is not in the race, but has its place among the outputs.
                Flow::Skipped => *branch = BranchState::Done(Json(input.clone())),
                Flow::Done(output, then) => {
                    ends = then.unwrap_or(task.then) == Then::End;
                    if fork.compete {
                        return Ok(Flow::Done(output, ends.then_some(Then::End)));
                    }
                    *branch = BranchState::Done(Json(output));
                    if ends {
                        break;
                    }
                }
            }
        }
        if !ends && branches.iter().any(|branch| matches!(branch, BranchState::Running(_))) {
            return Ok(Flow::Blocked);
        }
        if fork.compete {
            // None has run.
            return Ok(Flow::Done(input.clone(), None));
        }
        // Whoever ends the workflow leaves the others' places empty.
        let outputs = branches.iter_mut().map(|branch| match branch {
            BranchState::Done(output) => std::mem::take(&mut output.0),
            BranchState::Running(_) => Value::Null,
        });
        Ok(Flow::Done(outputs.collect(), ends.then_some(Then::End)))
    }

    fn switch(&mut self, cases: &[Case], input: &Value, frame: &Frame<'_>) -> Result<Flow, Fault> {
        let mut then = None;
        for case in cases {
            match &case.when {
                Some(when) if is_true(&self.compute(when, input, frame)?) => {
                    then = Some(case.then);
                    break;
                }
                Some(_) => {}
                None => then = Some(case.then),
            }
        }
        Ok(Flow::Done(input.clone(), then))
    }

    fn raised(
        &mut self,
        error: &RaisedError,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<WorkflowError, WorkflowError> {
        let kind = self.text(&error.kind, input, frame)?;
        let mut part = |template: &Option<Template>| {
            template.as_ref().map(|template| self.text(template, input, frame)).transpose()
        };
        let (title, detail) = (part(&error.title)?, part(&error.detail)?);
        let instance = part(&error.instance)?.unwrap_or_else(|| frame.around.pointer.to_owned());
        Ok(WorkflowError::raised(kind, error.status, title, detail, Some(instance)))
    }

    /// What `template` gives, which must be a string.
    fn text(
        &mut self,
        template: &Template,
        input: &Value,
        frame: &Frame<'_>,
    ) -> Result<String, WorkflowError> {
        match self.evaluate(template, input, frame)? {
            Value::String(text) => Ok(text),
            _ => Err(WorkflowError::expression("The parts of an error are strings.")),
        }
    }

    /// The length of time that a place of the document asks for.
    pub(super) fn length(
        &mut self,
        delay: &Delay,
        input: &Value,
        frame: &Frame<'_>,
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
    fn call(&mut self, call: &HttpCall, input: &Value, frame: &Frame<'_>) -> Result<Call, Fault> {
        if self.checkpoint.calls >= self.limits.calls {
            let detail = format!("A job makes at most {} calls.", self.limits.calls);
            return Err(Fault::limit(detail));
        }
        let reference = match &call.address {
            Address::Literal(template) => {
                template.expand(input).map_err(WorkflowError::expression)?
            }
            Address::Computed(expression) => match self.compute(expression, input, frame)? {
                Value::String(reference) if !reference.is_empty() => reference,
                _ => {
                    let detail = format!("`{expression}` gives no address.");
                    return Err(WorkflowError::expression(detail).into());
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
        let request = call::request(call, evaluated, id, frame.around.pointer, self.workflow)?;
        self.checkpoint.calls = id;
        Ok(request)
    }
}
