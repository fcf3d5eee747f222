//! How Errand proves who it is (RFC 6749 2.3, RFC 7523 2.2).
//!
//! Files are read for each request: a mounted certificate or assertion is renewed in place by
//! somebody else, and one that was read at the start would be out of date some day.

use std::{
    io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;
use uuid::Uuid;

use crate::{
    config::{ClientAuthentication, ClientCredential},
    time::Timestamp,
};

/// How long a client assertion is good (Entra recommends ten minutes at most).
const ASSERTION_LIFETIME_SECONDS: i64 = 600;
/// How far our clock may be ahead of the provider's.
const ASSERTION_SKEW_SECONDS: i64 = 60;

/// A proof for one request.
#[derive(Debug)]
pub(super) enum Proof {
    /// `client_secret`, in the form.
    SecretInForm(SecretString),
    /// In the `Authorization` header.
    SecretInHeader(SecretString),
    /// `client_assertion`, in the form.
    Assertion(SecretString),
}

impl Proof {
    pub(super) fn parameters(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::SecretInForm(secret) => vec![("client_secret", secret.expose_secret())],
            Self::SecretInHeader(_) => Vec::new(),
            Self::Assertion(assertion) => vec![
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", assertion.expose_secret()),
            ],
        }
    }

    /// User name and password of HTTP Basic, form-encoded as RFC 6749 2.3.1 wants them.
    pub(super) fn basic(&self, client_id: &str) -> Option<(String, String)> {
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        match self {
            Self::SecretInHeader(secret) => {
                Some((encode(client_id), encode(secret.expose_secret())))
            }
            Self::SecretInForm(_) | Self::Assertion(_) => None,
        }
    }

    /// What must not be in any log.
    pub(super) fn secret(&self) -> &str {
        match self {
            Self::SecretInForm(secret) | Self::SecretInHeader(secret) => secret.expose_secret(),
            Self::Assertion(assertion) => assertion.expose_secret(),
        }
    }
}

/// A credential that cannot be used: an operator's matter.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("client credential: cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("client credential: {} {problem}", path.display())]
    Unusable { path: PathBuf, problem: &'static str },
}

/// Proves to `token_endpoint` that the request is `client_id`'s.
pub(super) async fn prove(
    credential: &ClientCredential,
    client_id: &str,
    authentication: ClientAuthentication,
    token_endpoint: &Url,
    now: Timestamp,
) -> Result<Proof, CredentialError> {
    match (credential, authentication) {
        (ClientCredential::Secret(secret), ClientAuthentication::Post) => {
            Ok(Proof::SecretInForm(secret.clone()))
        }
        (ClientCredential::Secret(secret), ClientAuthentication::Basic) => {
            Ok(Proof::SecretInHeader(secret.clone()))
        }
        (ClientCredential::Certificate { certificate_path, private_key_path }, _) => {
            let claims = AssertionClaims::new(client_id, token_endpoint, now);
            sign(&claims, certificate_path, private_key_path).await.map(Proof::Assertion)
        }
        (ClientCredential::SignedAssertionFile(path), _) => {
            let assertion =
                String::from_utf8(read(path).await?).map_err(|_| unusable(path, "is not text"))?;
            match assertion.trim() {
                "" => Err(unusable(path, "is empty")),
                assertion => Ok(Proof::Assertion(assertion.into())),
            }
        }
    }
}

/// RFC 7523 3; numbers are NumericDates.
#[derive(Debug, Serialize)]
struct AssertionClaims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
}

impl<'a> AssertionClaims<'a> {
    fn new(client_id: &'a str, token_endpoint: &'a Url, now: Timestamp) -> Self {
        let now = now.seconds();
        Self {
            aud: token_endpoint.as_str(),
            iss: client_id,
            sub: client_id,
            jti: Uuid::new_v4(),
            iat: now,
            nbf: now - ASSERTION_SKEW_SECONDS,
            exp: now + ASSERTION_LIFETIME_SECONDS,
        }
    }
}

async fn sign(
    claims: &AssertionClaims<'_>,
    certificate_path: &Path,
    private_key_path: &Path,
) -> Result<SecretString, CredentialError> {
    let certificate = first_block(certificate_path, "CERTIFICATE", "holds no certificate").await?;
    let key = first_block(private_key_path, "PRIVATE KEY", "holds no private key").await?;
    let key = EncodingKey::from_rsa_pem(pem::encode(&key).as_bytes())
        .map_err(|_| unusable(private_key_path, "holds no RSA key in PKCS #1 or #8"))?;

    let thumbprint = digest::digest(&digest::SHA256, certificate.contents());
    let mut header = Header::new(Algorithm::PS256);
    header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(thumbprint));
    jsonwebtoken::encode(&header, claims, &key)
        .map(SecretString::from)
        .map_err(|_| unusable(private_key_path, "holds a key that cannot sign"))
}

/// The first block of a PEM file whose label ends in `label`; one file may hold key and certificate.
async fn first_block(
    path: &Path,
    label: &str,
    otherwise: &'static str,
) -> Result<pem::Pem, CredentialError> {
    let blocks =
        pem::parse_many(read(path).await?).map_err(|_| unusable(path, "is not a PEM file"))?;
    let found = blocks.into_iter().find(|block| block.tag().ends_with(label));
    found.ok_or_else(|| unusable(path, otherwise))
}

async fn read(path: &Path) -> Result<Vec<u8>, CredentialError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })
}

fn unusable(path: &Path, problem: &'static str) -> CredentialError {
    CredentialError::Unusable { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    use super::{super::test_provider::TestKey, *};

    const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";

    async fn proof(
        credential: &ClientCredential,
        authentication: ClientAuthentication,
    ) -> Result<Proof, CredentialError> {
        let endpoint = "https://login.example/t/oauth2/v2.0/token".parse().unwrap();
        let now = Timestamp::from_seconds(1_700_000_000).unwrap();
        prove(credential, CLIENT_ID, authentication, &endpoint, now).await
    }

    #[tokio::test]
    async fn a_secret_travels_as_configured() {
        let credential = ClientCredential::Secret("a~b+c:d".into());
        let in_form = proof(&credential, ClientAuthentication::Post).await.unwrap();
        assert_eq!(in_form.parameters(), [("client_secret", "a~b+c:d")]);
        assert_eq!(in_form.basic(CLIENT_ID), None);

        let in_header = proof(&credential, ClientAuthentication::Basic).await.unwrap();
        assert!(in_header.parameters().is_empty());
        let expected = (CLIENT_ID.to_owned(), "a%7Eb%2Bc%3Ad".to_owned());
        assert_eq!(in_header.basic(CLIENT_ID), Some(expected));
    }

    #[tokio::test]
    async fn a_certificate_signs_a_new_assertion_for_the_token_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.pem");
        let key = TestKey::generate("client");
        // The thumbprint is of the certificate's bytes, whatever they are.
        let certificate = pem::Pem::new("CERTIFICATE", b"der".to_vec());
        std::fs::write(&path, key.private_key_pem() + &pem::encode(&certificate)).unwrap();
        let credential = ClientCredential::Certificate {
            certificate_path: path.clone(),
            private_key_path: path,
        };

        let first = proof(&credential, ClientAuthentication::Post).await.unwrap();
        let second = proof(&credential, ClientAuthentication::Basic).await.unwrap();
        assert_ne!(first.secret(), second.secret());

        let header = jsonwebtoken::decode_header(first.secret()).unwrap();
        assert_eq!(header.alg, Algorithm::PS256);
        let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, b"der"));
        assert_eq!(header.x5t_s256.as_deref(), Some(thumbprint.as_str()));

        let mut validation = Validation::new(Algorithm::PS256);
        validation.validate_exp = false;
        validation.set_audience(&["https://login.example/t/oauth2/v2.0/token"]);
        let public_key = DecodingKey::from_jwk(&key.public_key()).unwrap();
        let claims =
            jsonwebtoken::decode::<Value>(first.secret(), &public_key, &validation).unwrap().claims;
        assert_eq!(claims["iss"], CLIENT_ID);
        assert_eq!(claims["sub"], CLIENT_ID);
        assert_eq!(claims["iat"], 1_700_000_000);
        assert_eq!(claims["nbf"], 1_699_999_940);
        assert_eq!(claims["exp"], 1_700_000_600);
    }

    #[tokio::test]
    async fn an_assertion_file_is_read_anew_for_each_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let credential = ClientCredential::SignedAssertionFile(path.clone());
        for assertion in ["first", "second"] {
            std::fs::write(&path, format!("{assertion}\n")).unwrap();
            let proof = proof(&credential, ClientAuthentication::Post).await.unwrap();
            assert_eq!(proof.secret(), assertion);
        }
    }

    #[tokio::test]
    async fn a_credential_that_cannot_be_used_is_named_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", b"der".to_vec()));
        let key = pem::encode(&pem::Pem::new("PRIVATE KEY", b"no key".to_vec()));
        let certificate = file("certificate.pem", &certificate);
        let pair =
            |certificate_path: &Path, private_key_path: &Path| ClientCredential::Certificate {
                certificate_path: certificate_path.to_owned(),
                private_key_path: private_key_path.to_owned(),
            };
        for (credential, name, problem) in [
            (
                ClientCredential::SignedAssertionFile(folder.path().join("missing")),
                "missing",
                "cannot read",
            ),
            (ClientCredential::SignedAssertionFile(file("empty", " \n")), "empty", "is empty"),
            (pair(&certificate, &certificate), "certificate.pem", "holds no private key"),
            (pair(&certificate, &file("key.pem", &key)), "key.pem", "holds no RSA key"),
        ] {
            let error = proof(&credential, ClientAuthentication::Post).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(problem), "{text}");
        }
    }
}
