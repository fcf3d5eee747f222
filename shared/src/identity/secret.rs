//! Tokens as types that cannot be printed, and the hash that may be kept of one.
//!
//! Clones of a token are one place in memory, which is erased with the last of them.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// The user's incoming access token, as the credential of an exchange (RFC 7523 2.1: `assertion`).
///
/// Sent on byte for byte, never stored: what is kept of it is [`UserAssertion::hash`].
#[derive(Clone)]
pub struct UserAssertion(Arc<SecretString>);

/// A token for a downstream API. Opaque: nothing may be read out of it.
#[derive(Clone)]
pub struct AccessToken(Arc<SecretString>);

/// A stored right to ask for further access tokens (RFC 6749 1.5).
#[derive(Clone)]
pub struct RefreshToken(Arc<SecretString>);

macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl $name {
            /// Takes the token as it is on the wire.
            pub fn new(token: impl Into<String>) -> Self {
                Self(Arc::new(SecretString::from(token.into())))
            }

            /// The token itself, for the wire and for encryption.
            pub fn expose(&self) -> &str {
                self.0.expose_secret()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    )*};
}

redacted!(UserAssertion, AccessToken, RefreshToken);

impl UserAssertion {
    /// Which token this is, without the token.
    pub fn hash(&self) -> AssertionHash {
        let digest = digest::digest(&digest::SHA256, self.expose().as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        AssertionHash(hash)
    }
}

/// SHA-256 of a [`UserAssertion`]: safe to store and compare (MSAL: `AssertionHash`).
///
/// Text form: base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AssertionHash([u8; 32]);

impl AssertionHash {
    /// Reads a stored hash; none if it has not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for AssertionHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for AssertionHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_an_assertion_is_what_msal_computes() {
        for (assertion, hash) in [
            ("user-token", "kkWL_8mxkP7qS_2TYRBgqOdo_zpduEtMOHaC4ppwQ28"),
            ("long-running-assertion", "C9o2jSbUgMhVDI8bdQ0cjZjsTGPN1XBqXEI-Imhy48k"),
            ("jwt", "_JPLB-GtkomFJxAOWKHPHR5_ZemiZqb4fzyE_rVBx7M"),
        ] {
            assert_eq!(UserAssertion::new(assertion).hash().to_string(), hash);
        }
    }

    #[test]
    fn no_token_is_in_its_debug_form() {
        let shown = format!(
            "{:?} {:?} {:?}",
            UserAssertion::new("secret-1"),
            AccessToken::new("secret-2"),
            RefreshToken::new("secret-3"),
        );
        assert_eq!(
            shown,
            "UserAssertion([redacted]) AccessToken([redacted]) RefreshToken([redacted])"
        );
    }
}
