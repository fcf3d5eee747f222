//! What must not be found anywhere once a story is over.

/// Stands in the input of every job.
pub(crate) const INPUT: &str = "canary-in-the-input-of-a-job-5d0c71";

/// How every token of the simulator begins, and its second part too: `{"` in base64url.
const TOKEN_PART: &str = "eyJ";

/// Texts with what they are.
#[derive(Debug)]
pub(crate) struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    /// The secrets of the configuration. Tokens are known by their looks.
    pub(crate) fn new(client_secret: &str, encryption_key: String) -> Self {
        // Whichever way the `~` in it is encoded.
        let (_, end) = client_secret.rsplit_once('~').expect("the simulator's secrets have a `~`");
        Self(vec![
            ("the end of the client secret", end.to_owned()),
            ("the encryption key", encryption_key),
        ])
    }

    /// What there is in `bytes` of tokens and other secrets, if there is any.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<String> {
        // What is not UTF-8 is ciphertext and numbers; ASCII stays as it is.
        let text = String::from_utf8_lossy(bytes);
        let secret = self.0.iter().find(|(_, canary)| text.contains(canary));
        let secret = secret.map(|(what, _)| (*what).to_owned());
        secret.or_else(|| find_token(&text).map(|around| format!("a token: {around}")))
    }
}

/// The first compact JWT in `text`, shortened.
fn find_token(text: &str) -> Option<String> {
    text.match_indices(TOKEN_PART).map(|(at, _)| &text[at..]).find_map(|token| {
        let is_base64url = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let (header, rest) = token.split_at(token.find(|c| !is_base64url(c))?);
        rest.strip_prefix('.')?.starts_with(TOKEN_PART).then(|| header.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_secrets_are_found_between_any_bytes() {
        let canaries = Canaries::new("ab~secret-end", "a-key".to_owned());
        let found = |bytes: &[u8]| canaries.find(bytes).is_some();
        assert!(found(b"\xff\x00Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.sig\xfe"));
        assert!(found(b"client_secret=ab%7Esecret-end&"));
        assert!(found(b"keys = a-key"));
        assert!(!found(b"\xff eyJhbGciOiJSUzI1NiJ9 . eyJzdWIi eyJ. [redacted]"));
    }
}
