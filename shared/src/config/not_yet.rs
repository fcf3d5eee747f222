//! Keys that exist in the configuration but not in this version, or not in this dialect: refused by
//! name unless they are empty.

use serde_json::Value;

use super::{
    node::{Content, Node},
    section::Section,
};

impl Section<'_> {
    /// Refuses `key` unless it is absent or empty.
    pub(super) fn refuse(&self, key: &str) {
        if self.get(key).is_some_and(|node| !is_empty(node)) {
            let key_name = self.report.spelling.key(key);
            self.problem(key, format!("`{key_name}` is not supported yet"));
        }
    }

    /// Refuses `key`, which only the other dialect knows, unless it is absent or empty.
    pub(super) fn only_of_dialect(&self, key: &str, dialect: &str) {
        if self.get(key).is_some_and(|node| !is_empty(node)) {
            self.problem(key, format!("only with `dialect = \"{dialect}\"`"));
        }
    }
}

fn is_empty(node: &Node) -> bool {
    match &node.content {
        Content::Scalar(Value::String(text)) => text.trim().is_empty(),
        Content::List(items) => items.is_empty(),
        Content::Scalar(_) | Content::Table(_) => false,
    }
}
