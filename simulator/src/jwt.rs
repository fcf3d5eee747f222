use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde_json::Value;

/// A compact JWT taken apart; nothing about it is verified yet.
pub(crate) struct Jwt<'a> {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Jwt<'a> {
    /// `None` if `token` is not three base64url segments, the first two of them JSON objects.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { header: object(header)?, claims: object(claims)?, signed, signature })
    }

    pub(crate) fn is_signed_by(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
        crypto::verify(self.signature, self.signed.as_bytes(), key, algorithm).unwrap_or(false)
    }

    /// A claim that is a string, else the empty string.
    pub(crate) fn text(&self, claim: &str) -> &str {
        self.claims[claim].as_str().unwrap_or_default()
    }

    /// A claim in whole seconds since 1970. MSAL Python writes these with a fraction in client
    /// assertions, which RFC 7519 section 2 allows; MSAL.NET writes them as strings.
    fn time(&self, claim: &str) -> Option<i64> {
        let value = &self.claims[claim];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.split('.').next()?.parse().ok()
    }

    /// Whether `now` lies between `nbf`, if there is one, and `exp`, give or take `skew_seconds`.
    pub(crate) fn is_in_time(&self, now: i64, skew_seconds: i64) -> bool {
        let has_begun = self.time("nbf").is_none_or(|nbf| nbf <= now + skew_seconds);
        has_begun && self.time("exp").is_some_and(|exp| exp > now - skew_seconds)
    }
}

/// Signs `claims` under exactly `header`; without a key the signature is empty (`alg` `none`).
pub(crate) fn sign(
    header: &Value,
    claims: &Value,
    key: Option<(&EncodingKey, Algorithm)>,
) -> String {
    let signed = format!("{}.{}", segment(header), segment(claims));
    let signature = key.map_or_else(String::new, |(key, algorithm)| {
        crypto::sign(signed.as_bytes(), key, algorithm)
            .expect("the key is of the algorithm's family")
    });
    format!("{signed}.{signature}")
}

fn segment(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

fn object(segment: &str) -> Option<Value> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(segment).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_in_time(claims: &Value) -> bool {
        let token = sign(&json!({}), claims, None);
        Jwt::parse(&token).unwrap().is_in_time(1000, 10)
    }

    #[test]
    fn times_are_numbers_with_or_without_a_fraction_or_strings() {
        for exp in [json!(1001), json!(1001.5), json!("1001")] {
            assert!(is_in_time(&json!({ "exp": exp })), "{exp}");
        }
        assert!(!is_in_time(&json!({})));
    }

    #[test]
    fn clocks_may_differ_by_the_skew_only() {
        assert!(is_in_time(&json!({ "nbf": 1010, "exp": 2000 })));
        assert!(!is_in_time(&json!({ "nbf": 1011, "exp": 2000 })));
        assert!(is_in_time(&json!({ "exp": 991 })));
        assert!(!is_in_time(&json!({ "exp": 990 })));
    }
}
