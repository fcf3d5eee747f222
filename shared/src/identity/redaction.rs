//! Taking secrets out of what a provider says.

/// How much of a provider's description is kept.
const MAX_CHARACTERS: usize = 500;
const REDACTED: &str = "[redacted]";

/// Returns `text` for an operator's log: without `secrets`, without anything that looks like a JWT,
/// without control characters, and at most 500 characters long.
pub(super) fn redact(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, REDACTED);
    }
    without_tokens(&text)
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(MAX_CHARACTERS)
        .collect()
}

/// Every JWT begins with `eyJ`, which is `{"` in base64url.
fn without_tokens(text: &str) -> String {
    let is_token = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let mut parts = text.split("eyJ");
    let mut cleaned = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if !cleaned.ends_with(REDACTED) {
            cleaned.push_str(REDACTED);
        }
        cleaned.push_str(part.trim_start_matches(is_token));
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_tokens_are_taken_out_before_the_text_is_cut() {
        let long = format!("{}s3cret~value", "x".repeat(495));
        assert_eq!(redact(&long, &["s3cret~value"]), format!("{}[reda", "x".repeat(495)));
        assert_eq!(
            redact("bad token 'eyJhbGciOi.eyJzdWIi.c2ln' and\r\neyJ0.x.y", &[""]),
            "bad token '[redacted]' and  [redacted]"
        );
    }
}
