use std::{fs, path::Path};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::entra_error::EntraError;
use crate::{error::StartError, jwt::Jwt};

/// How far the clocks of client and tenant may be apart.
const SKEW_SECONDS: i64 = 10;

/// The certificate registered for the client.
pub(crate) struct ClientCertificate {
    public_key: DecodingKey,
    sha1: String,
    sha256: String,
}

impl ClientCertificate {
    pub(crate) fn read(path: &Path) -> Result<Self, StartError> {
        let text =
            fs::read(path).map_err(|source| StartError::File { path: path.to_owned(), source })?;
        Self::parse(&text).ok_or_else(|| StartError::Content {
            path: path.to_owned(),
            expected: "a PEM certificate with an RSA key",
        })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let blocks = pem::parse_many(text).ok()?;
        let certificate = blocks.into_iter().find(|pem| pem.tag() == "CERTIFICATE")?;
        let der = certificate.contents();
        Some(Self {
            public_key: DecodingKey::from_rsa_pem(pem::encode(&certificate).as_bytes()).ok()?,
            sha1: BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, der)),
            sha256: BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, der)),
        })
    }

    /// Whether the header names this certificate. MSAL Python leaves the padding on.
    fn is_named_by(&self, header: &Value) -> bool {
        let is = |name: &str, thumbprint: &str| {
            header[name].as_str().is_some_and(|value| value.trim_end_matches('=') == thumbprint)
        };
        is("x5t#S256", &self.sha256) || is("x5t", &self.sha1)
    }
}

/// Checks a client assertion (RFC 7523 section 3) by `client_id` for one of `audiences`.
pub(crate) fn verify(
    assertion: &str,
    certificate: Option<&ClientCertificate>,
    client_id: &str,
    audiences: &[String],
    now: i64,
) -> Result<(), EntraError> {
    let assertion = Jwt::parse(assertion).ok_or(50027)?;
    let algorithm = match assertion.header["alg"].as_str() {
        Some("PS256") => Algorithm::PS256,
        Some("RS256") => Algorithm::RS256,
        _ => {
            return Err(EntraError::about(50027, "Client assertions are signed PS256 or RS256."));
        }
    };
    let is_signed = certificate.is_some_and(|certificate| {
        certificate.is_named_by(&assertion.header)
            && assertion.is_signed_by(&certificate.public_key, algorithm)
    });
    if !is_signed {
        return Err(700_027.into());
    }
    if assertion.text("iss") != client_id || assertion.text("sub") != client_id {
        return Err(700_021.into());
    }
    if !audiences.iter().any(|audience| audience == assertion.text("aud")) {
        return Err(700_023.into());
    }
    if !assertion.is_in_time(now, SKEW_SECONDS) {
        return Err(700_024.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signing_keys::SigningKey;

    #[test]
    fn thumbprints_are_those_of_openssl() {
        // Made with: openssl req -x509 -newkey rsa:2048 -nodes -keyout client.key -out certificate.pem
        let pem = include_bytes!("fixtures/certificate.pem");
        let certificate = ClientCertificate::parse(pem).unwrap();
        assert_eq!(certificate.sha1, "N53W6l2OPbl9a7oTbv14yti08Rs");
        assert_eq!(certificate.sha256, "TliAjzQeKK0KJItZJ4e4hiXAUuCKDh75-ew7Sg2rJGk");
    }

    /// An assertion that is good but for what `header` and `claims` replace.
    fn verified(header: &Value, claims: &Value) -> Result<(), u32> {
        let key = SigningKey::generate();
        let certificate = ClientCertificate {
            public_key: key.public_key().clone(),
            sha1: "c2hhMQ".to_owned(),
            sha256: "c2hhMjU2".to_owned(),
        };
        let mut all = json!({ "iss": "c", "sub": "c", "aud": "t", "nbf": 1000, "exp": 1600 });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let assertion = key.sign(header, &all);
        verify(&assertion, Some(&certificate), "c", &["t".to_owned()], 1000)
            .map_err(|error| error.code)
    }

    #[test]
    fn both_algorithms_and_both_thumbprints_are_taken_padded_or_not() {
        for header in [
            json!({ "alg": "PS256", "x5t#S256": "c2hhMjU2" }),
            json!({ "alg": "RS256", "x5t#S256": "c2hhMjU2" }),
            json!({ "alg": "RS256", "x5t": "c2hhMQ==" }),
        ] {
            assert_eq!(verified(&header, &json!({})), Ok(()), "{header}");
        }
    }

    #[test]
    fn a_bad_assertion_is_refused_with_its_number() {
        let header = json!({ "alg": "PS256", "x5t#S256": "c2hhMjU2" });
        assert_eq!(
            verified(&json!({ "alg": "PS256", "x5t#S256": "other" }), &json!({})),
            Err(700_027)
        );
        assert_eq!(
            verified(&json!({ "alg": "none", "x5t#S256": "c2hhMjU2" }), &json!({})),
            Err(50027)
        );
        assert_eq!(verified(&header, &json!({ "iss": "d" })), Err(700_021));
        assert_eq!(verified(&header, &json!({ "aud": "u" })), Err(700_023));
        assert_eq!(verified(&header, &json!({ "exp": 990 })), Err(700_024));
        assert_eq!(verified(&header, &json!({ "nbf": 1011 })), Err(700_024));
    }
}
