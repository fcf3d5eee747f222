//! A configuration as a tree in which every value knows where it was written.

use std::{collections::BTreeMap, rc::Rc};

use serde_json::Value;

/// Where a value was written.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the configuration file.
    File(Rc<str>),
    /// In this environment variable, where everything is text.
    Variable(Rc<str>),
}

impl Origin {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::File(name) | Self::Variable(name) => name,
        }
    }
}

/// A value, where it was written and under which keys. Has no `Debug`: it may be a secret.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) content: Content,
    pub(super) origin: Origin,
    /// As written: `["AzureAd", "ClientId"]`.
    pub(super) path: Vec<String>,
}

#[derive(Clone)]
pub(super) enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    /// Spreads `value` out. A JSON null is no value at all, as in .NET.
    pub(super) fn new(value: Value, origin: &Origin, path: Vec<String>) -> Self {
        let below = |key: &str, value| {
            let path = path.iter().cloned().chain([key.to_owned()]).collect();
            Self::new(value, origin, path)
        };
        let content = match value {
            Value::Object(members) => Content::Table(
                members
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| (key.clone(), below(&key, value)))
                    .collect(),
            ),
            Value::Array(items) => Content::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| below(&index.to_string(), item))
                    .collect(),
            ),
            scalar => Content::Scalar(scalar),
        };
        Self { content, origin: origin.clone(), path }
    }

    /// Returns a table without keys.
    pub(super) fn empty_table(origin: &Origin, path: Vec<String>) -> Self {
        Self { content: Content::Table(BTreeMap::new()), origin: origin.clone(), path }
    }

    /// The items of a list, or of a table whose keys are all numbers, which is how a list looks
    /// after an environment variable has set one item of it.
    pub(super) fn items(&self) -> Option<Vec<&Self>> {
        match &self.content {
            Content::List(items) => Some(items.iter().collect()),
            Content::Table(table) => {
                let mut numbered = table
                    .iter()
                    .map(|(key, node)| Some((key.parse::<u32>().ok()?, node)))
                    .collect::<Option<Vec<_>>>()?;
                numbered.sort_by_key(|(number, _)| *number);
                Some(numbered.into_iter().map(|(_, node)| node).collect())
            }
            Content::Scalar(_) => None,
        }
    }
}
