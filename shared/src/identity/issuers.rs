//! Whose signatures count: the issuers that the configuration trusts, and their keys.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{
    authority::{Authority, Version},
    claims::Claims,
    compact_token::CompactToken,
    endpoints::metadata_below,
    key_cache::KeyCache,
    keys::{KeySet, VerificationKey},
    verifier::VerifyError,
};
use crate::{config::Dialect, time::SharedClock};

/// The trusted issuers.
#[derive(Debug)]
pub(super) enum Issuers {
    /// Entra's tenants, in two generations of tokens.
    Entra { authority: Authority, v1_keys: KeyCache, v2_keys: KeyCache },
    /// The one of a discovery document.
    OpenId { keys: KeyCache },
}

/// What a token says that one of the issuers signed.
pub(super) struct Verified {
    pub(super) claims: Claims,
    key_id: String,
    /// Among which the key was.
    keys: Weak<KeySet>,
    /// Length of the token, which is about what its claims take.
    pub(super) weight: u32,
}

/// Without the claims, which are somebody's data.
impl fmt::Debug for Verified {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verified").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Issuers {
    pub(super) fn of(dialect: &Dialect, clock: &SharedClock) -> Self {
        match dialect {
            Dialect::Entra { instance, tenant } => {
                let authority = Authority::new(instance.clone());
                // Never the tenant that a token claims: a stranger would choose what is fetched.
                let keys = |version| {
                    KeyCache::new(authority.metadata(tenant.segment(), version), clock.clone())
                };
                let (v1_keys, v2_keys) = (keys(Version::V1), keys(Version::V2));
                Self::Entra { authority, v1_keys, v2_keys }
            }
            Dialect::TokenExchange { authority, .. } => {
                Self::OpenId { keys: KeyCache::new(metadata_below(authority), clock.clone()) }
            }
        }
    }

    pub(super) async fn warm(&self) -> Result<(), VerifyError> {
        match self {
            Self::Entra { v2_keys: keys, .. } | Self::OpenId { keys } => Ok(keys.warm().await?),
        }
    }

    pub(super) fn are_ready(&self) -> bool {
        match self {
            Self::Entra { v1_keys, v2_keys, .. } => v2_keys.has_keys() || v1_keys.has_keys(),
            Self::OpenId { keys } => keys.has_keys(),
        }
    }

    /// Returns what `token` says, if one of these issuers signed it.
    pub(super) async fn verify(&self, token: CompactToken<'_>) -> Result<Verified, VerifyError> {
        let (key_id, weight) = (token.key_id.clone(), token.len());
        let keys = self.key_cache(token.unverified_claims())?.keys_for(&key_id).await?;
        let key = keys.key(&key_id).ok_or(UNKNOWN_KEY)?;
        let claims = token.verify(key)?;
        match self {
            Self::Entra { authority, .. } => check_entra_issuer(&claims, authority, &keys, key)?,
            Self::OpenId { .. } if claims.issuer() == keys.issuer.as_str() => {}
            Self::OpenId { .. } => return Err(FOREIGN),
        }
        Ok(Verified { claims, key_id, keys: Arc::downgrade(&keys), weight })
    }

    /// Whether the provider's keys still are those that a token was verified with: with any others it
    /// is to be verified again.
    pub(super) async fn still_vouch_for(&self, verified: &Verified) -> Result<bool, VerifyError> {
        let keys = self.key_cache(&verified.claims)?.keys_for(&verified.key_id).await?;
        Ok(std::ptr::eq(Arc::as_ptr(&keys), verified.keys.as_ptr()))
    }

    /// The keys that a token with these claims is to be verified with.
    fn key_cache(&self, claims: &Claims) -> Result<&KeyCache, VerifyError> {
        Ok(match self {
            Self::Entra { v1_keys, v2_keys, .. } => match claims.version()? {
                Version::V1 => v1_keys,
                Version::V2 => v2_keys,
            },
            Self::OpenId { keys } => keys,
        })
    }
}

const UNKNOWN_KEY: VerifyError = VerifyError::invalid("the token is signed with an unknown key");
const FOREIGN: VerifyError = VerifyError::invalid("the token is from another issuer");

/// The issuer is the published one, for the token's own tenant, and the key may sign for it.
fn check_entra_issuer(
    claims: &Claims,
    authority: &Authority,
    keys: &KeySet,
    key: &VerificationKey,
) -> Result<(), VerifyError> {
    let tenant = claims.tenant()?;
    let issuer = keys.issuer.for_tenant(tenant);
    if claims.issuer() != issuer || !issuer.contains(tenant) {
        return Err(FOREIGN);
    }
    let Some(key_issuer) = key.issuer.as_ref().map(|issuer| issuer.for_tenant(tenant)) else {
        return Ok(());
    };
    // Keys carry the issuer of the second generation; the first generation's is another host.
    let is_own = key_issuer == issuer
        || (claims.version()? == Version::V1 && key_issuer == authority.v2_issuer(tenant));
    if is_own {
        Ok(())
    } else {
        Err(VerifyError::invalid("the token's key may not sign for its issuer"))
    }
}
