//! Lays environment variables over the tree of a file.
//!
//! `ERRAND__SECTION__KEY` in any case; lists item by item (`…__0`), as JSON or comma-separated. With
//! a JSON file also .NET's `AzureAd__KEY` and `DownstreamApis__NAME__KEY`.

use std::{collections::BTreeMap, mem};

use serde_json::Value;

use super::{
    node::{Content, Node, Origin},
    spelling::same_key,
};

/// Returns this process's environment in the form [`Config::load`](super::Config::load) takes.
///
/// What is not UTF-8 arrives with replacement characters, so that a broken value is noticed where
/// it is used.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
}

/// A variable that sets a key.
pub(super) struct Variable {
    name: String,
    keys: Vec<String>,
    value: String,
}

/// Variables in Errand's spelling, those that .NET would lay over an `appsettings.json`, and those
/// that belong to nobody's configuration.
pub(super) struct Variables {
    pub(super) errand: Vec<Variable>,
    pub(super) microsoft: Vec<Variable>,
    pub(super) platform: Platform,
}

/// What Azure tells the programs that run there. Has no `Debug`: one of them is a secret.
#[derive(Default)]
pub(super) struct Platform {
    /// `IDENTITY_ENDPOINT` of App Service: where tokens of a managed identity are got.
    pub(super) identity_endpoint: Option<String>,
    /// `IDENTITY_HEADER` of App Service: the secret that such a request has to show.
    pub(super) identity_header: Option<String>,
    /// `AZURE_FEDERATED_TOKEN_FILE` of Microsoft Entra Workload ID (AKS).
    pub(super) federated_token_file: Option<String>,
}

impl Platform {
    fn note(&mut self, name: &str, value: String) {
        let known = match name {
            "IDENTITY_ENDPOINT" => &mut self.identity_endpoint,
            "IDENTITY_HEADER" => &mut self.identity_header,
            "AZURE_FEDERATED_TOKEN_FILE" => &mut self.federated_token_file,
            _ => return,
        };
        *known = Some(value).filter(|value| !value.trim().is_empty());
    }
}

impl Variables {
    /// Picks out the variables that are configuration, in the order of their names.
    pub(super) fn from_environment(
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut variables =
            Self { errand: Vec::new(), microsoft: Vec::new(), platform: Platform::default() };
        for (name, value) in environment.into_iter().collect::<BTreeMap<_, _>>() {
            let keys: Vec<_> = name.split("__").map(str::to_owned).collect();
            match keys.as_slice() {
                [first, _, ..] if first.eq_ignore_ascii_case("ERRAND") => {
                    let keys = keys[1..].to_vec();
                    variables.errand.push(Variable { name, keys, value });
                }
                [first, _, ..]
                    if ["AzureAd", "DownstreamApis"].iter().any(|s| same_key(s, first)) =>
                {
                    variables.microsoft.push(Variable { name, keys, value });
                }
                _ => variables.platform.note(&name, value),
            }
        }
        variables
    }
}

/// Sets in `root` what `variables` say.
pub(super) fn overlay(root: &mut Node, variables: Vec<Variable>) {
    for Variable { name, keys, value } in variables {
        let origin = Origin::Variable(name.into());
        let value = structured(&value).unwrap_or(Value::String(value));
        set(root, &keys, value, &origin);
    }
}

/// A list or a table, if the text of a variable is JSON of one.
fn structured(text: &str) -> Option<Value> {
    text.starts_with(['[', '{']).then(|| serde_json::from_str(text).ok())?
}

fn set(node: &mut Node, keys: &[String], value: Value, origin: &Origin) {
    let Some((key, rest)) = keys.split_first() else {
        *node = Node::new(value, origin, mem::take(&mut node.path));
        return;
    };
    let names = holds_names(&node.path);
    let mut table = into_table(mem::replace(&mut node.content, Content::List(Vec::new())));
    let is_key = |written: &&String| {
        if names { written.eq_ignore_ascii_case(key) } else { same_key(written, key) }
    };
    let new_key = || {
        if names { key.clone() } else { key.to_ascii_lowercase() }
    };
    let written = table.keys().find(is_key).cloned().unwrap_or_else(new_key);
    let path = node.path.iter().cloned().chain([written.clone()]).collect();
    let child = table.entry(written).or_insert_with(|| Node::empty_table(origin, path));
    set(child, rest, value, origin);
    node.content = Content::Table(table);
}

/// Are the keys of this table names that users choose, rather than Errand's?
fn holds_names(path: &[String]) -> bool {
    path.last().is_some_and(|key| {
        same_key(key, "downstream_apis") || same_key(key, "extra_token_parameters")
    })
}

/// A list becomes a table of its indices; a scalar gives way.
fn into_table(content: Content) -> BTreeMap<String, Node> {
    match content {
        Content::Table(table) => table,
        Content::List(items) => {
            let numbered = items.into_iter().enumerate();
            numbered.map(|(index, item)| (index.to_string(), item)).collect()
        }
        Content::Scalar(_) => BTreeMap::new(),
    }
}
