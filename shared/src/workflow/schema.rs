//! JSON Schemas of documents: `input.schema`, `output.schema`, `export.schema`.
//!
//! A schema comes from anybody, so what it costs is bounded before it runs: it refers to nothing outside
//! of itself and never to itself, its patterns run in linear time, and the product of its size, references
//! written out, and the size of the data is limited.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use super::parse::push_token;

/// How many values a schema may consist of, each as often as it is referred to.
const PARTS: usize = 10_000;

/// How many parts of a schema times values of the data one validation may look at.
const WORK: usize = 20_000_000;

/// Bytes of one compiled pattern.
const PATTERN_BYTES: usize = 200 * 1024;

/// How many patterns a schema has, each as often as it is referred to.
const PATTERNS: usize = 50;

/// How deep a schema is, references written out: what reads and runs it is recursive.
const DEPTH: usize = 160;

/// The one dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords whose cost grows with each level they stand in, or whose target is found only at run time.
const UNBOUNDED: [&str; 6] = [
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$vocabulary",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    parts: usize,
}

impl Schema {
    /// Compiles `schema`.
    ///
    /// # Errors
    /// Where in the schema something is wrong, as a JSON Pointer, and a sentence about it.
    pub(super) fn compile(schema: &Value) -> Result<Self, (String, String)> {
        let mut survey =
            Survey { root: schema, parts: 0, patterns: 0, depth: 0, references: Vec::new() };
        survey.visit(schema, &mut String::new())?;
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES))
            .should_validate_formats(false)
            .build(schema)
            .map_err(|error| {
                let why: String = error.to_string().chars().take(300).collect();
                (error.instance_path().to_string(), format!("This is not a valid schema: {why}."))
            })?;
        Ok(Self { validator, parts: survey.parts })
    }

    /// Validates `data`; the error is a sentence, without any of the data.
    pub(super) fn validate(&self, data: &Value) -> Result<(), String> {
        if self.parts.saturating_mul(weight(data)) > WORK {
            return Err("The data is too large to be validated against this schema.".to_owned());
        }
        if self.validator.is_valid(data) {
            return Ok(());
        }
        match self.validator.validate(data) {
            Ok(()) => Ok(()),
            Err(error) => {
                let why: String = error.masked().to_string().chars().take(300).collect();
                Err(format!(
                    "The data does not match its schema at `{}`: {why}",
                    error.instance_path()
                ))
            }
        }
    }
}

/// How many values `data` consists of; long texts count several times.
fn weight(data: &Value) -> usize {
    match data {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => 1 + text.len() / 32,
        Value::Array(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Object(fields) => {
            1 + fields.iter().map(|(key, field)| 1 + key.len() / 32 + weight(field)).sum::<usize>()
        }
    }
}

/// Adds up what a schema costs.
struct Survey<'s> {
    root: &'s Value,
    parts: usize,
    patterns: usize,
    depth: usize,
    /// The references that are being followed.
    references: Vec<&'s str>,
}

impl<'s> Survey<'s> {
    fn visit(&mut self, value: &'s Value, pointer: &mut String) -> Result<(), (String, String)> {
        self.parts += 1;
        if self.parts > PARTS {
            let detail = format!("A schema has at most {PARTS} parts, references written out.");
            return Err((String::new(), detail));
        }
        if self.depth >= DEPTH {
            let detail =
                format!("A schema is at most {DEPTH} levels deep, references written out.");
            return Err((pointer.clone(), detail));
        }
        self.depth += 1;
        let here = pointer.len();
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    push_token(pointer, &index.to_string());
                    self.visit(item, pointer)?;
                    pointer.truncate(here);
                }
            }
            Value::Object(fields) => {
                for (key, field) in fields {
                    push_token(pointer, key);
                    self.keyword(key, field, pointer)?;
                    self.visit(field, pointer)?;
                    pointer.truncate(here);
                }
            }
            _ => {}
        }
        self.depth -= 1;
        Ok(())
    }

    fn keyword(
        &mut self,
        key: &str,
        value: &'s Value,
        pointer: &str,
    ) -> Result<(), (String, String)> {
        let refuse = |pointer: &str, detail: String| Err((pointer.to_owned(), detail));
        match (key, value) {
            ("$ref", Value::String(reference)) => self.follow(reference, pointer),
            ("$schema", Value::String(dialect)) if dialect.trim_end_matches('#') != DIALECT => {
                refuse(pointer, format!("Only JSON Schema 2020-12 is supported, `{DIALECT}`."))
            }
            // It would change what `#` means below it.
            ("$id", Value::String(_)) if pointer != "/$id" => {
                refuse(pointer, "Only the whole schema can have an `$id`.".to_owned())
            }
            (keyword, _) if UNBOUNDED.contains(&keyword) => {
                refuse(pointer, format!("`{keyword}` is not supported."))
            }
            ("pattern", Value::String(_)) => self.patterns(1, pointer),
            ("patternProperties", Value::Object(fields)) => self.patterns(fields.len(), pointer),
            _ => Ok(()),
        }
    }

    fn patterns(&mut self, count: usize, pointer: &str) -> Result<(), (String, String)> {
        self.patterns += count;
        if self.patterns > PATTERNS {
            let detail = format!("A schema has at most {PATTERNS} patterns.");
            return Err((pointer.to_owned(), detail));
        }
        Ok(())
    }

    fn follow(&mut self, reference: &'s str, pointer: &str) -> Result<(), (String, String)> {
        let refuse = |pointer: &str, detail: String| Err((pointer.to_owned(), detail));
        let target = reference
            .strip_prefix('#')
            .filter(|path| path.is_empty() || path.starts_with('/'))
            .filter(|path| !path.contains('%'));
        let Some(target) = target else {
            return refuse(pointer, "Definitions are never fetched from elsewhere.".to_owned());
        };
        if target.is_empty() || self.references.contains(&reference) {
            return refuse(pointer, "A schema cannot refer to itself.".to_owned());
        }
        let Some(value) = self.root.pointer(target) else {
            return refuse(pointer, format!("There is nothing at `{reference}`."));
        };
        self.references.push(reference);
        let followed = self.visit(value, &mut target.to_owned());
        self.references.pop();
        followed
    }
}
