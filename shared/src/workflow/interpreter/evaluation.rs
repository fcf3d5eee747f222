//! What expressions see at a place of the workflow, and their evaluation there.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::Job;
use crate::{
    time::Timestamp,
    workflow::{
        document::Shaping,
        error::WorkflowError,
        expressions::{Expression, Template},
        parse::is_too_deep,
    },
};

/// A variable that the document names: `for.each`, `for.at`, `catch.as`.
pub(super) struct Local<'f> {
    pub(super) name: &'f str,
    pub(super) value: &'f Value,
    /// The one around it, which it hides if it has the same name.
    pub(super) outer: Option<&'f Local<'f>>,
}

/// What stands around a task or a list of tasks.
#[derive(Clone, Copy, Default)]
pub(super) struct Surroundings<'f> {
    pub(super) pointer: &'f str,
    /// The innermost variable of the document.
    pub(super) local: Option<&'f Local<'f>>,
}

/// Where the interpreter is, and what expressions see there.
#[derive(Clone, Copy, Default)]
pub(super) struct Frame<'f> {
    pub(super) around: Surroundings<'f>,
    /// The present task's; all are none outside of tasks.
    pub(super) name: Option<&'f str>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) raw_input: Option<&'f Value>,
    pub(super) input: Option<&'f Value>,
    pub(super) raw_output: Option<&'f Value>,
    pub(super) output: Option<&'f Value>,
}

impl<'f> Frame<'f> {
    fn local(&self, name: &str) -> Option<&'f Value> {
        let mut local = self.around.local;
        while let Some(each) = local {
            if each.name == name {
                return Some(each.value);
            }
            local = each.outer;
        }
        None
    }

    fn task(&self) -> Value {
        json!({
            "name": self.name,
            "reference": self.around.pointer,
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
    /// What `from` makes of data that comes in, after its schema was looked at; none: it stays as it is.
    pub(super) fn incoming(
        &mut self,
        shaping: &Shaping,
        data: &Value,
        frame: &Frame<'_>,
    ) -> Result<Option<Value>, WorkflowError> {
        validate(shaping, data)?;
        self.shaped(shaping, data, frame)
    }

    /// What `as` makes of data that goes out, before its schema is looked at; none: it stays as it is.
    pub(super) fn outgoing(
        &mut self,
        shaping: &Shaping,
        data: &Value,
        frame: &Frame<'_>,
    ) -> Result<Option<Value>, WorkflowError> {
        let shaped = self.shaped(shaping, data, frame)?;
        validate(shaping, shaped.as_ref().unwrap_or(data))?;
        Ok(shaped)
    }

    fn shaped(
        &mut self,
        shaping: &Shaping,
        data: &Value,
        frame: &Frame<'_>,
    ) -> Result<Option<Value>, WorkflowError> {
        let template = shaping.template.as_ref();
        template.map(|template| self.evaluate(template, data, frame)).transpose()
    }

    pub(super) fn evaluate(
        &mut self,
        template: &Template,
        data: &Value,
        frame: &Frame<'_>,
    ) -> Result<Value, WorkflowError> {
        let variable = |name: &str| self.variable(name, frame);
        let result = template.evaluate(data, &variable, &self.evaluator);
        checked(result.map_err(WorkflowError::expression)?)
    }

    pub(super) fn compute(
        &mut self,
        expression: &Expression,
        data: &Value,
        frame: &Frame<'_>,
    ) -> Result<Value, WorkflowError> {
        let variable = |name: &str| self.variable(name, frame);
        let result = expression.evaluate(data, variable, &self.evaluator);
        result.map_err(WorkflowError::expression)
    }

    fn variable<'v>(&'v self, name: &str, frame: &Frame<'v>) -> Cow<'v, Value> {
        let known = |value: Option<&'v Value>| value.map_or(Cow::Owned(Value::Null), Cow::Borrowed);
        if let Some(value) = frame.local(name) {
            return Cow::Borrowed(value);
        }
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

fn validate(shaping: &Shaping, data: &Value) -> Result<(), WorkflowError> {
    match &shaping.schema {
        Some(schema) => schema.validate(data).map_err(WorkflowError::validation),
        None => Ok(()),
    }
}

/// `value`, unless no checkpoint could be read back with it.
pub(super) fn checked(value: Value) -> Result<Value, WorkflowError> {
    if is_too_deep(&value) {
        return Err(WorkflowError::expression("The result is nested deeper than 128 levels."));
    }
    Ok(value)
}
