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
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed,
            signature,
        })
    }

    pub(crate) fn is_signed_by(&self, key: &DecodingKey, algorithm: Algorithm) -> bool {
        crypto::verify(self.signature, self.signed.as_bytes(), key, algorithm).unwrap_or(false)
    }

    /// A claim that is a string, else the empty string.
    pub(crate) fn text(&self, claim: &str) -> &str {
        self.claims[claim].as_str().unwrap_or_default()
    }

    /// A claim in seconds since 1970. MSAL.NET writes these as strings in client assertions.
    pub(crate) fn time(&self, claim: &str) -> Option<i64> {
        let value = &self.claims[claim];
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
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
