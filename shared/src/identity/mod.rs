//! Tokens: incoming ones are verified, downstream ones obtained.
//!
//! | file | holds |
//! | --- | --- |
//! | [`verifier`] | who calls: the checks of an incoming access token, over `compact_token`, `issuers` (whose signature), `rules` (what it must say), `claims`, `keys`, `key_cache` |
//! | [`token_endpoint`] | how a token is got: `endpoints` knows where, `grant` fills the form, `client_credential` proves who Errand is (over `client_assertion`, `certificate_file`, `managed_identity`), `requested_claims` is what the token is to say, `token_request` sends it, `token_response` reads a good answer |
//! | [`failure`] | what a bad answer means: the one decision table, over the words of `oauth_error` |
//! | [`scopes`], [`consent`] | what is asked for, and where a user agrees to it |
//! | [`principal`], [`secret`] | whose token it is; tokens that cannot be printed |
//!
//! There are two dialects ([`Dialect`](crate::config::Dialect)): Microsoft Entra's On-Behalf-Of (RFC
//! 7523 with `requested_token_use`), and token exchange (RFC 8693) at any OpenID provider. Each of
//! `issuers`, `rules`, `endpoints`, `grant` and `failure` says in one place how they differ.

mod authority;
mod bounded_body;
mod certificate_file;
mod claims;
mod client_assertion;
mod client_credential;
mod compact_token;
pub mod consent;
mod endpoints;
pub mod failure;
mod grant;
mod issuers;
mod key_cache;
mod keys;
mod managed_identity;
mod oauth_error;
pub mod principal;
mod redaction;
mod requested_claims;
mod rules;
pub mod scopes;
pub mod secret;
#[cfg(test)]
mod test_provider;
pub mod token_endpoint;
mod token_request;
mod token_response;
pub mod verifier;

pub use consent::consent_url;
pub use failure::{
    Decision, Gate, LastResort, Presented, RefreshTokenState, SuspensionReason, TokenFailure,
};
pub use principal::Principal;
pub use requested_claims::RequestedClaims;
pub use scopes::Scopes;
pub use secret::{AccessToken, AssertionHash, RefreshToken, UserAssertion};
pub use token_endpoint::{HTTP_TIMEOUT, TokenEndpoint};
pub use token_response::TokenResponse;
pub use verifier::{Caller, ForbiddenReason, Operator, Verifier, VerifyError};
