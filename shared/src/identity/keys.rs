//! The provider's published keys (RFC 7517) and the issuer they go with.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

/// Where a provider's metadata stands for the tenant of the token.
const TENANT_PLACEHOLDER: &str = "{tenantid}";

/// What of a discovery document is used (OpenID Connect Discovery 1.0, 3).
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) jwks_uri: Url,
    cloud_instance_name: Option<String>,
}

/// A published issuer: the whole of it, or with a placeholder for the tenant.
#[derive(Debug, Clone)]
pub(super) struct IssuerTemplate(String);

impl IssuerTemplate {
    /// The issuer of tokens for `tenant`. Compared exactly, letter case included.
    pub(super) fn for_tenant(&self, tenant: &str) -> String {
        self.0.replace(TENANT_PLACEHOLDER, tenant)
    }

    /// The issuer as it is published.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// All keys of one metadata document.
#[derive(Debug)]
pub(super) struct KeySet {
    pub(super) issuer: IssuerTemplate,
    keys: HashMap<String, VerificationKey>,
}

/// One key, and whose tokens it may sign.
#[derive(Debug)]
pub(super) struct VerificationKey {
    key: DecodingKey,
    algorithm: Option<String>,
    /// Entra: keys of one document may sign for different classes of tenants.
    pub(super) issuer: Option<IssuerTemplate>,
}

#[derive(Deserialize)]
struct JsonWebKeySet {
    /// Read one by one: a key of a kind that we do not know must not hide the others.
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct JsonWebKey {
    kty: String,
    kid: String,
    n: String,
    e: String,
    #[serde(rename = "use")]
    public_key_use: Option<String>,
    alg: Option<String>,
    issuer: Option<String>,
    cloud_instance_name: Option<String>,
}

impl KeySet {
    /// Reads a JWKS document. Keys that cannot verify a token are left out.
    pub(super) fn parse(metadata: &Metadata, document: &[u8]) -> Result<Self, serde_json::Error> {
        let document: JsonWebKeySet = serde_json::from_slice(document)?;
        let keys = document
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<JsonWebKey>(key).ok())
            .filter(|key| key.is_for_signatures() && key.is_of_cloud(metadata))
            .filter_map(|key| {
                let verification_key = VerificationKey {
                    key: DecodingKey::from_rsa_components(&key.n, &key.e).ok()?,
                    algorithm: key.alg,
                    issuer: key.issuer.map(IssuerTemplate),
                };
                Some((key.kid, verification_key))
            })
            .collect();
        Ok(Self { issuer: IssuerTemplate(metadata.issuer.clone()), keys })
    }

    pub(super) fn key(&self, key_id: &str) -> Option<&VerificationKey> {
        self.keys.get(key_id)
    }
}

impl JsonWebKey {
    fn is_for_signatures(&self) -> bool {
        self.kty == "RSA" && self.public_key_use.as_deref().unwrap_or("sig") == "sig"
    }

    fn is_of_cloud(&self, metadata: &Metadata) -> bool {
        match (&self.cloud_instance_name, &metadata.cloud_instance_name) {
            (Some(key), Some(metadata)) => key == metadata,
            (None, _) | (_, None) => true,
        }
    }
}

impl VerificationKey {
    /// Whether `signature` (base64url) is this key's over `message`. Keys below 2,048 bits verify
    /// nothing.
    pub(super) fn verifies(&self, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        let is_of_algorithm = match &self.algorithm {
            Some(name) => name.parse::<Algorithm>().is_ok_and(|named| named == algorithm),
            None => true,
        };
        is_of_algorithm
            && jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm)
                .unwrap_or(false)
    }
}
