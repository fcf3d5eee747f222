//! Every answer that a story gets is compared with what the OpenAPI document says of it.

use std::sync::LazyLock;

use errand_shared::workflow::parse::parse_yaml;
use serde_json::{Value, json};

use crate::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    parse_yaml(include_str!("../../api/openapi.yaml")).expect("the document is YAML")
});

/// Fails unless the document knows this answer to this request: its status, its headers, its body.
///
/// An address that it does not know has to be answered by 404, a method by 405.
#[track_caller]
pub(crate) fn assert_documented(method: &str, path: &str, answer: &Answer) {
    let what = format!("{method} {path}: {} {}", answer.status, answer.text);
    let Some(item) = item_of(path) else {
        assert_eq!(answer.status, 404, "an address that is not documented: {what}");
        return;
    };
    let operation = &item[method.to_lowercase()];
    if !operation.is_object() {
        let expected = if method == "HEAD" { answer.status } else { 405 };
        assert_eq!(answer.status, expected, "a method that is not documented: {what}");
        return;
    }
    let response = resolve(&operation["responses"][answer.status.to_string()]);
    assert!(response.is_object(), "a status that is not documented: {what}");
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let header = resolve(header);
        let value = answer.headers.get(name);
        assert!(value.is_some() || header["required"] != true, "no `{name}`: {what}");
        if let Some(expected) = header["schema"]["const"].as_str()
            && let Some(value) = value
        {
            assert_eq!(value, expected, "`{name}`: {what}");
        }
    }
    let Some(content) = response["content"].as_object() else {
        assert_eq!(answer.text, "", "a body that is not documented: {what}");
        return;
    };
    let media_type = answer.header("content-type").split(';').next().unwrap_or_default();
    let Some(body) = content.get(media_type) else {
        panic!("`{media_type}` is not documented: {what}");
    };
    if media_type.ends_with("json") {
        assert_valid(&body["schema"], &answer.body, &what);
    }
}

#[track_caller]
fn assert_valid(schema: &Value, body: &Value, what: &str) {
    let schema = json!({ "allOf": [schema], "components": DOCUMENT["components"] });
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .build(&schema)
        .expect("the document's schemas are JSON Schemas");
    let errors: Vec<String> = validator
        .iter_errors(body)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}\n{what}", errors.join("\n"));
}

/// What stands under the address: one without placeholders goes before one with them.
fn item_of(path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or_default();
    let paths = DOCUMENT["paths"].as_object().expect("a document has paths");
    let matching = |(template, _): &(&String, &Value)| {
        let (mut wanted, mut given) = (template.split('/'), path.split('/'));
        let same = wanted.by_ref().zip(given.by_ref()).all(|(wanted, given)| {
            wanted == given || (wanted.starts_with('{') && !given.is_empty())
        });
        same && template.split('/').count() == path.split('/').count()
    };
    let exact = paths.get(path);
    exact.or_else(|| paths.iter().find(matching).map(|(_, item)| item))
}

fn resolve(value: &'static Value) -> &'static Value {
    let reference = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    reference.and_then(|pointer| DOCUMENT.pointer(pointer)).unwrap_or(value)
}
