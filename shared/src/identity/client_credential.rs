//! How Errand proves who it is (RFC 6749 2.3, RFC 7523 2.2).
//!
//! Files are read for each request: a mounted certificate or assertion is renewed in place by
//! somebody else, and one that was read at the start would be out of date some day.

use std::{
    io,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    client_assertion,
    managed_identity::{ManagedIdentity, ManagedIdentityError},
};
use crate::{
    config::{self, ClientAuthentication, ClientCertificate, IdentityConfig},
    time::SharedClock,
};

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
    #[error("client credential: {0}")]
    ManagedIdentity(#[from] ManagedIdentityError),
}

/// A configured credential, ready to prove.
#[derive(Debug)]
pub(super) enum ClientCredential {
    /// Travels by itself.
    Secret(SecretString, ClientAuthentication),
    /// Its key signs.
    Certificate(ClientCertificate),
    /// Holds an assertion.
    SignedAssertionFile(PathBuf),
    /// Its token is the assertion.
    ManagedIdentity(Box<ManagedIdentity>),
}

impl ClientCredential {
    /// The credentials of `config` in their order.
    pub(super) fn all(config: &IdentityConfig, clock: &SharedClock) -> Vec<Self> {
        use config::ClientCredential as Configured;
        let ready = |configured: &Configured| match configured.clone() {
            Configured::Secret(secret) => Self::Secret(secret, config.client_authentication),
            Configured::Certificate(certificate) => Self::Certificate(certificate),
            Configured::SignedAssertionFile(path) => Self::SignedAssertionFile(path),
            Configured::ManagedIdentity(identity) => {
                Self::ManagedIdentity(Box::new(ManagedIdentity::new(identity, clock.clone())))
            }
        };
        config.client_credentials.iter().map(ready).collect()
    }

    /// Proves to `token_endpoint` that the request is `client_id`'s.
    pub(super) async fn prove(
        &self,
        client_id: &str,
        token_endpoint: &Url,
        clock: &SharedClock,
    ) -> Result<Proof, CredentialError> {
        match self {
            Self::Secret(secret, ClientAuthentication::Post) => {
                Ok(Proof::SecretInForm(secret.clone()))
            }
            Self::Secret(secret, ClientAuthentication::Basic) => {
                Ok(Proof::SecretInHeader(secret.clone()))
            }
            Self::Certificate(certificate) => {
                client_assertion::sign(certificate, client_id, token_endpoint, clock.now())
                    .await
                    .map(Proof::Assertion)
            }
            Self::SignedAssertionFile(path) => {
                let assertion = String::from_utf8(read(path).await?)
                    .map_err(|_| unusable(path, "is not text"))?;
                match assertion.trim() {
                    "" => Err(unusable(path, "is empty")),
                    assertion => Ok(Proof::Assertion(assertion.into())),
                }
            }
            Self::ManagedIdentity(identity) => Ok(Proof::Assertion(identity.token().await?)),
        }
    }
}

pub(super) async fn read(path: &Path) -> Result<Vec<u8>, CredentialError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })
}

pub(super) fn unusable(path: &Path, problem: &'static str) -> CredentialError {
    CredentialError::Unusable { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test_provider::{self, CLIENT_ID},
        *,
    };
    use crate::time::{ManualClock, Timestamp};

    async fn proof(
        credential: config::ClientCredential,
        authentication: ClientAuthentication,
    ) -> Result<Proof, CredentialError> {
        let mut config = test_provider::configuration("https://login.example/".parse().unwrap());
        config.client_credentials = vec![credential];
        config.client_authentication = authentication;
        let clock: SharedClock = ManualClock::at(Timestamp::from_seconds(1_700_000_000).unwrap());
        let endpoint = "https://login.example/t/oauth2/v2.0/token".parse().unwrap();
        let credential = ClientCredential::all(&config, &clock).remove(0);
        credential.prove(CLIENT_ID, &endpoint, &clock).await
    }

    #[tokio::test]
    async fn a_secret_travels_as_configured() {
        let credential = config::ClientCredential::Secret("a~b+c:d".into());
        let in_form = proof(credential.clone(), ClientAuthentication::Post).await.unwrap();
        assert_eq!(in_form.parameters(), [("client_secret", "a~b+c:d")]);
        assert_eq!(in_form.basic(CLIENT_ID), None);

        let in_header = proof(credential, ClientAuthentication::Basic).await.unwrap();
        assert!(in_header.parameters().is_empty());
        let expected = (CLIENT_ID.to_owned(), "a%7Eb%2Bc%3Ad".to_owned());
        assert_eq!(in_header.basic(CLIENT_ID), Some(expected));
    }

    #[tokio::test]
    async fn an_assertion_file_is_read_anew_for_each_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let credential = config::ClientCredential::SignedAssertionFile(path.clone());
        for assertion in ["first", "second"] {
            std::fs::write(&path, format!("{assertion}\n")).unwrap();
            let proof = proof(credential.clone(), ClientAuthentication::Post).await.unwrap();
            assert_eq!(proof.secret(), assertion);
        }
    }

    #[tokio::test]
    async fn an_assertion_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), " \n").unwrap();
        for (name, problem) in [("missing", "cannot read"), ("empty", "is empty")] {
            let file = config::ClientCredential::SignedAssertionFile(folder.path().join(name));
            let error = proof(file, ClientAuthentication::Post).await.unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(problem), "{error}");
        }
    }
}
