//! Text to JSON value: bounded in depth, no key twice.

use std::fmt;

use serde::{
    Deserializer, Serialize,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// How many objects and arrays may stand in each other, in documents, inputs, answers and results.
///
/// A value inside of them is the 128th level; it is also what `serde_json` reads back.
pub const JSON_DEPTH: usize = 127;

/// Stack for the parser of YAML, which needs far more than that of JSON: 20 kB a level, unoptimised.
const YAML_STACK_BYTES: usize = 8 * 1024 * 1024;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, as a JSON Pointer (RFC 6901) into the document.
    pub pointer: String,
    /// What, as a sentence for the document's author.
    pub detail: String,
}

/// Reads JSON (RFC 8259). Refuses a key that stands twice in one object and more than [`JSON_DEPTH`] levels.
pub fn parse_json(text: &[u8]) -> Result<Value, Problem> {
    let mut pointer = String::new();
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = Reader { pointer: &mut pointer, depth: 0 }.deserialize(&mut json);
    match value.and_then(|value| json.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(error) => Err(Problem { pointer, detail: format!("Not valid JSON: {error}.") }),
    }
}

/// Reads YAML 1.2: like [`parse_json`]; `yes` and `n` are strings, aliases that multiply are refused.
pub fn parse_yaml(text: &str) -> Result<Value, Problem> {
    let failed = |detail: &str| Problem { pointer: String::new(), detail: detail.to_owned() };
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().stack_size(YAML_STACK_BYTES);
        match parser.spawn_scoped(scope, || read_yaml(text)) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(failed("Not valid YAML."))),
            Err(error) => Err(failed(&format!("No thread to read YAML with: {error}."))),
        }
    })
}

fn read_yaml(text: &str) -> Result<Value, Problem> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: JSON_DEPTH + 1,
            max_nodes: 50_000,
            max_aliases: 1_000,
            max_total_scalar_bytes: 4 * 1024 * 1024,
            max_documents: 1,
        },
    };
    let mut pointer = String::new();
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        Reader { pointer: &mut pointer, depth: 0 }.deserialize(yaml)
    });
    value.map_err(|error| Problem { pointer, detail: format!("Not valid YAML: {error}.") })
}

/// Whether objects and arrays stand deeper in each other than [`JSON_DEPTH`].
pub(super) fn is_too_deep(value: &Value) -> bool {
    fn deeper_than(value: &Value, levels: usize) -> bool {
        match value {
            Value::Array(items) => {
                levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1))
            }
            Value::Object(fields) => {
                levels == 0 || fields.values().any(|field| deeper_than(field, levels - 1))
            }
            _ => false,
        }
    }
    deeper_than(value, JSON_DEPTH)
}

/// Appends one reference token to a JSON Pointer (RFC 6901 3).
pub(super) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

/// Reads one value. Where it fails, `pointer` stays on the place.
struct Reader<'p> {
    pointer: &'p mut String,
    depth: usize,
}

impl Reader<'_> {
    fn enter<E: Error>(&self) -> Result<usize, E> {
        if self.depth < JSON_DEPTH {
            Ok(self.depth + 1)
        } else {
            Err(E::custom(format_args!("nested deeper than {} levels", JSON_DEPTH + 1)))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.enter()?;
        let here = self.pointer.len();
        let mut array = Vec::new();
        loop {
            push_token(self.pointer, &array.len().to_string());
            let reader = Reader { pointer: &mut *self.pointer, depth };
            let item = items.next_element_seed(reader)?;
            self.pointer.truncate(here);
            match item {
                Some(item) => array.push(item),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let depth = self.enter()?;
        let here = self.pointer.len();
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            push_token(self.pointer, &key);
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
            }
            let reader = Reader { pointer: &mut *self.pointer, depth };
            let value = fields.next_value_seed(reader)?;
            self.pointer.truncate(here);
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_with_its_place() {
        let problem = parse_json(br#"{"a": [{"b": 1, "b": 2}]}"#).unwrap_err();
        assert_eq!(problem.pointer, "/a/0/b");
        assert!(problem.detail.contains("duplicate key `b`"), "{}", problem.detail);
        assert!(parse_yaml("a: 1\na: 2\n").is_err());
    }

    #[test]
    fn depth_is_bounded_in_both_languages() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let deep = parse_json(nested(JSON_DEPTH).as_bytes()).unwrap();
        assert!(!is_too_deep(&deep));
        assert!(is_too_deep(&json!([deep])));
        assert!(parse_json(nested(JSON_DEPTH + 1).as_bytes()).is_err());
        assert!(parse_json("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(parse_yaml(&nested(JSON_DEPTH)).is_ok());
        for levels in [JSON_DEPTH + 1, 300, 100_000] {
            assert!(parse_yaml(&nested(levels)).is_err(), "{levels}");
        }
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
        }
        assert!(parse_yaml(&bomb).is_err());
    }

    #[test]
    fn only_true_and_false_are_booleans_in_yaml() {
        let value = parse_yaml("each: n\nat: yes\nreally: true\nversion: '1.0'\nn: 3").unwrap();
        let expected = json!({"each": "n", "at": "yes", "really": true, "version": "1.0", "n": 3});
        assert_eq!(value, expected);
    }

    #[test]
    fn what_follows_the_value_is_refused() {
        assert!(parse_json(b"{} {}").is_err());
        assert!(parse_json(b"").is_err());
        assert_eq!(parse_json(b" [1, -2, 0.5, null] ").unwrap(), json!([1, -2, 0.5, null]));
    }
}
