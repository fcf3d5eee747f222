//! The two ways to get a token, as form fields.

use super::{
    failure::FailedGrant,
    secret::{RefreshToken, UserAssertion},
};

/// What is exchanged for an access token.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grant<'a> {
    /// On-Behalf-Of: the caller's own token (RFC 7523 2.1, with Entra's `requested_token_use`).
    JwtBearer(&'a UserAssertion),
    /// The stored refresh token (RFC 6749 6).
    RefreshToken(&'a RefreshToken),
}

impl<'a> Grant<'a> {
    pub(super) fn parameters(self) -> Vec<(&'static str, &'a str)> {
        match self {
            Self::JwtBearer(assertion) => vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", assertion.expose()),
                ("requested_token_use", "on_behalf_of"),
            ],
            Self::RefreshToken(token) => {
                vec![("grant_type", "refresh_token"), ("refresh_token", token.expose())]
            }
        }
    }

    /// What must not be in any log.
    pub(super) fn secret(self) -> &'a str {
        match self {
            Self::JwtBearer(assertion) => assertion.expose(),
            Self::RefreshToken(token) => token.expose(),
        }
    }

    pub(super) fn when_failed(self) -> FailedGrant {
        match self {
            Self::JwtBearer(_) => FailedGrant::JwtBearer,
            Self::RefreshToken(_) => FailedGrant::RefreshToken,
        }
    }
}
