//! The ways to get a token, as form fields. Where the dialects differ on the wire is here.

use std::collections::BTreeSet;

use super::{
    scopes::{NoScope, Scopes},
    secret::{RefreshToken, UserAssertion},
};
use crate::config::RefreshRequest;

/// What is exchanged for an access token.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grant<'a> {
    /// On-Behalf-Of: the caller's own token (RFC 7523 2.1, with Entra's `requested_token_use`).
    JwtBearer(&'a UserAssertion),
    /// A stored refresh token of Entra, good for any API (RFC 6749 6).
    RefreshToken(&'a RefreshToken),
    /// The caller's own token, at any other provider (RFC 8693 2.1).
    TokenExchange {
        subject_token: &'a UserAssertion,
        subject_token_type: &'a str,
        refresh: RefreshRequest,
    },
    /// A stored refresh token of any other provider, good for one API (RFC 6749 6).
    BoundRefreshToken(&'a RefreshToken),
}

/// Which way it was, without its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrantKind {
    /// [`Grant::JwtBearer`]
    JwtBearer,
    /// [`Grant::RefreshToken`]
    RefreshToken,
    /// [`Grant::TokenExchange`]
    TokenExchange,
    /// [`Grant::BoundRefreshToken`]
    BoundRefreshToken,
}

impl GrantKind {
    /// Of the caller's token, while the caller waits; otherwise a refresh.
    pub(super) fn is_exchange(self) -> bool {
        match self {
            Self::JwtBearer | Self::TokenExchange => true,
            Self::RefreshToken | Self::BoundRefreshToken => false,
        }
    }

    /// Whether the provider is Entra, with headers, fields and errors of its own.
    pub(super) fn is_entra(self) -> bool {
        match self {
            Self::JwtBearer | Self::RefreshToken => true,
            Self::TokenExchange | Self::BoundRefreshToken => false,
        }
    }
}

impl<'a> Grant<'a> {
    pub(super) fn parameters(self) -> Vec<(&'static str, &'a str)> {
        match self {
            Self::JwtBearer(assertion) => vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", assertion.expose()),
                ("requested_token_use", "on_behalf_of"),
                ("client_info", "1"),
            ],
            Self::RefreshToken(token) => vec![
                ("grant_type", "refresh_token"),
                ("refresh_token", token.expose()),
                ("client_info", "1"),
            ],
            Self::TokenExchange { subject_token, subject_token_type, refresh } => {
                let mut parameters = vec![
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("subject_token", subject_token.expose()),
                    ("subject_token_type", subject_token_type),
                ];
                match refresh {
                    RefreshRequest::RequestedType => parameters.push((
                        "requested_token_type",
                        "urn:ietf:params:oauth:token-type:refresh_token",
                    )),
                    RefreshRequest::OfflineAccess | RefreshRequest::None => {}
                }
                parameters
            }
            Self::BoundRefreshToken(token) => {
                vec![("grant_type", "refresh_token"), ("refresh_token", token.expose())]
            }
        }
    }

    /// The `scope` parameter for an API of these scopes; none to send none.
    ///
    /// # Errors
    /// At Entra a token is for the resource of its scopes, so there must be one.
    pub(super) fn scope(self, scopes: &[String]) -> Result<Option<String>, NoScope> {
        match self {
            Self::JwtBearer(_) | Self::RefreshToken(_) => {
                Scopes::new(scopes).map(|scopes| Some(scopes.parameter()))
            }
            Self::TokenExchange { refresh, .. } => {
                let words = scopes.iter().flat_map(|scopes| scopes.split_whitespace());
                let mut words: BTreeSet<&str> = words.collect();
                match refresh {
                    // An error at some providers, so it is never asked for unasked.
                    RefreshRequest::OfflineAccess => words.insert("offline_access"),
                    RefreshRequest::RequestedType | RefreshRequest::None => {
                        words.remove("offline_access")
                    }
                };
                let words: Vec<&str> = words.into_iter().collect();
                Ok((!words.is_empty()).then(|| words.join(" ")))
            }
            // What was granted, no less and no more.
            Self::BoundRefreshToken(_) => Ok(None),
        }
    }

    /// What must not be in any log.
    pub(super) fn secret(self) -> &'a str {
        match self {
            Self::JwtBearer(assertion) | Self::TokenExchange { subject_token: assertion, .. } => {
                assertion.expose()
            }
            Self::RefreshToken(token) | Self::BoundRefreshToken(token) => token.expose(),
        }
    }

    pub(super) fn kind(self) -> GrantKind {
        match self {
            Self::JwtBearer(_) => GrantKind::JwtBearer,
            Self::RefreshToken(_) => GrantKind::RefreshToken,
            Self::TokenExchange { .. } => GrantKind::TokenExchange,
            Self::BoundRefreshToken(_) => GrantKind::BoundRefreshToken,
        }
    }
}
