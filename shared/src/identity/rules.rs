//! The rules that a token has to satisfy, its signature and issuer aside.

use std::time::Duration;

use super::{
    claims::Claims,
    principal::Principal,
    verifier::{ForbiddenReason, VerifyError},
};
use crate::{
    config::{Dialect, IdentityConfig, Tenant},
    time::Timestamp,
};

/// How far the provider's clock and ours may differ (Microsoft's default).
const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// The application role of those who look after everybody's jobs.
const OPERATOR_ROLE: &str = "Errand.Operator";

/// What must be left of a token's life, without skew: the provider checks it again in the exchange.
const MIN_REMAINING: Duration = Duration::from_mins(1);

/// Who may call, from the configuration.
#[derive(Debug)]
pub(super) struct Rules {
    dialect: Dialect,
    audiences: Vec<String>,
    required_scopes: Vec<String>,
    allowed_clients: Vec<String>,
}

impl Rules {
    pub(super) fn of(config: &IdentityConfig) -> Self {
        Self {
            dialect: config.dialect.clone(),
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
        let principal = match &self.dialect {
            Dialect::Entra { tenant, .. } => {
                check_entra(claims, tenant)?;
                entra_user(claims)?
            }
            Dialect::TokenExchange { .. } => openid_user(claims)?,
        };
        self.check_client(claims)?;
        self.check_scopes(claims)?;
        if claims.expires_at()? < now + MIN_REMAINING {
            return Err(VerifyError::ExpiresTooSoon);
        }
        Ok(principal)
    }

    /// Checks what is true of a good token of an operator, its signature and issuer aside: a user's
    /// token that may call, or an application's own, with the role. Returns whose it is.
    ///
    /// Nothing is exchanged for an operator, so the token is good to its end. Other providers give
    /// `roles` any meaning, so they have no operators.
    pub(super) fn check_operator(
        &self,
        claims: &Claims,
        now: Timestamp,
    ) -> Result<Principal, VerifyError> {
        self.check_audience(claims)?;
        check_time(claims, now)?;
        let Dialect::Entra { tenant, .. } = &self.dialect else { return Err(NO_OPERATOR) };
        check_entra(claims, tenant)?;
        let is_application = is_application(claims);
        let principal = if is_application { entra_principal(claims)? } else { entra_user(claims)? };
        self.check_client(claims)?;
        if !is_application {
            self.check_scopes(claims)?;
        }
        if claims.has_role(OPERATOR_ROLE) { Ok(principal) } else { Err(NO_OPERATOR) }
    }

    /// Any one of the required scopes does.
    fn check_scopes(&self, claims: &Claims) -> Result<(), VerifyError> {
        let scopes = claims.scopes();
        let required = &self.required_scopes;
        if required.is_empty() || required.iter().any(|required| scopes.contains(required)) {
            Ok(())
        } else {
            Err(VerifyError::Forbidden { reason: ForbiddenReason::MissingScope })
        }
    }

    /// At Entra GUIDs are compared as such, and application ID URIs exactly, as it does in the
    /// exchange.
    fn check_audience(&self, claims: &Claims) -> Result<(), VerifyError> {
        let ignores_case = |ours: &str| match self.dialect {
            Dialect::Entra { .. } => is_guid(ours),
            Dialect::TokenExchange { .. } => false,
        };
        let is_ours = |audience: &String| {
            self.audiences.iter().any(|ours| {
                ours == audience || (ignores_case(ours) && ours.eq_ignore_ascii_case(audience))
            })
        };
        if claims.aud.as_slice().iter().any(is_ours) {
            Ok(())
        } else {
            Err(VerifyError::invalid("the token is for another audience"))
        }
    }

    fn check_client(&self, claims: &Claims) -> Result<(), VerifyError> {
        let is_allowed = |client: &str| {
            self.allowed_clients.iter().any(|allowed| match self.dialect {
                Dialect::Entra { .. } => allowed.eq_ignore_ascii_case(client),
                Dialect::TokenExchange { .. } => allowed == client,
            })
        };
        if self.allowed_clients.is_empty() || claims.client().is_some_and(is_allowed) {
            Ok(())
        } else {
            Err(VerifyError::Forbidden { reason: ForbiddenReason::ClientNotAllowed })
        }
    }
}

/// What is true of every access token of Entra: of a tenant that may call, and no id_token.
fn check_entra(claims: &Claims, tenant: &Tenant) -> Result<(), VerifyError> {
    check_tenant(claims, tenant)?;
    // An access token has none; an id_token, which is signed by the same keys, mostly does.
    if claims.nonce.is_some() { Err(ID_TOKEN) } else { Ok(()) }
}

/// The user of an Entra token: `tid` and `oid`.
fn entra_user(claims: &Claims) -> Result<Principal, VerifyError> {
    if is_application(claims) {
        return Err(APP_ONLY);
    }
    if claims.scopes().is_empty() {
        return Err(NO_SCOPES);
    }
    entra_principal(claims)
}

/// Whether an Entra token is an application's own. `idtyp` is optional there: its absence says
/// nothing.
fn is_application(claims: &Claims) -> bool {
    let is_subject_the_app = claims.oid.is_some() && claims.oid == claims.sub;
    claims.idtyp.as_deref() == Some("app")
        || (claims.scopes().is_empty() && (claims.has_roles() || is_subject_the_app))
}

fn entra_principal(claims: &Claims) -> Result<Principal, VerifyError> {
    match claims.oid.as_deref() {
        None | Some("") => Err(NO_USER),
        Some(subject) => Ok(Principal {
            tenant: claims.tenant()?.to_ascii_lowercase(),
            subject: subject.to_owned(),
        }),
    }
}

/// The user of any other provider's token: `iss` and `sub` (OpenID Connect Core 5.7).
fn openid_user(claims: &Claims) -> Result<Principal, VerifyError> {
    // Some providers copy `nonce` into access tokens; this one they do not.
    if claims.at_hash.is_some() {
        return Err(ID_TOKEN);
    }
    if is_client_the_subject(claims) {
        return Err(APP_ONLY);
    }
    if claims.scopes().is_empty() {
        return Err(NO_SCOPES);
    }
    match claims.sub.as_deref() {
        None | Some("") => Err(NO_USER),
        Some(subject) => {
            Ok(Principal { tenant: claims.issuer().to_owned(), subject: subject.to_owned() })
        }
    }
}

/// Whether the token comes from a client credentials grant, as far as providers let it be seen: no
/// standard claim says so, but then `sub` "should" be the client's id (RFC 9068 2.2).
fn is_client_the_subject(claims: &Claims) -> bool {
    let Some(subject) = claims.sub.as_deref() else { return true };
    if claims.gty.as_deref() == Some("client-credentials") {
        return true;
    }
    let Some(client) = claims.client() else { return false };
    let username = claims.preferred_username.as_deref();
    // Keycloak's account of a client, which has an id like any user's.
    if username.and_then(|name| name.strip_prefix("service-account-")) == Some(client) {
        return true;
    }
    let says_who = username.is_some() || claims.email.is_some() || claims.name.is_some();
    // Auth0 appends `@clients`.
    subject.strip_suffix("@clients").unwrap_or(subject) == client && !says_who
}

const ID_TOKEN: VerifyError = VerifyError::invalid("the token is an id_token, not an access token");
const NO_SCOPES: VerifyError = VerifyError::invalid("the token has no scopes");
const NO_USER: VerifyError = VerifyError::invalid("the token names no user");
const NO_OPERATOR: VerifyError = VerifyError::Forbidden { reason: ForbiddenReason::NotOperator };
const APP_ONLY: VerifyError = VerifyError::Forbidden { reason: ForbiddenReason::AppOnly };

fn check_tenant(claims: &Claims, tenant: &Tenant) -> Result<(), VerifyError> {
    let claimed = claims.tenant()?.to_ascii_lowercase();
    let is_allowed = match tenant {
        Tenant::Single(own) => *own == claimed,
        Tenant::Multiple { allowed: Some(allowed), .. } => allowed.contains(&claimed),
        Tenant::Multiple { allowed: None, .. } => true,
    };
    if is_allowed {
        Ok(())
    } else {
        Err(VerifyError::invalid("the token is from a tenant that may not call"))
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
pub(super) fn is_guid(text: &str) -> bool {
    text.len() == uuid::fmt::Hyphenated::LENGTH && uuid::Uuid::try_parse(text).is_ok()
}
