//! The challenge of a 401: which claims the API misses in the token it was sent.

use errand_shared::identity::RequestedClaims;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Returns the claims of the first challenge `Bearer error="insufficient_claims", claims="…"`, of any
/// number in any number of headers. What cannot be understood counts as absent.
///
/// Source: RFC 9110 11.6.1; Entra "Claims challenges, claims requests, and client capabilities".
pub(crate) fn requested_claims(headers: &HeaderMap) -> Option<RequestedClaims> {
    let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
    let texts = values.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    texts.flat_map(challenges).find_map(|challenge| challenge.requested_claims())
}

/// One scheme with its parameters.
struct Challenge<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

impl Challenge<'_> {
    fn requested_claims(&self) -> Option<RequestedClaims> {
        let asks = self.scheme.eq_ignore_ascii_case("Bearer")
            && self.parameter("error") == Some("insufficient_claims");
        RequestedClaims::from_challenge(self.parameter("claims").filter(|_| asks)?)
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Splits a header's value. A `token68` becomes a challenge or parameter of no meaning.
fn challenges(mut rest: &str) -> Vec<Challenge<'_>> {
    let mut challenges: Vec<Challenge<'_>> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return challenges;
        }
        let (word, after) = split_where(rest, |character| !is_token_character(character));
        if word.is_empty() {
            // Nothing that may stand here: on with the next element.
            rest = split_where(rest, |character| character == ',').1;
            continue;
        }
        let Some(value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            challenges.push(Challenge { scheme: word, parameters: Vec::new() });
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            // One that never ends: nothing of the rest can be told apart.
            let Some(unquoted) = unquote(quoted) else { return challenges };
            unquoted
        } else {
            let (value, after) = split_where(value, |character| " \t,".contains(character));
            (value.to_owned(), after)
        };
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word, value));
        }
        rest = after;
    }
}

fn split_where(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// RFC 9110 5.6.2.
fn is_token_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

/// The text up to the closing quote, and what follows that (RFC 9110 5.6.4).
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => text.push(characters.next()?.1),
            character => text.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    /// `{"a":1}` in base64.
    const CLAIMS: &str = "eyJhIjoxfQ==";

    fn read(values: &[&[u8]]) -> Option<String> {
        let values = values.iter().map(|value| HeaderValue::from_bytes(value).unwrap());
        let headers: HeaderMap = values.map(|value| (WWW_AUTHENTICATE, value)).collect();
        requested_claims(&headers).map(|claims| claims.to_json())
    }

    #[test]
    fn the_claims_are_found_in_every_form_that_the_standard_allows() {
        for value in [
            format!(r#"Bearer error="insufficient_claims", claims="{CLAIMS}""#),
            format!(r#"bEARER realm="",Claims = "{CLAIMS}" , ERROR=insufficient_claims"#),
            format!("Bearer error=insufficient_claims,claims={CLAIMS}"),
            r#"Bearer error="insufficient_claims", claims="{\"a\":1}""#.to_owned(),
            r#"Bearer realm="a\"b, c", error="insufficient_claims", claims="eyJhIjoxfQ""#
                .to_owned(),
            format!(
                r#"Negotiate abc/d==, Basic realm="x", , Bearer error="insufficient_claims",claims="{CLAIMS}""#
            ),
            format!(r#"Bearer error="insufficient_claims", claims="{CLAIMS}", Basic realm="x""#),
            format!(
                r#"Bearer error="invalid_token", Bearer claims="{CLAIMS}", error="insufficient_claims""#
            ),
        ] {
            assert_eq!(read(&[value.as_bytes()]).as_deref(), Some(r#"{"a":1}"#), "{value}");
        }
        let second = format!(r#"Bearer error="insufficient_claims", claims="{CLAIMS}""#);
        let found = read(&[b"Basic realm=\"x\"", b"\xff\xfe", second.as_bytes()]);
        assert_eq!(found.as_deref(), Some(r#"{"a":1}"#));
    }

    #[test]
    fn anything_else_asks_for_nothing() {
        let long = format!(r#"Bearer error="insufficient_claims", claims="{}""#, "e".repeat(9000));
        for value in [
            "",
            "Bearer",
            "=",
            "\"",
            ", , =\"x\",",
            r#"Bearer error="invalid_token", claims="eyJhIjoxfQ==""#,
            r#"Bearer error="insufficient_claims""#,
            r#"Bearer error="insufficient_claims", claims="""#,
            r#"Bearer error="insufficient_claims", claims="WzFd""#,
            r#"Bearer error="insufficient_claims", claims="eyJhIjoxfQ=="#,
            r#"Bearer error="insufficient_claims", claims="eyJhIjoxfQ\"#,
            r#"Bearer error="insufficient_claims", xclaims="eyJhIjoxfQ==""#,
            r#"Basic error="insufficient_claims", claims="eyJhIjoxfQ==""#,
            r#"error="insufficient_claims", claims="eyJhIjoxfQ==""#,
            // Of two challenges, which do not add up.
            r#"Bearer error="insufficient_claims", PoP claims="eyJhIjoxfQ==""#,
            // Inside a quoted text.
            r#"Basic realm="Bearer error=insufficient_claims, claims=eyJhIjoxfQ==""#,
            "Bearer ü=1 error=insufficient_claims",
            &long,
        ] {
            assert_eq!(read(&[value.as_bytes()]), None, "{value}");
        }
        assert_eq!(read(&[]), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_and_hides_no_challenge_after_it(
            before in r#"([A-Za-z]{1,6}( [a-z]{1,5}="[^"\\\\]{0,8}")?)(, ?[A-Za-z]{1,6}( [a-z]{1,5}=[a-z]{0,4})?){0,3}"#,
            bytes: Vec<u8>,
        ) {
            let asks = format!(r#"Bearer error="insufficient_claims", claims="{CLAIMS}""#);
            let first = format!("{before}, {asks}");
            if HeaderValue::from_str(&first).is_ok() {
                let found = read(&[first.as_bytes()]);
                prop_assert_eq!(found.as_deref(), Some(r#"{"a":1}"#), "{}", first);
            }
            if HeaderValue::from_bytes(&bytes).is_ok() {
                let found = read(&[&bytes, asks.as_bytes()]);
                prop_assert_eq!(found.as_deref(), Some(r#"{"a":1}"#));
            }
        }
    }
}
