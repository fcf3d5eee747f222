//! The `claims` parameter of a token request: what a token is to say (OpenID Connect Core 5.5), as
//! Entra extends it to access tokens.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value, json};

/// The longest challenge that is taken, as JSON text.
pub(super) const MAX_CLAIMS_BYTES: usize = 4096;

/// Claims that an API demands of a token before it accepts it: a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedClaims(Map<String, Value>);

impl RequestedClaims {
    /// Reads the `claims` of a challenge: a JSON object in base64, base64url or as it is. None if it
    /// is anything else, or longer than 4 KiB.
    ///
    /// Source: Entra "Claims challenges, claims requests, and client capabilities".
    pub fn from_challenge(claims: &str) -> Option<Self> {
        let claims = claims.trim();
        if claims.starts_with('{') {
            return Self::from_json(claims.as_bytes());
        }
        let is_url_safe = claims.contains(['-', '_']);
        let engine = if is_url_safe { URL_SAFE_NO_PAD } else { STANDARD_NO_PAD };
        Self::from_json(&engine.decode(claims.trim_end_matches('=')).ok()?)
    }

    fn from_json(json: &[u8]) -> Option<Self> {
        if json.len() > MAX_CLAIMS_BYTES {
            return None;
        }
        serde_json::from_slice(json).ok().map(Self)
    }

    /// JSON, as the user's client passes it on to a sign-in.
    pub fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

/// The parameter's value at Entra: that Errand can deal with a claims challenge (`cp1`), and what is
/// `requested`, which wins where both speak of the same.
pub(super) fn parameter(requested: Option<&RequestedClaims>) -> String {
    let mut claims = json!({ "access_token": { "xms_cc": { "values": ["cp1"] } } });
    if let Some(RequestedClaims(requested)) = requested {
        merge(&mut claims, Value::Object(requested.clone()));
    }
    claims.to_string()
}

/// Recurses no deeper than `base`.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                match base.get_mut(&name) {
                    Some(known) => merge(known, value),
                    None => {
                        base.insert(name, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    #[test]
    fn a_challenge_is_read_in_every_encoding_in_use() {
        // Encodes to `+` and `/` in one alphabet, to `-` and `_` in the other.
        let json = r#"{"a":"~~~???ü"}"#;
        let expected = RequestedClaims::from_challenge(json).unwrap();
        assert_eq!(expected.to_json(), json);
        for encoded in [
            STANDARD.encode(json),
            STANDARD_NO_PAD.encode(json),
            URL_SAFE.encode(json),
            URL_SAFE_NO_PAD.encode(json),
            format!(" {json}"),
        ] {
            let read = RequestedClaims::from_challenge(&encoded);
            assert_eq!(read.as_ref(), Some(&expected), "{encoded}");
        }
    }

    #[test]
    fn what_is_no_object_of_reasonable_size_is_no_challenge() {
        let of_length = |length: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(length - 8));
        assert!(RequestedClaims::from_challenge(&of_length(MAX_CLAIMS_BYTES)).is_some());
        let nested = format!("{}1{}", r#"{"a":"#.repeat(500), "}".repeat(500));
        let long = of_length(MAX_CLAIMS_BYTES + 1);
        for text in [
            "",
            "{",
            "{}{}",
            "[]",
            "null",
            "%%%",
            "a",
            &STANDARD.encode("[1]"),
            &STANDARD.encode(b"\xff\xfe"),
            &STANDARD.encode(&long),
            &long,
            &nested,
        ] {
            assert_eq!(RequestedClaims::from_challenge(text), None, "{text}");
        }
    }

    #[test]
    fn a_challenge_is_merged_into_the_capabilities_and_wins() {
        for (challenge, expected) in [
            (json!({}), json!({ "access_token": { "xms_cc": { "values": ["cp1"] } } })),
            (
                json!({ "access_token": { "nbf": { "essential": true } }, "id_token": {} }),
                json!({
                    "access_token": { "xms_cc": { "values": ["cp1"] }, "nbf": { "essential": true } },
                    "id_token": {},
                }),
            ),
            (
                json!({ "access_token": { "xms_cc": { "values": ["cp2"] } } }),
                json!({ "access_token": { "xms_cc": { "values": ["cp2"] } } }),
            ),
            (json!({ "access_token": null }), json!({ "access_token": null })),
        ] {
            let requested = RequestedClaims::from_challenge(&challenge.to_string());
            let merged: Value = serde_json::from_str(&parameter(requested.as_ref())).unwrap();
            assert_eq!(merged, expected);
        }
        assert_eq!(parameter(None), r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#);
    }
}
