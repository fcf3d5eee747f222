//! Lists of tasks, and what all tasks have.

use std::sync::Arc;

use serde_json::Value;

use super::{Checker, Fields, Phase, Place, refusals};
use crate::workflow::{
    document::{Activity, Case, Delay, Fork, Loop, Task, Then},
    duration,
    expressions::{Expression, Template, whole_expression},
};

/// What every task may have.
const COMMON: [&str; 7] = ["if", "input", "output", "export", "timeout", "then", "metadata"];

/// What makes a task, and what stands beside it. `for` comes first: its `do` is its body.
const KINDS: [(&str, &[&str]); 9] = [
    ("for", &["while", "do"]),
    ("do", &[]),
    ("call", &["with"]),
    ("set", &[]),
    ("wait", &[]),
    ("fork", &[]),
    ("switch", &[]),
    ("raise", &[]),
    ("try", &["catch"]),
];

/// Variables of the specification, which no loop and no `catch` may give to something else.
const RESERVED_VARIABLES: [&str; 8] =
    ["context", "input", "output", "task", "workflow", "runtime", "secrets", "authorization"];

/// Where a task stands.
#[derive(Clone, Copy)]
pub(super) struct Position<'v> {
    /// The tasks that a `then` may lead to.
    beside: &'v [&'v str],
    /// How many lists it stands in.
    nesting: usize,
}

impl Checker<'_> {
    /// Reads a list of tasks that stands in `nesting - 1` others.
    pub(super) fn tasks(&mut self, value: &Value, place: &Place, nesting: usize) -> Vec<Task> {
        let names: Vec<&str> = value.as_array().into_iter().flatten().filter_map(name_of).collect();
        self.list(value, place, Position { beside: &names, nesting })
    }

    fn list(&mut self, value: &Value, place: &Place, position: Position<'_>) -> Vec<Task> {
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            self.refuse(place, "This must be a list of tasks.");
            return Vec::new();
        };
        if position.nesting > self.limits.nesting {
            let detail = format!("Tasks are nested at most {} deep.", self.limits.nesting);
            self.refuse(place, detail);
            return Vec::new();
        }
        let mut tasks = Vec::new();
        let mut names = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = place.at(&index);
            self.tasks += 1;
            if self.tasks == self.limits.tasks + 1 {
                let detail = format!("A workflow has at most {} tasks.", self.limits.tasks);
                self.refuse(&place, detail);
            }
            if let Some((name, task, place)) = self.named(item, &place, "task", &mut names) {
                tasks.extend(self.task(name, task, &place, position));
            }
        }
        tasks
    }

    /// An object with one property, whose name is none of `names`: its name, its value and its place.
    fn named<'v>(
        &mut self,
        item: &'v Value,
        place: &Place,
        what: &str,
        names: &mut Vec<&'v str>,
    ) -> Option<(&'v str, &'v Value, Place)> {
        let only = item.as_object().filter(|item| item.len() == 1);
        let Some((name, value)) = only.and_then(|item| item.iter().next()) else {
            let detail = format!("Write one {what} here, as an object with the {what}'s name.");
            self.refuse(place, detail);
            return None;
        };
        let place = place.at(name);
        self.name(name, &place);
        if names.contains(&name.as_str()) {
            self.refuse(&place, format!("There is another {what} `{name}` in this list."));
        }
        names.push(name);
        Some((name, value, place))
    }

    /// Refuses what cannot be a name.
    pub(super) fn name(&mut self, name: &str, place: &Place) {
        if !is_name(name) {
            let detail = "A name is a letter or `_`, then at most 63 letters, digits, `_`, `-`.";
            self.refuse(place, detail);
        }
    }

    fn task(
        &mut self,
        name: &str,
        value: &Value,
        place: &Place,
        position: Position<'_>,
    ) -> Option<Task> {
        let object = self.object(value, place)?;
        let refused = refusals::TASKS.into_iter().find(|kind| object.contains_key(*kind));
        if let Some(kind) = refused {
            self.refuse(&place.at(kind), refusals::task(kind, &object[kind]));
        }
        let mut kinds: Vec<_> =
            KINDS.into_iter().filter(|(kind, _)| object.contains_key(*kind)).collect();
        if kinds.first().is_some_and(|(kind, _)| *kind == "for") {
            kinds.retain(|(kind, _)| *kind != "do");
        }
        let mut known = COMMON.to_vec();
        for (kind, companions) in &kinds {
            known.push(kind);
            known.extend(*companions);
        }
        if refused.is_some() {
            known.extend(refusals::TASKS);
            known.extend(refusals::TASK_PROPERTIES);
        }
        let fields = self.fields(value, place, &known, |_| None)?;

        let condition = self.condition(&fields, "if");
        let input = self.shaping(&fields, "input", "from", Phase::TaskInput);
        let timeout = self.timeout(&fields, Phase::Task);
        let activity = match (&kinds[..], refused) {
            (_, Some(_)) => None,
            ([(kind, _)], None) => self.activity(kind, &fields, position),
            ([], None) => {
                let kinds = KINDS.map(|(kind, _)| kind).join("`, `");
                self.refuse(place, format!("A task has one of `{kinds}`."));
                None
            }
            (several, None) => {
                let kinds: Vec<_> = several.iter().map(|(kind, _)| *kind).collect();
                let detail = format!("A task has only one of `{}`.", kinds.join("`, `"));
                self.refuse(place, detail);
                None
            }
        };
        let output = self.shaping(&fields, "output", "as", Phase::Task);
        let export = self.shaping(&fields, "export", "as", Phase::Export);
        let then = fields.get("then").and_then(|(value, place)| self.then(value, &place, position));
        if let Some((value, place)) = fields.get("metadata") {
            self.object(value, &place);
        }
        Some(Task {
            name: name.to_owned(),
            condition,
            input,
            timeout,
            activity: activity?,
            output,
            export,
            then: then.unwrap_or(Then::Continue),
        })
    }

    fn activity(
        &mut self,
        kind: &str,
        fields: &Fields<'_>,
        position: Position<'_>,
    ) -> Option<Activity> {
        let inner = position.nesting + 1;
        let (value, place) = fields.get(kind)?;
        match kind {
            "do" => Some(Activity::Do(self.tasks(value, &place, inner))),
            "set" => self.set(value, &place).map(Activity::Set),
            "wait" => self.delay(value, &place, Phase::Task).map(Activity::Wait),
            "for" => {
                self.repeat(value, &place, fields, inner).map(|body| Activity::For(Box::new(body)))
            }
            "fork" => self.fork(value, &place, inner).map(Activity::Fork),
            "switch" => self.switch(value, &place, position).map(Activity::Switch),
            "raise" => self.raise(value, &place).map(Activity::Raise),
            "try" => {
                let tasks = self.tasks(value, &place, inner);
                let (catch, place) = self.required(fields, "catch")?;
                let attempt = self.catch(tasks, catch, &place, position, inner)?;
                Some(Activity::Try(Box::new(attempt)))
            }
            _ => match self.string(value, &place)? {
                "http" => {
                    let (arguments, place) = self.required(fields, "with")?;
                    Some(Activity::Call(Box::new(self.http_call(arguments, &place)?)))
                }
                function => {
                    self.refuse(&place, refusals::call(function));
                    None
                }
            },
        }
    }

    fn set(&mut self, value: &Value, place: &Place) -> Option<Template> {
        let is_valid = match value {
            Value::Object(fields) => !fields.is_empty(),
            Value::String(text) => whole_expression(text) != Ok(None),
            _ => false,
        };
        if !is_valid {
            self.refuse(place, "This must be an object with properties or an expression `${ … }`.");
            return None;
        }
        self.template(value, place, Phase::Task)
    }

    /// `for`, with its `while` and `do` beside it in `task`.
    fn repeat(
        &mut self,
        value: &Value,
        place: &Place,
        task: &Fields<'_>,
        nesting: usize,
    ) -> Option<Loop> {
        let fields = self.fields(value, place, &["each", "in", "at"], |_| None)?;
        let items = self.required(&fields, "in").and_then(|(value, place)| match value {
            Value::String(text) => {
                let expression = self.expression(text, &place, Phase::Task)?;
                Some(Template::Expression(Box::new(expression)))
            }
            Value::Array(items) => {
                if items.len() > self.limits.loop_items {
                    let detail = format!("A loop has at most {} items.", self.limits.loop_items);
                    self.refuse(&place, detail);
                }
                self.template(value, &place, Phase::Task)
            }
            _ => {
                self.refuse(&place, "This must be an expression or an array.");
                None
            }
        });
        let each = self.variable(&fields, "each", "item");
        let at = self.variable(&fields, "at", "index");
        if each == at {
            self.refuse(place, "`each` and `at` need different names.");
        }
        self.locals.extend([each.clone(), at.clone()]);
        let condition = self.condition(task, "while");
        let tasks = self
            .required(task, "do")
            .map(|(value, place)| self.tasks(value, &place, nesting))
            .unwrap_or_default();
        self.locals.truncate(self.locals.len() - 2);
        Some(Loop { each, at, items: items?, condition, tasks })
    }

    /// The name of a variable, without `$`.
    pub(super) fn variable(&mut self, fields: &Fields<'_>, key: &str, default: &str) -> String {
        let Some((value, place)) = fields.get(key) else {
            return default.to_owned();
        };
        let Some(name) = self.string(value, &place) else {
            return default.to_owned();
        };
        if !is_name(name) || name.contains('-') {
            let detail = "A variable is a letter or `_`, then at most 63 letters, digits, `_`.";
            self.refuse(&place, detail);
        } else if RESERVED_VARIABLES.contains(&name) {
            self.refuse(&place, format!("`${name}` has a meaning already."));
        }
        name.to_owned()
    }

    fn fork(&mut self, value: &Value, place: &Place, nesting: usize) -> Option<Fork> {
        let fields = self.fields(value, place, &["branches", "compete"], |_| None)?;
        let compete = self.boolean(&fields, "compete");
        let (branches, place) = self.required(&fields, "branches")?;
        if branches.as_array().is_some_and(|items| items.len() > self.limits.branches) {
            let detail = format!("A fork has at most {} branches.", self.limits.branches);
            self.refuse(&place, detail);
        }
        // No branch comes after another one.
        let position = Position { beside: &[], nesting };
        Some(Fork { branches: self.list(branches, &place, position), compete })
    }

    fn switch(
        &mut self,
        value: &Value,
        place: &Place,
        position: Position<'_>,
    ) -> Option<Vec<Case>> {
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            self.refuse(place, "This must be a list of cases.");
            return None;
        };
        let mut cases: Vec<Case> = Vec::new();
        let mut names = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = place.at(&index);
            let Some((_, case, place)) = self.named(item, &place, "case", &mut names) else {
                continue;
            };
            let Some(fields) = self.fields(case, &place, &["when", "then"], |_| None) else {
                continue;
            };
            let when = self.condition(&fields, "when");
            if !fields.object.contains_key("when") && cases.iter().any(|case| case.when.is_none()) {
                self.refuse(&place, "There is another case without `when`.");
            }
            let then = self
                .required(&fields, "then")
                .and_then(|(value, place)| self.then(value, &place, position));
            cases.push(Case { when, then: then.unwrap_or(Then::Continue) });
        }
        Some(cases)
    }

    /// A property that is an expression, with or without `${ }`.
    pub(super) fn condition(&mut self, fields: &Fields<'_>, name: &str) -> Option<Expression> {
        let (value, place) = fields.get(name)?;
        let text = self.string(value, &place)?;
        self.expression(text, &place, Phase::Task)
    }

    /// `timeout`: an object, or the name of one under `use.timeouts`.
    pub(super) fn timeout(&mut self, fields: &Fields<'_>, phase: Phase) -> Option<Arc<Delay>> {
        let (value, place) = fields.get("timeout")?;
        if let Value::String(name) = value {
            let known = self.reusable.timeouts.get(name).cloned();
            return self.known("timeouts", name, known, &place);
        }
        let fields = self.fields(value, &place, &["after"], |_| None)?;
        let (value, place) = self.required(&fields, "after")?;
        self.delay(value, &place, phase).map(Arc::new)
    }

    pub(super) fn delay(&mut self, value: &Value, place: &Place, phase: Phase) -> Option<Delay> {
        let length = match value {
            Value::Object(object) => duration::from_object(object).map_err(|(property, detail)| {
                (property.map_or_else(|| place.clone(), |name| place.at(&name)), detail)
            }),
            Value::String(text) if text.contains("${") => {
                return self.expression(text, place, phase).map(Delay::Computed);
            }
            Value::String(text) => duration::parse_iso8601(text).ok_or_else(|| {
                (place.clone(), "Write a duration without years and months, e.g. `PT5M`.")
            }),
            _ => {
                Err((place.clone(), "This must be a duration, e.g. `{\"minutes\": 5}` or `PT5M`."))
            }
        };
        match length {
            Ok(length) if length > self.limits.max_deadline => {
                self.refuse(place, "This is longer than any job may last.");
                None
            }
            Ok(length) => Some(Delay::Fixed(length)),
            Err((place, detail)) => {
                self.refuse(&place, detail);
                None
            }
        }
    }

    pub(super) fn then(
        &mut self,
        value: &Value,
        place: &Place,
        position: Position<'_>,
    ) -> Option<Then> {
        let name = match self.string(value, place)? {
            "continue" => return Some(Then::Continue),
            "exit" => return Some(Then::Exit),
            "end" => return Some(Then::End),
            name => name,
        };
        let index = position.beside.iter().position(|each| *each == name);
        if index.is_none() {
            let detail = format!("There is no task `{name}` beside this one.");
            self.refuse(place, detail);
        }
        index.map(Then::Task)
    }
}

/// The name of the task in an item of a list.
fn name_of(item: &Value) -> Option<&str> {
    item.as_object()?.keys().next().map(String::as_str)
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && text.len() <= 64
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}
