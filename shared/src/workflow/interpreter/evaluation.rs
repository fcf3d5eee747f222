//! What expressions see at a place of the workflow, and their evaluation there.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::Job;
use crate::{
    time::Timestamp,
    workflow::{
        error::WorkflowError,
        expressions::{Expression, Template},
        parse::is_too_deep,
    },
};

/// Where the interpreter is, and what expressions see there.
#[derive(Default)]
pub(super) struct Frame<'f> {
    pub(super) pointer: &'f str,
    /// The present task's; all are none outside of tasks.
    pub(super) name: Option<&'f str>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) raw_input: Option<&'f Value>,
    pub(super) input: Option<&'f Value>,
    pub(super) raw_output: Option<&'f Value>,
    pub(super) output: Option<&'f Value>,
}

impl Frame<'_> {
    fn task(&self) -> Value {
        json!({
            "name": self.name,
            "reference": self.pointer,
            "input": self.raw_input,
            "output": self.raw_output,
            "startedAt": self.started_at.map(date_time),
        })
    }
}

/// The date time descriptor of the specification.
fn date_time(time: Timestamp) -> Value {
    json!({
        "iso8601": time,
        "epoch": { "seconds": time.seconds(), "milliseconds": time.micros().div_euclid(1_000) },
    })
}

impl Job<'_> {
    /// `data` after `template`, if there is one.
    pub(super) fn transform(
        &mut self,
        template: Option<&Template>,
        data: &Value,
        frame: &Frame,
    ) -> Result<Value, WorkflowError> {
        match template {
            Some(template) => self.evaluate(template, data, frame),
            None => Ok(data.clone()),
        }
    }

    pub(super) fn evaluate(
        &mut self,
        template: &Template,
        data: &Value,
        frame: &Frame,
    ) -> Result<Value, WorkflowError> {
        let variable = |name: &str| self.variable(name, frame);
        let result = template.evaluate(data, &variable, &self.evaluator);
        checked(result.map_err(WorkflowError::expression)?)
    }

    pub(super) fn compute(
        &mut self,
        expression: &Expression,
        data: &Value,
        frame: &Frame,
    ) -> Result<Value, WorkflowError> {
        let variable = |name: &str| self.variable(name, frame);
        let result = expression.evaluate(data, variable, &self.evaluator);
        result.map_err(WorkflowError::expression)
    }

    fn variable<'v>(&'v self, name: &str, frame: &Frame<'v>) -> Cow<'v, Value> {
        let known = |value: Option<&'v Value>| value.map_or(Cow::Owned(Value::Null), Cow::Borrowed);
        match name {
            "context" => Cow::Borrowed(&self.checkpoint.context.0),
            "input" => known(frame.input),
            "output" => known(frame.output),
            "task" => Cow::Owned(frame.task()),
            "workflow" => Cow::Owned(json!({
                "id": self.checkpoint.job_id,
                "definition": self.workflow.definition,
                "input": self.checkpoint.input.0,
                "startedAt": date_time(self.checkpoint.started_at),
            })),
            "runtime" => Cow::Owned(json!({
                "name": "errand",
                "version": env!("CARGO_PKG_VERSION"),
                "metadata": {},
            })),
            // The check knows every name.
            _ => Cow::Owned(Value::Null),
        }
    }
}

/// `value`, unless no checkpoint could be read back with it.
pub(super) fn checked(value: Value) -> Result<Value, WorkflowError> {
    if is_too_deep(&value) {
        return Err(WorkflowError::expression("The result is nested deeper than 128 levels."));
    }
    Ok(value)
}
