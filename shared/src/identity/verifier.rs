//! Who calls: verification of an incoming access token.
//!
//! The order of checks and the rules of issuers, keys and audiences are Microsoft.Identity.Web's and
//! IdentityModel's; RFC 8725 says why each is there.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;

use super::{
    compact_token::CompactToken,
    issuers::{Issuers, Verified},
    key_cache::NoKeys,
    principal::Principal,
    rules::Rules,
    secret::{AssertionHash, UserAssertion},
};
use crate::{
    config::IdentityConfig,
    time::{SharedClock, Timestamp},
};

/// How many bytes of tokens are known to be signed rightly.
const CAPACITY: u64 = 16 * 1024 * 1024;

/// How long that is remembered at most.
const REMEMBERED: Duration = Duration::from_mins(5);

/// A user who called, by a token that is good for Errand.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// Their token, for an exchange.
    pub assertion: UserAssertion,
    /// When that token ends; at least 60 seconds from the check.
    pub expires_at: Timestamp,
    /// What the token permits at Errand (`scp`, `scope`).
    pub scopes: Vec<String>,
    /// The application the user calls with (`azp`, `client_id`, `appid`).
    pub client: Option<String>,
    /// The application can deal with a claims challenge (`xms_cc` has `cp1`).
    pub understands_claims_challenge: bool,
}

/// Somebody who looks after all jobs of a tenant: a user or an application with the application role
/// `Errand.Operator`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Who it is; an application by the object id of its service principal. The tenant is the one
    /// whose jobs the operator may see.
    pub principal: Principal,
    /// When the token ends.
    pub expires_at: Timestamp,
    /// The application that calls, on its own or for a user (`azp`, `appid`).
    pub client: Option<String>,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// 401 without an error code: no bearer token, or several (RFC 6750 3.1).
    #[error("no bearer token")]
    Missing,
    /// 401 `invalid_token`.
    #[error("{description}")]
    Invalid {
        /// Safe to show, and to put between quotes in `WWW-Authenticate`.
        description: &'static str,
    },
    /// 403: a good token of somebody who may not do this.
    #[error("{reason}")]
    Forbidden {
        /// Which rule forbids it.
        reason: ForbiddenReason,
    },
    /// 401 `invalid_token`: good, but it would be expired before it is exchanged.
    #[error("the token expires too soon")]
    ExpiresTooSoon,
    /// 503: the provider's keys cannot be had, so nothing can be said of the token.
    #[error("the identity provider's keys are not available")]
    Unavailable {
        /// Until it is worth another try; at least a second.
        retry_after: Duration,
    },
}

/// Why a good token does not suffice. Its text is safe to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenReason {
    /// An application without a user: there is nobody to act for.
    #[error("the token is an application's own, not a user's")]
    AppOnly,
    /// None of `required_scopes` is in the token.
    #[error("the token lacks the required scope")]
    MissingScope,
    /// The application is not among `allowed_clients`.
    #[error("the application may not call")]
    ClientNotAllowed,
    /// The application role `Errand.Operator` is not in the token.
    #[error("the token lacks the role of an operator")]
    NotOperator,
}

impl VerifyError {
    pub(super) const fn invalid(description: &'static str) -> Self {
        Self::Invalid { description }
    }
}

impl From<NoKeys> for VerifyError {
    fn from(NoKeys { retry_after }: NoKeys) -> Self {
        Self::Unavailable { retry_after }
    }
}

/// Checks tokens against the configuration and the provider's published keys.
#[derive(Debug)]
pub struct Verifier {
    rules: Rules,
    issuers: Issuers,
    /// What of a token does not change: who signed it, and what it says.
    verified: Cache<AssertionHash, Arc<Verified>>,
    clock: SharedClock,
}

impl Verifier {
    /// Makes no request yet: see [`Verifier::warm`].
    pub fn new(config: &IdentityConfig, clock: SharedClock) -> Self {
        let verified = Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(|_, verified: &Arc<Verified>| verified.weight)
            .time_to_live(REMEMBERED)
            .build();
        let issuers = Issuers::of(&config.dialect, &clock);
        Self { rules: Rules::of(config), issuers, verified, clock }
    }

    /// Fetches the provider's keys unless they are there already, e.g. before the first request.
    ///
    /// # Errors
    /// [`VerifyError::Unavailable`]: try again later; the first token will, too.
    pub async fn warm(&self) -> Result<(), VerifyError> {
        self.issuers.warm().await
    }

    /// Whether tokens can be checked now: there are keys that are not older than a day.
    pub fn is_ready(&self) -> bool {
        self.issuers.are_ready()
    }

    /// Returns who calls, from the value of the `Authorization` header.
    ///
    /// Several header lines are to be joined with a comma, as HTTP does, and are refused.
    ///
    /// Source: RFC 6750 2.1 and 3.1; RFC 9068 4; Entra "access token claims reference".
    pub async fn verify(&self, authorization: Option<&str>) -> Result<Caller, VerifyError> {
        let assertion = bearer_token(authorization).ok_or(VerifyError::Missing)?;
        let assertion = UserAssertion::new(assertion);
        let verified = self.verified(&assertion).await?;
        let claims = &verified.claims;
        let principal = self.rules.check(claims, self.clock.now())?;
        Ok(Caller {
            principal,
            assertion,
            expires_at: claims.expires_at()?,
            scopes: claims.scopes(),
            client: claims.client().map(str::to_owned),
            understands_claims_challenge: claims.understands_claims_challenge(),
        })
    }

    /// Returns which operator calls, from the value of the `Authorization` header.
    ///
    /// A user's token has to be one that [`verify`](Self::verify) accepts, save that it may end at
    /// any time; an application's own needs no scope. Entra's dialect only: in the other nobody is an
    /// operator.
    ///
    /// Source: Entra "access token claims reference" (`roles`, `idtyp`).
    pub async fn verify_operator(
        &self,
        authorization: Option<&str>,
    ) -> Result<Operator, VerifyError> {
        let token = bearer_token(authorization).ok_or(VerifyError::Missing)?;
        let verified = self.verified(&UserAssertion::new(token)).await?;
        let claims = &verified.claims;
        Ok(Operator {
            principal: self.rules.check_operator(claims, self.clock.now())?,
            expires_at: claims.expires_at()?,
            client: claims.client().map(str::to_owned),
        })
    }

    /// Returns what the token says, once its signature and issuer proved right: a token that is shown
    /// again is not checked again, as long as the provider's keys are the same.
    async fn verified(&self, token: &UserAssertion) -> Result<Arc<Verified>, VerifyError> {
        let hash = token.hash();
        if let Some(verified) = self.verified.get(&hash)
            && self.issuers.still_vouch_for(&verified).await?
        {
            return Ok(verified);
        }
        let verified = Arc::new(self.issuers.verify(CompactToken::parse(token.expose())?).await?);
        self.verified.insert(hash, Arc::clone(&verified));
        Ok(verified)
    }
}

/// The one token of `Bearer TOKEN`; the scheme's name ignores case (RFC 9110 11.1).
fn bearer_token(authorization: Option<&str>) -> Option<&str> {
    let (scheme, token) = authorization?.trim().split_once(' ')?;
    let token = token.trim_start();
    let is_one = !token.is_empty() && !token.contains([',', ' ', '\t']);
    (scheme.eq_ignore_ascii_case("bearer") && is_one).then_some(token)
}

#[cfg(test)]
mod tests;
