//! A generic OpenID provider beside the tenant: token exchange (RFC 8693), nothing of Entra.
//!
//! Refresh tokens are good for one API and once only: presenting one again revokes its family. The
//! client, the clock and the signing keys are the tenant's.

pub(crate) mod discovery;
mod error;
mod issued_tokens;
mod log;
mod refresh_tokens;
mod subject_token;
pub(crate) mod token_endpoint;

use std::sync::{Arc, Mutex, MutexGuard};

use axum::{
    extract::{Query, State},
    http::HeaderMap,
};
use serde::Deserialize;

pub use self::log::RealmRequest;
use self::{error::Refusal, refresh_tokens::RefreshTokens};
use crate::tenant::{Credential, Tenant};

pub(crate) struct Realm {
    tenant: Arc<Tenant>,
    refresh_tokens: Mutex<RefreshTokens>,
    log: Mutex<Vec<RealmRequest>>,
}

impl Realm {
    pub(crate) fn new(tenant: Arc<Tenant>) -> Self {
        Self { tenant, refresh_tokens: Mutex::default(), log: Mutex::default() }
    }

    /// The issuer, below which the discovery document is found.
    pub(crate) fn issuer(&self) -> String {
        self.tenant.realm_issuer()
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Vec<RealmRequest>> {
        self.log.lock().expect("nobody panics while holding it")
    }

    /// Ends every sign-in: no refresh token issued so far is good any more.
    pub(crate) fn end_sessions(&self) {
        self.refresh_tokens().revoke_all();
    }

    fn refresh_tokens(&self) -> MutexGuard<'_, RefreshTokens> {
        self.refresh_tokens.lock().expect("nobody panics while holding it")
    }

    fn authenticate(
        &self,
        headers: &HeaderMap,
        form: &std::collections::HashMap<String, String>,
        endpoint: &str,
    ) -> Result<(), Refusal> {
        let credential = Credential::of(headers, form);
        let credential = credential.ok_or(Refusal::client("no client credential"))?;
        credential
            .verify(&self.tenant, &[endpoint.to_owned(), self.issuer()])
            .map_err(|_| Refusal::client("wrong client credential"))
    }
}

#[derive(Deserialize)]
pub(crate) struct UserTokenQuery {
    user: String,
}

/// `GET /realms/acme/user-token?user=NAME`: a fresh user token for Errand as plain text.
pub(crate) async fn user_token(
    State(realm): State<Arc<Realm>>,
    Query(query): Query<UserTokenQuery>,
) -> String {
    realm.user_token(&query.user)
}
