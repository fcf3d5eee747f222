//! A signed token as it travels: three parts, of which nothing is believed yet.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{claims::Claims, keys::VerificationKey, verifier::VerifyError};

/// Longer tokens are refused unread. Entra's own stay below 8 KiB, since headers must.
const MAX_BYTES: usize = 16 * 1024;

/// A JWS in compact serialisation (RFC 7515 3.1) with an acceptable header.
#[derive(Debug)]
pub(super) struct CompactToken<'a> {
    pub(super) key_id: String,
    algorithm: Algorithm,
    signed: &'a str,
    signature: &'a str,
    claims: Claims,
}

/// What of the header is looked at. Keys that a token brings along or points to (`jwk`, `jku`,
/// `x5c`, `x5u`) are not: only the provider's published keys count.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    #[serde(default)]
    crit: Value,
}

impl<'a> CompactToken<'a> {
    /// Takes a token apart and refuses what no key could make good.
    pub(super) fn parse(token: &'a str) -> Result<Self, VerifyError> {
        if token.len() > MAX_BYTES {
            return Err(VerifyError::invalid("the token is too long"));
        }
        let malformed = VerifyError::invalid("the token is malformed");
        let Some((signed, signature)) = token.rsplit_once('.') else {
            return Err(malformed);
        };
        let Some((header, payload)) = signed.split_once('.') else {
            return Err(malformed);
        };
        let header: Header = decode(header).ok_or(malformed)?;

        let algorithm = match header.alg.as_str() {
            "RS256" => Algorithm::RS256,
            "PS256" => Algorithm::PS256,
            _ => {
                return Err(VerifyError::invalid("the token's algorithm is not accepted"));
            }
        };
        // Media types ignore case; `application/` may be left out (RFC 7515 4.1.9, RFC 9068 2.1).
        let typ = header.typ.unwrap_or_default().to_ascii_lowercase();
        if !["jwt", "at+jwt"].contains(&typ.strip_prefix("application/").unwrap_or(&typ)) {
            return Err(VerifyError::invalid("the token is not of type JWT or at+jwt"));
        }
        // No extension is understood here, so no token may depend on one (RFC 7515 4.1.11).
        if !header.crit.is_null() {
            return Err(VerifyError::invalid("the token has critical header parameters"));
        }
        let key_id = header.kid.ok_or(VerifyError::invalid("the token names no key"))?;
        let claims = decode(payload).ok_or(malformed)?;
        Ok(Self { key_id, algorithm, signed, signature, claims })
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.signed.len() + self.signature.len()).unwrap_or(u32::MAX)
    }

    /// Claims that nobody vouches for yet: good for choosing among what is configured, no more.
    pub(super) fn unverified_claims(&self) -> &Claims {
        &self.claims
    }

    /// The claims, once the signature proved right.
    pub(super) fn verify(self, key: &VerificationKey) -> Result<Claims, VerifyError> {
        if key.verifies(self.signed, self.signature, self.algorithm) {
            Ok(self.claims)
        } else {
            Err(VerifyError::invalid("the token's signature is wrong"))
        }
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_part() -> impl Strategy<Value = String> {
        let json = (any::<String>(), any::<String>(), any::<Option<i64>>(), 0..4_u8).prop_map(
            |(kid, text, number, alg)| {
                let alg = ["RS256", "PS256", "none", "HS256"][usize::from(alg)];
                json!({
                    "alg": alg, "typ": "JWT", "kid": kid, "exp": number, "tid": text,
                    "scp": [text, number], "aud": number,
                })
                .to_string()
            },
        );
        prop_oneof![
            2 => json.prop_map(|part| URL_SAFE_NO_PAD.encode(part)),
            1 => any::<Vec<u8>>().prop_map(|part| URL_SAFE_NO_PAD.encode(part)),
            1 => "[A-Za-z0-9_=-]*",
        ]
    }

    proptest! {
        #[test]
        fn only_what_a_published_key_can_have_signed_gets_further(
            parts in prop::collection::vec(any_part(), 1..5),
            text: String,
        ) {
            prop_assert!(CompactToken::parse(&text).is_err());
            let text = parts.join(".");
            if let Ok(token) = CompactToken::parse(&text) {
                prop_assert_eq!(parts.len(), 3);
                prop_assert!(matches!(token.algorithm, Algorithm::RS256 | Algorithm::PS256));
                prop_assert_eq!(format!("{}.{}", token.signed, token.signature), text);
            }
        }
    }
}
