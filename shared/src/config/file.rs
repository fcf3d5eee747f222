//! Reads a configuration file, TOML or JSON, into a tree.
//!
//! A parser's message stands in the error, its excerpt of the file does not: that may be a secret.

use std::{fs, io::Read, path::Path};

use json_comments::CommentSettings;
use serde_json::Value;

use super::{
    error::Problem,
    node::{Node, Origin},
    spelling::Spelling,
};

/// Returns the spelling that a file of this name uses: JSON is Microsoft's.
pub(super) fn spelling(path: &Path) -> Spelling {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("json") => Spelling::Microsoft,
        _ => Spelling::Toml,
    }
}

/// Reads and parses the file at `path`.
pub(super) fn read(path: &Path) -> Result<Node, Problem> {
    let name = path.display().to_string();
    let problem = |message| Problem {
        origin: name.clone(),
        section: String::new(),
        key: String::new(),
        message,
    };
    let text = fs::read_to_string(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    // Editors on Windows like to begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let value = match spelling(path) {
        Spelling::Toml => parse_toml(text),
        Spelling::Microsoft => parse_json(text),
    };
    let value = value.map_err(problem)?;
    Ok(Node::new(value, &Origin::File(name.as_str().into()), Vec::new()))
}

fn parse_toml(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("is not valid TOML: line {}: {}", before.split('\n').count(), e.message())
    })
}

/// JSON as .NET reads configuration: with comments and trailing commas.
fn parse_json(text: &str) -> Result<Value, String> {
    let mut json = String::new();
    CommentSettings::c_style()
        .strip_comments(text.as_bytes())
        .read_to_string(&mut json)
        .map_err(|_| "is not valid JSON: a comment or a string does not end".to_owned())?;
    serde_json::from_str(&blank_trailing_commas(&json))
        .map_err(|e| format!("is not valid JSON: {e}"))
}

/// Replaces each comma before `}` or `]` by a blank, so that positions in messages stay right.
fn blank_trailing_commas(json: &str) -> String {
    let mut blanked = String::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for (position, character) in json.char_indices() {
        let closes_next = || json[position + 1..].trim_start().starts_with(['}', ']']);
        let trailing = character == ',' && !in_string && closes_next();
        blanked.push(if trailing { ' ' } else { character });
        in_string ^= character == '"' && !escaped;
        escaped = in_string && character == '\\' && !escaped;
    }
    blanked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_strings_stay() {
        let value = parse_json(r#"{ "a": ",]\",}", "b": [1, 2, ], /* , */ }"#).unwrap();
        assert_eq!(value, serde_json::json!({ "a": ",]\",}", "b": [1, 2] }));
    }

    #[test]
    fn a_syntax_error_names_the_line_and_keeps_the_text_to_itself() {
        for broken in
            ["a = 1\nsecret = \"canary\nb = 2", "a = 1\nsecret = canary", "a = 1\na = 'canary'"]
        {
            let message = parse_toml(broken).unwrap_err();
            assert!(message.contains("line 2"), "{message}");
            assert!(!message.contains("canary"), "{message}");
        }
        let message = parse_json("{\n \"secret\": \"canary\"\n \"b\": 1 }").unwrap_err();
        assert!(message.contains("line 3"), "{message}");
        assert!(!message.contains("canary"), "{message}");
    }
}
