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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(schema: &Value) -> (String, String) {
        Schema::compile(schema).map(|_| schema).unwrap_err()
    }

    #[test]
    fn data_is_validated_without_being_told() {
        let schema = json!({
            "type": "object", "properties": { "a": { "$ref": "#/$defs/name" } },
            "$defs": { "name": { "type": "string", "pattern": "^[a-z]+$" } }
        });
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.validate(&json!({ "a": "x" })), Ok(()));
        let error = schema.validate(&json!({ "a": "SECRET" })).unwrap_err();
        assert!(error.contains("`/a`") && !error.contains("SECRET"), "{error}");
        let boolean = Schema::compile(&json!(false)).unwrap();
        assert!(boolean.validate(&json!(1)).is_err());
    }

    #[test]
    fn nothing_is_fetched_and_nothing_refers_to_itself() {
        let elsewhere = "Definitions are never fetched from elsewhere.";
        for reference in
            ["https://x.example/a.json", "file:///etc/passwd", "a.json", "#anchor", "#/%24defs/a"]
        {
            let schema = json!({ "items": { "$ref": reference }, "$defs": { "a": {} } });
            assert_eq!(refusal(&schema), ("/items/$ref".to_owned(), elsewhere.to_owned()));
        }
        let itself = "A schema cannot refer to itself.";
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } }),
            json!({ "properties": { "a": { "$ref": "#/properties" } } }),
        ] {
            assert_eq!(refusal(&schema).1, itself);
        }
        assert_eq!(refusal(&json!({ "$ref": "#/$defs/a" })).1, "There is nothing at `#/$defs/a`.");
    }

    #[test]
    fn other_dialects_and_keywords_without_bound_are_refused() {
        let old = json!({ "$schema": "http://json-schema.org/draft-07/schema#" });
        assert_eq!(refusal(&old).0, "/$schema");
        assert!(
            Schema::compile(&json!({ "$schema": DIALECT, "$id": "https://x.example" })).is_ok()
        );
        assert_eq!(refusal(&json!({ "items": { "$id": "https://x.example" } })).0, "/items/$id");
        for keyword in UNBOUNDED {
            let schema = json!({ "allOf": [{ (keyword): "#" }] });
            assert_eq!(refusal(&schema).0, format!("/allOf/0/{keyword}"));
        }
        assert_eq!(refusal(&json!({ "type": "thing" })).0, "/type");
        assert!(Schema::compile(&json!({ "pattern": "(a)\\1" })).is_err());
    }

    #[test]
    fn bombs_are_refused() {
        // 2^60 evaluations.
        let mut definitions = serde_json::Map::new();
        for level in 0..60 {
            let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
            definitions.insert(format!("d{level}"), json!({ "allOf": [next, next] }));
        }
        definitions.insert("d60".to_owned(), json!({ "type": "string" }));
        let bomb = json!({ "$ref": "#/$defs/d0", "$defs": definitions });
        assert!(Schema::compile(&bomb).is_err());
        // A chain that would overflow the stack.
        let chain: serde_json::Map<_, _> = (0..3_000)
            .map(|level| {
                (format!("d{level}"), json!({ "$ref": format!("#/$defs/d{}", level + 1) }))
            })
            .collect();
        assert!(Schema::compile(&json!({ "$ref": "#/$defs/d0", "$defs": chain })).is_err());
        let patterns = vec![json!({ "pattern": "[a-z]{1,500}" }); 51];
        assert!(refusal(&json!({ "allOf": patterns })).1.contains("patterns"));
        assert!(Schema::compile(&json!({ "pattern": "((a{1000}){1000}){1000}" })).is_err());
        let large = Schema::compile(&json!({ "items": { "enum": vec![0; 1_000] } })).unwrap();
        assert!(large.validate(&json!(vec![0; 100_000])).unwrap_err().contains("too large"));
    }

    #[test]
    fn the_deepest_schema_and_data_fit_the_stack() {
        let mut schema = json!({ "type": ["array", "number"] });
        let mut data = json!(1);
        for _ in 0..120 {
            schema = json!({ "items": schema });
            data = json!([data]);
        }
        assert_eq!(Schema::compile(&schema).unwrap().validate(&data), Ok(()));
        // Patterns are linear, whatever they look like.
        let nested = Schema::compile(&json!({ "pattern": "^(a+)+$" })).unwrap();
        assert!(nested.validate(&json!(format!("{}b", "a".repeat(50_000)))).is_err());
    }
}
