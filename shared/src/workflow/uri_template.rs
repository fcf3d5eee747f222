//! `{name}` in a literal address.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// Everything but the unreserved characters (RFC 3986 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A literal address, split at its placeholders (RFC 6570 level 1).
#[derive(Debug)]
pub(super) struct UriTemplate {
    /// Text, then pairs of a placeholder's name and the text behind it.
    start: String,
    placeholders: Vec<(String, String)>,
}

impl UriTemplate {
    /// Splits `text`; the error is a sentence for the author.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = text.split('{');
        let start = pieces.next().unwrap_or_default().to_owned();
        let mut placeholders = Vec::new();
        for piece in pieces {
            let Some((name, behind)) = piece.split_once('}') else {
                return Err("A `{` is not closed.".to_owned());
            };
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(format!("`{{{name}}}` is not supported; write `{{name}}`."));
            }
            placeholders.push((name.to_owned(), behind.to_owned()));
        }
        if start.contains('}') || placeholders.iter().any(|(_, text)| text.contains('}')) {
            return Err("A `}` has no `{`.".to_owned());
        }
        Ok(Self { start, placeholders })
    }

    /// Whether it is the same for every input.
    pub(super) fn is_literal(&self) -> bool {
        self.placeholders.is_empty()
    }

    /// The address with `x` for each placeholder.
    pub(super) fn sample(&self) -> String {
        let behind = self.placeholders.iter().map(|(_, text)| format!("x{text}"));
        self.start.clone() + &behind.collect::<String>()
    }

    /// Fills in strings, numbers and booleans from the top level of `input`, each encoded as one
    /// segment or value; the error is a sentence for the author.
    ///
    /// A missing value is an error, unlike in RFC 6570: `pets/{id}` must not become `pets/`.
    pub(super) fn expand(&self, input: &Value) -> Result<String, String> {
        let mut address = self.start.clone();
        for (name, behind) in &self.placeholders {
            let value = match input.get(name) {
                Some(Value::String(text)) if !text.is_empty() => text.clone(),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                _ => {
                    return Err(format!(
                        "`{{{name}}}` needs a string, number or boolean `{name}` in the input."
                    ));
                }
            };
            address.push_str(&encode(&value));
            address.push_str(behind);
        }
        Ok(address)
    }
}

/// Encodes `text` as one path segment or one query name or value.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_become_one_segment_each() {
        let template = UriTemplate::parse("pets/{id}/toys?colour={colour}&n={n}").unwrap();
        let input = json!({"id": "a/b?c#d", "colour": "dark blue", "n": 3});
        let expanded = template.expand(&input).unwrap();
        assert_eq!(expanded, "pets/a%2Fb%3Fc%23d/toys?colour=dark%20blue&n=3");
        assert_eq!(template.sample(), "pets/x/toys?colour=x&n=x");
    }

    #[test]
    fn a_missing_value_is_an_error() {
        let template = UriTemplate::parse("pets/{id}").unwrap();
        for input in
            [json!({}), json!(1), json!({"id": null}), json!({"id": [1]}), json!({"id": ""})]
        {
            assert!(template.expand(&input).is_err(), "{input}");
        }
    }

    #[test]
    fn operators_of_higher_levels_are_refused() {
        for wrong in ["{+path}", "{?a,b}", "{}", "{a", "a}", "{a}}", "{{a}}"] {
            assert!(UriTemplate::parse(wrong).is_err(), "{wrong}");
        }
    }
}
