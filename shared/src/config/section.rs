//! Reads one table key by key: what is there is parsed, what is wrong is reported, and what nobody
//! asked for is unknown.
//!
//! Every method answers `None` both for an absent key and for a wrong one. That is safe because a
//! wrong one is in the [`Report`], with which no configuration comes into being.

use std::{
    cell::RefCell, collections::BTreeMap, fmt::Display, ops::RangeInclusive, time::Duration,
};

use serde_json::Value;

use super::{
    node::{Content, Node, Origin},
    report::Report,
    spelling::{Spelling, same_key},
};

/// A table of the configuration, possibly absent.
pub(super) struct Section<'a> {
    pub(super) report: &'a Report,
    node: Option<&'a Node>,
    /// As its user writes it.
    path: Vec<String>,
    /// Where a missing key would be added; `None` if there is no file.
    file: Option<&'a str>,
    /// Keys asked for: all that are known.
    known: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    /// Returns the table at the top.
    pub(super) fn root(root: &'a Node, file: Option<&'a str>, report: &'a Report) -> Self {
        let path = root.path.clone();
        Self { report, node: Some(root), path, file, known: RefCell::default() }
    }

    /// Returns the table `key`.
    pub(super) fn section(&self, key: &str) -> Self {
        let node = self.get(key);
        self.below(node, node.map_or_else(|| self.path_of(key), |node| node.path.clone()))
    }

    /// Returns the tables in the table `key`, by the names that the user chose.
    pub(super) fn named_sections(&self, key: &str) -> Vec<(String, Self)> {
        let tables = self.section(key);
        let Some(table) = tables.table() else {
            return Vec::new();
        };
        table
            .iter()
            .map(|(name, node)| (name.clone(), self.below(Some(node), node.path.clone())))
            .collect()
    }

    /// Returns the tables in the list `key`.
    pub(super) fn listed_sections(&self, key: &str) -> Vec<Self> {
        let Some(node) = self.get(key) else {
            return Vec::new();
        };
        let Some(items) = node.items() else {
            self.report.problem(node, "expected a list of tables");
            return Vec::new();
        };
        items.into_iter().map(|item| self.below(Some(item), item.path.clone())).collect()
    }

    fn below(&self, node: Option<&'a Node>, path: Vec<String>) -> Self {
        let section = Self { node, path, known: RefCell::default(), ..*self };
        if let (Some(node), None) = (node, section.table()) {
            self.report.problem(node, "expected a table of keys");
        }
        section
    }

    /// Returns the node of `key` as it stands.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key.to_owned());
        let spelling = self.report.spelling;
        self.table()?.iter().find(|(written, _)| spelling.is(written, key)).map(|(_, node)| node)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let node = self.get(key)?;
        let value = match &node.content {
            Content::Scalar(Value::Bool(value)) => Some(*value),
            _ => self.untyped(node).and_then(|text| text.to_ascii_lowercase().parse().ok()),
        };
        self.expect(node, value, "`true` or `false`")
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(&self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let node = self.get(key)?;
        let value = match &node.content {
            Content::Scalar(Value::Number(number)) => number.as_u64(),
            _ => self.untyped(node).and_then(|text| text.parse().ok()),
        };
        let value = value.and_then(|value| T::try_from(value).ok());
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.expect(node, value.filter(|value| range.contains(value)), &expected)
    }

    /// A whole number within `range`, by default `default`; none for -1, which stands for "for ever".
    pub(super) fn number_or_for_ever(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> Option<u32> {
        let Some(node) = self.get(key) else { return Some(default) };
        let value: Option<i64> = match &node.content {
            Content::Scalar(Value::Number(number)) => number.as_i64(),
            _ => self.untyped(node).and_then(|text| text.parse().ok()),
        };
        if value == Some(-1) {
            return None;
        }
        let value = value.and_then(|value| u32::try_from(value).ok());
        let expected =
            format!("a whole number from {} to {}, or -1: for ever", range.start(), range.end());
        self.expect(node, value.filter(|value| range.contains(value)), &expected)
    }

    /// A number of seconds within `range`, fractions allowed.
    pub(super) fn seconds(&self, key: &str, range: RangeInclusive<u32>) -> Option<Duration> {
        let node = self.get(key)?;
        let value = match &node.content {
            Content::Scalar(Value::Number(number)) => number.as_f64(),
            _ => self.untyped(node).and_then(|text| text.parse().ok()),
        };
        let bounds = f64::from(*range.start())..=f64::from(*range.end());
        let value = value.filter(|value| bounds.contains(value));
        let expected = format!("a number of seconds from {} to {}", range.start(), range.end());
        self.expect(
            node,
            value.and_then(|value| Duration::try_from_secs_f64(value).ok()),
            &expected,
        )
    }

    /// Text, without blanks around it; `None` too if it is empty, which stands for "not set".
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        let node = self.get(key)?;
        let value = match &node.content {
            Content::Scalar(Value::String(text)) => Some(text.trim()),
            _ => None,
        };
        self.expect(node, value, "a string").filter(|text| !text.is_empty())
    }

    /// Text that `parse` understands; `expected` says what that is.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(key)?;
        self.expect(self.get(key)?, parse(text), expected)
    }

    /// A list of strings. Where everything is text: separated by commas or blanks.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<String>> {
        let node = self.get(key)?;
        let texts = match node.items() {
            Some(items) => items.into_iter().map(string).collect(),
            None => self.untyped(node).map(|text| {
                let words = text.split([',', ' ', '\t', '\n', '\r']);
                words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
            }),
        };
        let texts = texts.filter(|texts: &Vec<_>| texts.iter().all(|text| !text.is_empty()));
        self.expect(node, texts, "a list of strings, none of them empty")
    }

    /// A list of strings each of which `parse` understands; `expected` says what that is.
    pub(super) fn parsed_texts<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let texts = self.texts(key)?;
        let parsed = texts.iter().map(|text| parse(text)).collect();
        self.expect(self.get(key)?, parsed, &format!("a list, each {expected}"))
    }

    /// A table of strings by names that the user chooses.
    pub(super) fn text_table(&self, key: &str) -> BTreeMap<String, String> {
        let tables = self.section(key);
        let Some(table) = tables.table() else {
            return BTreeMap::new();
        };
        let texts = table.iter().filter_map(|(name, node)| {
            Some((name.clone(), self.expect(node, string(node), "a string")?))
        });
        texts.collect()
    }

    /// Reports `key`, present or not.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        match self.get(key) {
            Some(node) => self.report.problem(node, message),
            None => self.missing(key, message.into()),
        }
    }

    /// Reports the table as a whole.
    pub(super) fn problem_of_itself(&self, message: impl Into<String>) {
        if let Some(node) = self.node {
            self.report.problem(node, message);
        }
    }

    /// Returns `value`, and reports `key` if there is none because nothing is set there.
    pub(super) fn required<T>(&self, key: &str, value: Option<T>, what: &str) -> Option<T> {
        let empty = |node: &Node| match &node.content {
            Content::Scalar(Value::String(text)) => text.trim().is_empty(),
            Content::List(items) => items.is_empty(),
            Content::Scalar(_) | Content::Table(_) => false,
        };
        if value.is_none() && self.get(key).is_none_or(empty) {
            self.problem(key, format!("is required: {what}"));
        }
        value
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        let spelling = self.report.spelling;
        for (written, node) in self.table().into_iter().flatten() {
            if known.iter().any(|key| spelling.is(written, key)) {
                continue;
            }
            if self.may_be_of_other_programs(node) {
                self.report.ignored(node, "Errand knows no such key");
                continue;
            }
            let message = match nearest(written, &known) {
                Some(key) => format!("unknown key; did you mean `{}`?", spelling.key(key)),
                None => "unknown key".to_owned(),
            };
            self.report.problem(node, message);
        }
    }

    /// Is `node` in a section that Errand shares, and not in a variable of Errand's own?
    fn may_be_of_other_programs(&self, node: &Node) -> bool {
        let own_variable = matches!(&node.origin, Origin::Variable(name)
            if name.to_ascii_uppercase().starts_with("ERRAND__"));
        self.report.spelling == Spelling::Microsoft
            && self.path.first().is_some_and(|first| !same_key(first, "Errand"))
            && !own_variable
    }

    fn missing(&self, key: &str, message: String) {
        let path = self.path_of(key);
        match (self.node, self.file) {
            (Some(node), Some(_)) => self.report.problem_at(node.origin.name(), &path, message),
            (None, Some(file)) => self.report.problem_at(file, &path, message),
            (_, None) => {
                let variable = format!("ERRAND__{}", path.join("__").to_uppercase());
                self.report.problem_at(&variable, &path, message);
            }
        }
    }

    fn table(&self) -> Option<&'a BTreeMap<String, Node>> {
        match &self.node?.content {
            Content::Table(table) => Some(table),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    fn path_of(&self, key: &str) -> Vec<String> {
        self.path.iter().cloned().chain([self.report.spelling.key(key)]).collect()
    }

    /// The text of a value whose type is not said by its form: in a variable, and in JSON as .NET
    /// reads it.
    fn untyped(&self, node: &'a Node) -> Option<&'a str> {
        let untyped = self.report.spelling == Spelling::Microsoft
            || matches!(node.origin, Origin::Variable(_));
        match &node.content {
            Content::Scalar(Value::String(text)) if untyped => Some(text.trim()),
            _ => None,
        }
    }

    fn expect<T>(&self, node: &Node, value: Option<T>, expected: &str) -> Option<T> {
        if value.is_none() {
            self.report.problem(node, format!("expected {expected}"));
        }
        value
    }
}

fn string(node: &Node) -> Option<String> {
    match &node.content {
        Content::Scalar(Value::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The known key that `written` is most likely a slip of.
fn nearest<'a>(written: &str, known: &'a [String]) -> Option<&'a String> {
    if let Some(key) = known.iter().find(|key| same_key(key, written)) {
        return Some(key);
    }
    let distance = |key: &&String| strsim::osa_distance(key, &written.to_ascii_lowercase());
    let nearest = known.iter().min_by_key(distance)?;
    (distance(&nearest) <= 1 + nearest.len() / 5).then_some(nearest)
}
