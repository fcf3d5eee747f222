use std::collections::HashMap;

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{Tenant, client_certificate, entra_error::EntraError};

/// How a client proved itself. Names: IANA registry of token endpoint authentication methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// `client_secret` in the body.
    ClientSecretPost,
    /// HTTP Basic.
    ClientSecretBasic,
    /// A client assertion signed with a certificate's key.
    PrivateKeyJwt,
}

/// The credential of a token request, not checked yet.
pub(crate) struct Credential {
    pub(crate) method: ClientAuthentication,
    client_id: String,
    /// Secret or assertion.
    proof: String,
}

impl Credential {
    /// `None` if the request has no credential at all.
    pub(crate) fn of(headers: &HeaderMap, form: &HashMap<String, String>) -> Option<Self> {
        let text = |name: &str| form.get(name).cloned();
        let client_id = text("client_id").unwrap_or_default();
        if let Some(proof) = text("client_assertion") {
            return Some(Self { method: ClientAuthentication::PrivateKeyJwt, client_id, proof });
        }
        if let Some(proof) = text("client_secret") {
            return Some(Self { method: ClientAuthentication::ClientSecretPost, client_id, proof });
        }
        let basic = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
        let pair = String::from_utf8(BASE64_STANDARD.decode(basic.trim()).ok()?).ok()?;
        let (client_id, secret) = pair.split_once(':')?;
        Some(Self {
            method: ClientAuthentication::ClientSecretBasic,
            client_id: form_decoded(client_id),
            proof: form_decoded(secret),
        })
    }

    /// `audiences`: what a client assertion may be addressed to.
    pub(crate) fn verify(&self, tenant: &Tenant, audiences: &[String]) -> Result<(), EntraError> {
        let registration = &tenant.registration;
        if self.client_id != registration.client_id {
            return Err(700_016.into());
        }
        match self.method {
            ClientAuthentication::PrivateKeyJwt => client_certificate::verify(
                &self.proof,
                tenant.client_certificate.as_ref(),
                &self.client_id,
                audiences,
                tenant.clock.now(),
            ),
            ClientAuthentication::ClientSecretPost | ClientAuthentication::ClientSecretBasic => {
                if self.proof == registration.client_secret {
                    Ok(())
                } else {
                    Err(7_000_215.into())
                }
            }
        }
    }
}

/// Id and secret are form-encoded before they go into the header (RFC 6749 section 2.3.1).
fn form_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
