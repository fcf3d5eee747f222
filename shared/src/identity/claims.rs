//! What a token says.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;

use super::{authority::Version, rules::is_guid, verifier::VerifyError};
use crate::time::Timestamp;

/// The claims that Errand looks at, of any provider. Sources: RFC 9068 2.2; Entra "access token
/// claims".
///
/// What only one provider gives its meaning may be anything elsewhere, and then counts as absent.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    pub(super) aud: OneOrMany,
    exp: i64,
    pub(super) nbf: Option<i64>,
    pub(super) sub: Option<String>,
    scp: Option<OneOrMany>,
    scope: Option<OneOrMany>,
    azp: Option<String>,
    /// RFC 9068.
    client_id: Option<String>,
    /// Okta's `client_id`.
    #[serde(default, deserialize_with = "text")]
    cid: Option<String>,
    /// Entra's, in the first generation.
    appid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    ver: Option<String>,
    #[serde(default, deserialize_with = "text")]
    tid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) oid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) idtyp: Option<String>,
    #[serde(default)]
    roles: Option<Value>,
    xms_cc: Option<OneOrMany>,
    pub(super) nonce: Option<IgnoredAny>,
    /// Only in id_tokens (OpenID Connect Core 3.1.3.6).
    pub(super) at_hash: Option<IgnoredAny>,
    /// Auth0's grant type.
    #[serde(default, deserialize_with = "text")]
    pub(super) gty: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) preferred_username: Option<String>,
    pub(super) email: Option<IgnoredAny>,
    pub(super) name: Option<IgnoredAny>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// A claim that is text, or as good as absent.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.as_slice().iter().flat_map(|text| text.split_whitespace())
    }
}

impl Claims {
    /// Which generation of metadata and keys the token claims to belong to.
    pub(super) fn version(&self) -> Result<Version, VerifyError> {
        match self.ver.as_deref() {
            Some("1.0") => Ok(Version::V1),
            Some("2.0") => Ok(Version::V2),
            Some(_) | None => Err(VerifyError::invalid("the token's version is not accepted")),
        }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.iss
    }

    /// The tenant, a GUID in the letter case of the token, which is that of its issuer.
    pub(super) fn tenant(&self) -> Result<&str, VerifyError> {
        // Readers that ignore case would see another tenant than we do.
        if self.others.keys().any(|name| name.eq_ignore_ascii_case("tid")) {
            return Err(VerifyError::invalid("the token has several tenants"));
        }
        match &self.tid {
            Some(tenant) if is_guid(tenant) => Ok(tenant),
            Some(_) | None => Err(VerifyError::invalid("the token names no tenant")),
        }
    }

    pub(super) fn expires_at(&self) -> Result<Timestamp, VerifyError> {
        Timestamp::from_seconds(self.exp).ok_or(VerifyError::invalid("the token is malformed"))
    }

    pub(super) fn scopes(&self) -> Vec<String> {
        let scopes = self.scp.as_ref().or(self.scope.as_ref());
        scopes.into_iter().flat_map(OneOrMany::words).map(str::to_owned).collect()
    }

    /// Whether the token says anything of application roles, in whatever form.
    pub(super) fn has_roles(&self) -> bool {
        self.roles.is_some()
    }

    /// Whether an application role was assigned to the user or application: at Entra `roles` is a
    /// list of names, compared as they are.
    pub(super) fn has_role(&self, role: &str) -> bool {
        let roles = self.roles.as_ref().and_then(Value::as_array);
        roles.into_iter().flatten().any(|assigned| assigned == role)
    }

    /// The application that asked for the token.
    pub(super) fn client(&self) -> Option<&str> {
        let names = [&self.azp, &self.client_id, &self.cid, &self.appid];
        names.into_iter().find_map(Option::as_deref)
    }

    /// Whether the caller declared that it can deal with claims challenges (client capability `cp1`).
    pub(super) fn understands_claims_challenge(&self) -> bool {
        self.xms_cc.iter().flat_map(OneOrMany::words).any(|capability| capability == "cp1")
    }
}
