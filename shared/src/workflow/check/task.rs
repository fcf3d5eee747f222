//! Lists of tasks, and what all tasks have.

use serde_json::Value;

use super::{Checker, Fields, Phase, Place, refusals};
use crate::workflow::{
    document::{Activity, Delay, Task, Then},
    duration,
    expressions::{Template, whole_expression},
};

/// What every task may have.
const COMMON: [&str; 6] = ["if", "input", "output", "export", "then", "metadata"];
/// What makes a task.
const KINDS: [&str; 4] = ["do", "call", "set", "wait"];

impl Checker<'_> {
    /// Reads a list of tasks that stands in `nesting - 1` others.
    pub(super) fn tasks(&mut self, value: &Value, place: &Place, nesting: usize) -> Vec<Task> {
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            self.refuse(place, "This must be a list of tasks.");
            return Vec::new();
        };
        if nesting > self.limits.nesting {
            let detail = format!("Tasks are nested at most {} deep.", self.limits.nesting);
            self.refuse(place, detail);
            return Vec::new();
        }
        let names: Vec<&str> = items.iter().filter_map(name).collect();
        let mut tasks = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = place.at(&index);
            self.tasks += 1;
            if self.tasks == self.limits.tasks + 1 {
                let detail = format!("A workflow has at most {} tasks.", self.limits.tasks);
                self.refuse(&place, detail);
            }
            let Some((name, task)) = item.as_object().and_then(|item| match item.len() {
                1 => item.iter().next(),
                _ => None,
            }) else {
                self.refuse(&place, "Write one task here, as an object with the task's name.");
                continue;
            };
            let place = place.at(name);
            if !is_name(name) {
                self.refuse(
                    &place,
                    "A name is a letter or `_`, then at most 63 letters, digits, `_`, `-`.",
                );
            }
            if names.iter().position(|each| each == name) != Some(index)
                && names.len() == items.len()
            {
                self.refuse(&place, format!("There is another task `{name}` in this list."));
            }
            tasks.extend(self.task(name, task, &place, &names, nesting));
        }
        tasks
    }

    fn task(
        &mut self,
        name: &str,
        value: &Value,
        place: &Place,
        beside: &[&str],
        nesting: usize,
    ) -> Option<Task> {
        let object = self.object(value, place)?;
        let refused = refusals::TASKS.into_iter().find(|kind| object.contains_key(*kind));
        if let Some(kind) = refused {
            self.refuse(&place.at(kind), refusals::task(kind, &object[kind]));
        }
        let is_companion = |name: &str| {
            refused.is_some()
                && (refusals::TASK_PROPERTIES.contains(&name) || refusals::TASKS.contains(&name))
        };
        let mut known = [&COMMON[..], &KINDS[..], &["with"]].concat();
        known.extend(object.keys().map(String::as_str).filter(|name| is_companion(name)));
        if object.contains_key("wait") || object.contains_key("do") || object.contains_key("set") {
            known.retain(|name| *name != "with");
        }
        let fields = self.fields(value, place, &known, |name| {
            (name == "timeout").then(|| refusals::not_yet(name))
        })?;

        let condition = fields.get("if").and_then(|(value, place)| {
            let text = self.string(value, &place)?;
            self.expression(text, &place, Phase::Task)
        });
        let input_from = self.filter(&fields, "input", "from", Phase::TaskInput);
        let activity = if refused.is_some() { None } else { self.activity(&fields, nesting) };
        let output_as = self.filter(&fields, "output", "as", Phase::Task);
        let export_as = self.filter(&fields, "export", "as", Phase::Export);
        let then = fields
            .get("then")
            .map_or(Then::Continue, |(value, place)| self.then(value, &place, beside));
        if let Some((value, place)) = fields.get("metadata") {
            self.object(value, &place);
        }
        let name = name.to_owned();
        Some(Task { name, condition, input_from, activity: activity?, output_as, export_as, then })
    }

    fn activity(&mut self, fields: &Fields, nesting: usize) -> Option<Activity> {
        let kinds: Vec<_> =
            KINDS.into_iter().filter(|kind| fields.object.contains_key(*kind)).collect();
        let [kind] = kinds[..] else {
            let detail = match kinds[..] {
                [] => format!("A task has one of `{}`.", KINDS.join("`, `")),
                _ => format!("A task has only one of `{}`.", kinds.join("`, `")),
            };
            self.refuse(&fields.place, detail);
            return None;
        };
        let (value, place) = fields.get(kind)?;
        match kind {
            "do" => Some(Activity::Do(self.tasks(value, &place, nesting + 1))),
            "set" => self.set(value, &place).map(Activity::Set),
            "wait" => self.delay(value, &place).map(Activity::Wait),
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

    fn delay(&mut self, value: &Value, place: &Place) -> Option<Delay> {
        let length = match value {
            Value::Object(object) => duration::from_object(object).map_err(|(property, detail)| {
                (property.map_or_else(|| place.clone(), |name| place.at(&name)), detail)
            }),
            Value::String(text) if text.contains("${") => {
                return self.expression(text, place, Phase::Task).map(Delay::Computed);
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

    fn then(&mut self, value: &Value, place: &Place, beside: &[&str]) -> Then {
        let name = match self.string(value, place) {
            None | Some("continue") => return Then::Continue,
            Some("exit") => return Then::Exit,
            Some("end") => return Then::End,
            Some(name) => name,
        };
        let index = beside.iter().position(|each| *each == name);
        if index.is_none() {
            let detail = format!("There is no task `{name}` beside this one.");
            self.refuse(place, detail);
        }
        index.map_or(Then::Continue, Then::Task)
    }
}

/// The name of the task in an item of a list.
fn name(item: &Value) -> Option<&str> {
    item.as_object()?.keys().next().map(String::as_str)
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && text.len() <= 64
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}
