//! What a token says, and the rules that it has to satisfy.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    authority::Version,
    principal::Principal,
    verifier::{ForbiddenReason, VerifyError},
};
use crate::{
    config::{IdentityConfig, Tenant},
    time::Timestamp,
};

/// How far the provider's clock and ours may differ (Microsoft's default).
const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// What must be left of a token's life, without skew: the provider checks it again in the exchange.
const MIN_REMAINING: Duration = Duration::from_mins(1);

/// The claims that Errand looks at. Entra documents them as "access token claims".
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    aud: OneOrMany,
    exp: i64,
    nbf: Option<i64>,
    ver: Option<String>,
    tid: Option<String>,
    oid: Option<String>,
    sub: Option<String>,
    idtyp: Option<String>,
    scp: Option<OneOrMany>,
    scope: Option<OneOrMany>,
    roles: Option<OneOrMany>,
    azp: Option<String>,
    appid: Option<String>,
    xms_cc: Option<OneOrMany>,
    nonce: Option<IgnoredAny>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
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

    /// The application that asked for the token: `azp`, in the first generation `appid`.
    pub(super) fn client(&self) -> Option<&str> {
        self.azp.as_deref().or(self.appid.as_deref())
    }

    /// Whether the caller declared that it can deal with claims challenges (client capability `cp1`).
    pub(super) fn understands_claims_challenge(&self) -> bool {
        self.xms_cc.iter().flat_map(OneOrMany::words).any(|capability| capability == "cp1")
    }

    fn is_app_only(&self) -> bool {
        let is_subject_the_app = self.oid.is_some() && self.oid == self.sub;
        self.idtyp.as_deref() == Some("app")
            || (self.scopes().is_empty() && (self.roles.is_some() || is_subject_the_app))
    }
}

/// Who may call, from the configuration.
#[derive(Debug)]
pub(super) struct Rules {
    tenant: Tenant,
    audiences: Vec<String>,
    required_scopes: Vec<String>,
    allowed_clients: Vec<String>,
}

impl Rules {
    pub(super) fn of(config: &IdentityConfig) -> Self {
        Self {
            tenant: config.tenant.clone(),
            audiences: config.audiences.clone(),
            required_scopes: config.required_scopes.clone(),
            allowed_clients: config.allowed_clients.clone(),
        }
    }

    /// Checks what is true of a good token for Errand, its signature and issuer aside.
    ///
    /// First what makes a token bad (401), then what its owner may not do (403).
    pub(super) fn check(&self, claims: &Claims, now: Timestamp) -> Result<Principal, VerifyError> {
        self.check_audience(claims)?;
        check_time(claims, now)?;
        self.check_tenant(claims)?;
        // An access token has none; an id_token, which is signed by the same keys, mostly does.
        if claims.nonce.is_some() {
            return Err(VerifyError::invalid("the token is an id_token, not an access token"));
        }
        if claims.is_app_only() {
            return Err(VerifyError::Forbidden { reason: ForbiddenReason::AppOnly });
        }
        let scopes = claims.scopes();
        if scopes.is_empty() {
            return Err(VerifyError::invalid("the token has no scopes"));
        }
        let subject = claims.oid.clone().unwrap_or_default();
        if subject.is_empty() {
            return Err(VerifyError::invalid("the token names no user"));
        }
        self.check_client(claims)?;
        if !self.required_scopes.is_empty()
            && !self.required_scopes.iter().any(|required| scopes.contains(required))
        {
            return Err(VerifyError::Forbidden { reason: ForbiddenReason::MissingScope });
        }
        if claims.expires_at()? < now + MIN_REMAINING {
            return Err(VerifyError::ExpiresTooSoon);
        }
        Ok(Principal { tenant: claims.tenant()?.to_ascii_lowercase(), subject })
    }

    /// GUIDs are compared as such. Application ID URIs exactly, as Entra does in the exchange.
    fn check_audience(&self, claims: &Claims) -> Result<(), VerifyError> {
        let is_ours = |audience: &String| {
            self.audiences.iter().any(|ours| {
                ours == audience || (is_guid(ours) && ours.eq_ignore_ascii_case(audience))
            })
        };
        if claims.aud.as_slice().iter().any(is_ours) {
            Ok(())
        } else {
            Err(VerifyError::invalid("the token is for another audience"))
        }
    }

    fn check_tenant(&self, claims: &Claims) -> Result<(), VerifyError> {
        let tenant = claims.tenant()?.to_ascii_lowercase();
        let is_allowed = match &self.tenant {
            Tenant::Single(own) => *own == tenant,
            Tenant::Multiple { allowed: Some(allowed), .. } => allowed.contains(&tenant),
            Tenant::Multiple { allowed: None, .. } => true,
        };
        if is_allowed {
            Ok(())
        } else {
            Err(VerifyError::invalid("the token is from a tenant that may not call"))
        }
    }

    fn check_client(&self, claims: &Claims) -> Result<(), VerifyError> {
        let is_allowed = |client: &str| {
            self.allowed_clients.iter().any(|allowed| allowed.eq_ignore_ascii_case(client))
        };
        if self.allowed_clients.is_empty() || claims.client().is_some_and(is_allowed) {
            Ok(())
        } else {
            Err(VerifyError::Forbidden { reason: ForbiddenReason::ClientNotAllowed })
        }
    }
}

fn check_time(claims: &Claims, now: Timestamp) -> Result<(), VerifyError> {
    if claims.expires_at()? + CLOCK_SKEW <= now {
        return Err(VerifyError::invalid("the token is expired"));
    }
    match claims.nbf.map(Timestamp::from_seconds) {
        Some(Some(not_before)) if not_before > now + CLOCK_SKEW => {
            Err(VerifyError::invalid("the token is not valid yet"))
        }
        Some(None) => Err(VerifyError::invalid("the token is malformed")),
        Some(Some(_)) | None => Ok(()),
    }
}

/// Hyphenated form only, in either case: 8-4-4-4-12 hexadecimal digits.
fn is_guid(text: &str) -> bool {
    text.len() == uuid::fmt::Hyphenated::LENGTH && uuid::Uuid::try_parse(text).is_ok()
}
