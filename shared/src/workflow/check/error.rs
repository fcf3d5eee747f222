//! `raise`, `try` with its `catch`, and what both find under `use`.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{Checker, Fields, Phase, Place, refusals, task::Position};
use crate::workflow::{
    document::{Backoff, Delay, ErrorFilter, RaisedError, RetryPolicy, Task, Try},
    expressions::{Template, whole_expression},
};

/// What `use.retries` calls the error; `catch.as` is not known there.
const ERROR_VARIABLE: &str = "error";

/// What is defined under `use`. None: it is there, and refused.
#[derive(Default)]
pub(super) struct Reusable {
    pub(super) timeouts: HashMap<String, Option<Arc<Delay>>>,
    retries: HashMap<String, Option<Arc<RetryPolicy>>>,
    errors: HashMap<String, Option<Arc<RaisedError>>>,
}

impl Checker<'_> {
    /// Reads `use`.
    pub(super) fn reusable(&mut self, value: &Value, place: &Place) {
        let known = ["timeouts", "retries", "errors"];
        let Some(fields) = self.fields(value, place, &known, |name| Some(refusals::reusable(name)))
        else {
            return;
        };
        self.reusable.timeouts = self.definitions(&fields, "timeouts", |checker, value, place| {
            let fields = checker.fields(value, place, &["after"], |_| None)?;
            let (value, place) = checker.required(&fields, "after")?;
            checker.delay(value, &place, Phase::Task)
        });
        self.reusable.retries = self.definitions(&fields, "retries", |checker, value, place| {
            checker.locals.push(ERROR_VARIABLE.to_owned());
            let policy = checker.policy(value, place, ERROR_VARIABLE);
            checker.locals.pop();
            policy
        });
        self.reusable.errors = self.definitions(&fields, "errors", Self::error);
    }

    fn definitions<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        read: impl Fn(&mut Self, &Value, &Place) -> Option<T>,
    ) -> HashMap<String, Option<Arc<T>>> {
        let mut definitions = HashMap::new();
        if let Some((value, place)) = fields.get(name)
            && let Some(object) = self.object(value, &place)
        {
            for (name, value) in object {
                let place = place.at(name);
                self.name(name, &place);
                definitions.insert(name.clone(), read(self, value, &place).map(Arc::new));
            }
        }
        definitions
    }

    /// What was found under `use.section.name`.
    pub(super) fn known<T>(
        &mut self,
        section: &str,
        name: &str,
        found: Option<Option<Arc<T>>>,
        place: &Place,
    ) -> Option<Arc<T>> {
        if found.is_none() {
            self.refuse(place, format!("`{name}` is not defined under `use.{section}`."));
        }
        found.flatten()
    }

    pub(super) fn raise(&mut self, value: &Value, place: &Place) -> Option<Arc<RaisedError>> {
        let fields = self.fields(value, place, &["error"], |_| None)?;
        let (value, place) = self.required(&fields, "error")?;
        if let Value::String(name) = value {
            let known = self.reusable.errors.get(name).cloned();
            return self.known("errors", name, known, &place);
        }
        self.error(value, &place).map(Arc::new)
    }

    fn error(&mut self, value: &Value, place: &Place) -> Option<RaisedError> {
        let known = ["type", "status", "title", "detail", "instance"];
        let fields = self.fields(value, place, &known, |_| None)?;
        let kind = self.required(&fields, "type").and_then(|(value, place)| {
            let text = self.string(value, &place)?;
            if whole_expression(text) == Ok(None)
                && (text.is_empty() || text.contains(char::is_whitespace))
            {
                self.refuse(&place, "This must be a URI.");
                return None;
            }
            self.template(value, &place, Phase::Task)
        });
        let status = self.required(&fields, "status").and_then(|(value, place)| {
            let status = value.as_u64().filter(|status| (100..=599).contains(status));
            let status = status.and_then(|status| u16::try_from(status).ok());
            if status.is_none() {
                self.refuse(&place, "This must be a status code from 100 to 599.");
            }
            status
        });
        let title = self.text(&fields, "title");
        let detail = self.text(&fields, "detail");
        let instance = self.text(&fields, "instance");
        Some(RaisedError { kind: kind?, status: status?, title, detail, instance })
    }

    /// A property that is a string or an expression `${ … }`.
    fn text(&mut self, fields: &Fields<'_>, name: &str) -> Option<Template> {
        let (value, place) = fields.get(name)?;
        self.string(value, &place)?;
        self.template(value, &place, Phase::Task)
    }

    /// `catch`, for a `try` of these tasks at `position`.
    pub(super) fn catch(
        &mut self,
        tasks: Vec<Task>,
        value: &Value,
        place: &Place,
        position: Position<'_>,
        nesting: usize,
    ) -> Option<Try> {
        let known = ["errors", "as", "when", "exceptWhen", "retry", "do", "then"];
        let fields = self.fields(value, place, &known, |_| None)?;
        let errors = fields
            .get("errors")
            .and_then(|(value, place)| self.errors(value, &place))
            .unwrap_or_default();
        let variable = self.variable(&fields, "as", ERROR_VARIABLE);
        self.locals.push(variable.clone());
        let when = self.condition(&fields, "when");
        let except_when = self.condition(&fields, "exceptWhen");
        let retry = fields.get("retry").and_then(|(value, place)| match value {
            Value::String(name) => {
                let known = self.reusable.retries.get(name).cloned();
                self.known("retries", name, known, &place)
            }
            _ => self.policy(value, &place, &variable).map(Arc::new),
        });
        let handler = fields.get("do").map(|(value, place)| self.tasks(value, &place, nesting));
        self.locals.pop();
        let then = fields.get("then").and_then(|(value, place)| self.then(value, &place, position));
        Some(Try { tasks, errors, variable, when, except_when, retry, handler, then })
    }

    fn errors(&mut self, value: &Value, place: &Place) -> Option<ErrorFilter> {
        let fields = self.fields(value, place, &["with"], |_| None)?;
        let (value, place) = fields.get("with")?;
        let known = ["type", "status", "title", "detail", "instance"];
        let fields = self.fields(value, &place, &known, |_| None)?;
        if fields.object.is_empty() {
            self.refuse(&place, "Write at least one property that an error must have.");
        }
        let mut text = |name: &str| {
            let (value, place) = fields.get(name)?;
            let text = self.string(value, &place)?;
            if whole_expression(text) != Ok(None) {
                self.refuse(&place, "This must be a plain value; for expressions there is `when`.");
            }
            Some(text.to_owned())
        };
        let (kind, title) = (text("type"), text("title"));
        let (detail, instance) = (text("detail"), text("instance"));
        let status = fields.get("status").and_then(|(value, place)| self.count(value, &place));
        Some(ErrorFilter { kind, status, title, detail, instance })
    }

    /// A retry policy, whose expressions call the error `variable`.
    fn policy(&mut self, value: &Value, place: &Place, variable: &str) -> Option<RetryPolicy> {
        let known = ["when", "exceptWhen", "delay", "backoff", "jitter", "limit"];
        let fields = self.fields(value, place, &known, |_| None)?;
        let when = self.condition(&fields, "when");
        let except_when = self.condition(&fields, "exceptWhen");
        let delay = self.optional_delay(&fields, "delay");
        let backoff = fields.get("backoff").and_then(|(value, place)| self.backoff(value, &place));
        let jitter = fields.get("jitter").and_then(|(value, place)| self.jitter(value, &place));
        let (mut count, mut attempt, mut duration) = (None, None, None);
        if let Some((value, place)) = fields.get("limit")
            && let Some(fields) = self.fields(value, &place, &["attempt", "duration"], |_| None)
        {
            duration = self.optional_delay(&fields, "duration");
            if let Some((value, place)) = fields.get("attempt")
                && let Some(fields) = self.fields(value, &place, &["count", "duration"], |_| None)
            {
                count = fields.get("count").and_then(|(value, place)| self.count(value, &place));
                attempt = self.optional_delay(&fields, "duration");
            }
        }
        Some(RetryPolicy {
            variable: variable.to_owned(),
            when,
            except_when,
            delay,
            backoff: backoff.unwrap_or(Backoff::Constant),
            jitter,
            count,
            attempt,
            duration,
        })
    }

    fn backoff(&mut self, value: &Value, place: &Place) -> Option<Backoff> {
        let known = ["constant", "linear", "exponential"];
        let fields = self.fields(value, place, &known, |_| None)?;
        for name in known {
            if let Some((value, place)) = fields.get(name) {
                self.fields(value, &place, &[], |_| None);
            }
        }
        let given: Vec<_> =
            known.into_iter().filter(|name| fields.object.contains_key(*name)).collect();
        match given[..] {
            ["constant"] => Some(Backoff::Constant),
            ["linear"] => Some(Backoff::Linear),
            ["exponential"] => Some(Backoff::Exponential),
            _ => {
                let detail = format!("Write one of `{}`.", known.join("`, `"));
                self.refuse(place, detail);
                None
            }
        }
    }

    fn jitter(&mut self, value: &Value, place: &Place) -> Option<(Delay, Delay)> {
        let fields = self.fields(value, place, &["from", "to"], |_| None)?;
        let [from, to] = ["from", "to"].map(|name| {
            let (value, place) = self.required(&fields, name)?;
            self.delay(value, &place, Phase::Task)
        });
        let (from, to) = (from?, to?);
        if let (Delay::Fixed(shortest), Delay::Fixed(longest)) = (&from, &to)
            && shortest > longest
        {
            self.refuse(place, "`from` is longer than `to`.");
        }
        Some((from, to))
    }

    fn optional_delay(&mut self, fields: &Fields<'_>, name: &str) -> Option<Delay> {
        let (value, place) = fields.get(name)?;
        self.delay(value, &place, Phase::Task)
    }

    fn count(&mut self, value: &Value, place: &Place) -> Option<u64> {
        let count = value.as_u64();
        if count.is_none() {
            self.refuse(place, "This must be a whole number, zero or more.");
        }
        count
    }
}
