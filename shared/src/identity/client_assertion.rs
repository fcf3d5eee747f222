//! Assertions that Errand signs itself (`private_key_jwt`: RFC 7523 2.2 and 3).

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{
    Algorithm, Header,
    jwk::{Jwk, ThumbprintHash},
};
use secrecy::SecretString;
use serde::Serialize;
use url::Url;
use uuid::Uuid;

use super::{
    certificate_file::{self, KeyPair},
    client_credential::{CredentialError, unusable},
};
use crate::{
    config::{AssertionAlgorithm, ClientCertificate, KeyId},
    time::Timestamp,
};

/// How long a client assertion is good (Entra recommends ten minutes at most).
const LIFETIME_SECONDS: i64 = 600;
/// How far our clock may be ahead of the provider's.
const SKEW_SECONDS: i64 = 60;

/// Numbers are NumericDates.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// Returns a new assertion of `client_id` for `token_endpoint`.
pub(super) async fn sign(
    certificate: &ClientCertificate,
    client_id: &str,
    token_endpoint: &Url,
    now: Timestamp,
) -> Result<SecretString, CredentialError> {
    let pair = certificate_file::read(&certificate.file).await?;
    let now = now.seconds();
    let claims = Claims {
        aud: token_endpoint.as_str(),
        iss: client_id,
        sub: client_id,
        jti: Uuid::new_v4(),
        iat: now,
        nbf: now - SKEW_SECONDS,
        exp: now + LIFETIME_SECONDS,
    };
    jsonwebtoken::encode(&header(certificate, &pair), &claims, &pair.private_key)
        .map(SecretString::from)
        .map_err(|_| unusable(certificate.file.private_key_path(), "holds a key that cannot sign"))
}

fn header(certificate: &ClientCertificate, pair: &KeyPair) -> Header {
    let thumbprint = |algorithm| {
        let digest = digest::digest(algorithm, &pair.certificate);
        Some(URL_SAFE_NO_PAD.encode(digest))
    };
    let mut header = match certificate.algorithm {
        AssertionAlgorithm::Ps256 => {
            Header { x5t_s256: thumbprint(&SHA256), ..Header::new(Algorithm::PS256) }
        }
        AssertionAlgorithm::Rs256 => {
            Header { x5t: thumbprint(&SHA1_FOR_LEGACY_USE_ONLY), ..Header::new(Algorithm::RS256) }
        }
    };
    header.kid = match &certificate.key_id {
        KeyId::Omitted => None,
        // A key that has no public form cannot sign either, and is reported then.
        KeyId::Thumbprint => Jwk::from_encoding_key(&pair.private_key, header.alg)
            .and_then(|key| key.thumbprint(ThumbprintHash::SHA256))
            .ok(),
        KeyId::Named(id) => Some(id.clone()),
    };
    // The certificate alone, without its issuers, as MSAL sends it.
    header.x5c = certificate.send_x5c.then(|| vec![STANDARD.encode(&pair.certificate)]);
    header
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use secrecy::ExposeSecret;
    use serde_json::Value;

    use super::{super::test_provider::TestKey, *};
    use crate::config::CertificateFile;

    /// An assertion signed with a new key, whose certificate has the bytes `der`: only thumbprints
    /// of it are sent.
    struct Signed {
        key: TestKey,
        assertion: String,
        another: String,
        public_key: DecodingKey,
    }

    async fn signed(algorithm: AssertionAlgorithm, send_x5c: bool) -> Signed {
        signed_naming(KeyId::Omitted, algorithm, send_x5c).await
    }

    async fn signed_naming(key_id: KeyId, algorithm: AssertionAlgorithm, send_x5c: bool) -> Signed {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.pem");
        let key = TestKey::generate("client");
        let certificate = pem::Pem::new("CERTIFICATE", b"der".to_vec());
        std::fs::write(&path, key.private_key_pem() + &pem::encode(&certificate)).unwrap();
        let file = CertificateFile::Pem { certificate_path: path.clone(), private_key_path: path };
        let certificate = ClientCertificate { key_id, file, algorithm, send_x5c };

        let endpoint = "https://login.example/t/oauth2/v2.0/token".parse().unwrap();
        let now = Timestamp::from_seconds(1_700_000_000).unwrap();
        let mut assertions = Vec::new();
        for _ in 0..2 {
            let assertion = sign(&certificate, "client", &endpoint, now).await.unwrap();
            assertions.push(assertion.expose_secret().to_owned());
        }
        Signed {
            another: assertions.remove(1),
            assertion: assertions.remove(0),
            public_key: DecodingKey::from_jwk(&key.public_key()).unwrap(),
            key,
        }
    }

    #[tokio::test]
    async fn each_assertion_is_new_and_for_the_token_endpoint() {
        let signed = signed(AssertionAlgorithm::Ps256, false).await;
        assert_ne!(signed.assertion, signed.another);

        let mut validation = Validation::new(Algorithm::PS256);
        validation.validate_exp = false;
        validation.set_audience(&["https://login.example/t/oauth2/v2.0/token"]);
        let claims =
            jsonwebtoken::decode::<Value>(&signed.assertion, &signed.public_key, &validation);
        let claims = claims.unwrap().claims;
        assert_eq!(claims["iss"], "client");
        assert_eq!(claims["sub"], "client");
        assert_eq!(claims["iat"], 1_700_000_000);
        assert_eq!(claims["nbf"], 1_699_999_940);
        assert_eq!(claims["exp"], 1_700_000_600);
    }

    #[tokio::test]
    async fn the_algorithm_decides_which_thumbprint_names_the_certificate() {
        // SHA-256 and SHA-1 of `der`, in base64url.
        let digest = |algorithm| Some(URL_SAFE_NO_PAD.encode(digest::digest(algorithm, b"der")));
        for (algorithm, expected, sha_256, sha_1) in [
            (AssertionAlgorithm::Ps256, Algorithm::PS256, digest(&SHA256), None),
            (AssertionAlgorithm::Rs256, Algorithm::RS256, None, digest(&SHA1_FOR_LEGACY_USE_ONLY)),
        ] {
            let signed = signed(algorithm, false).await;
            let mut validation = Validation::new(expected);
            validation.validate_exp = false;
            validation.validate_aud = false;
            let decoded =
                jsonwebtoken::decode::<Value>(&signed.assertion, &signed.public_key, &validation);
            let header = decoded.unwrap().header;
            assert_eq!(header.x5t_s256, sha_256);
            assert_eq!(header.x5t, sha_1);
            assert_eq!(header.x5c, None);
        }
    }

    #[tokio::test]
    async fn a_key_is_named_by_its_own_thumbprint_or_as_configured() {
        let algorithm = AssertionAlgorithm::Ps256;
        let key_id = |signed: &Signed| jsonwebtoken::decode_header(&signed.assertion).unwrap().kid;
        assert_eq!(key_id(&signed(algorithm, false).await), None);
        let named = signed_naming(KeyId::Named("k-1".to_owned()), algorithm, false).await;
        assert_eq!(key_id(&named).as_deref(), Some("k-1"));
        let signed = signed_naming(KeyId::Thumbprint, algorithm, false).await;
        // RFC 7638 3: the required members in alphabetical order, without white space.
        let public = signed.key.published(&serde_json::json!({}));
        let members = format!(r#"{{"e":{},"kty":"RSA","n":{}}}"#, public["e"], public["n"]);
        let digest = digest::digest(&SHA256, members.as_bytes());
        assert_eq!(key_id(&signed), Some(URL_SAFE_NO_PAD.encode(digest)));
    }

    #[tokio::test]
    async fn the_certificate_itself_is_sent_where_configured() {
        let signed = signed(AssertionAlgorithm::Ps256, true).await;
        let header = jsonwebtoken::decode_header(&signed.assertion).unwrap();
        assert_eq!(header.x5c, Some(vec!["ZGVy".to_owned()]));
    }
}
