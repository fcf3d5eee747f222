//! Whose job, session and token it is.

/// A user within a tenant. Everything that is stored belongs to one.
///
/// Entra: `tid` and `oid`, the only pair that stays the same over all applications and never names
/// two people. Elsewhere: `iss` and `sub` (OpenID Connect Core 5.7). Both are non-empty; the
/// [`Verifier`](super::Verifier) makes sure of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// `tid`, a lower-case GUID, or `iss`, as it stands in the token.
    pub tenant: String,
    /// `oid` or `sub`, as it stands in the token.
    pub subject: String,
}
