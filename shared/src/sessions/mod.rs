//! The stored right to act for a user while that user is away.
//!
//! A session begins when a job is submitted ([`Sessions::initiate`]: the user's token is exchanged)
//! and is used by workers ([`Sessions::acquire_token`]: its refresh token is redeemed when an access
//! token is about to end). Refreshing follows a protocol that holds over any number of processes,
//! because a refresh token that is sent twice can cost the session at providers that rotate it:
//! `acquire.rs`.
//!
//! At Entra one refresh token is good for every API, so a session has one grant. In the
//! token-exchange dialect a refresh token is bound to its API and the user's token is not kept: a
//! session has a grant for each API that its documents name, all of them exchanged while the user is
//! there.

mod acquire;
mod exchange_limit;
mod gates;
mod initiate;
mod keep_alive;
mod known;
mod memory;
#[cfg(test)]
mod tests;
mod turns;

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use self::{
    acquire::{AcquireError, Rejected},
    initiate::{InitiateError, Initiated, Preflight},
};
use self::{
    exchange_limit::ExchangeLimit, initiate::InitiationKey, known::KnownSessions,
    memory::TokenMemory, turns::Turns,
};
use crate::{
    config::{Dialect, DownstreamApi, IdentityConfig},
    identity::{Principal, RefreshToken, TokenEndpoint, TokenResponse},
    storage::{NewAccessToken, Retired, SessionView, SharedStore, StoreError, Walked},
    time::{SharedClock, Timestamp},
};

/// The longest that an early renewal is put off, so that tokens obtained together are not renewed
/// together.
const EARLY_SPREAD: Duration = Duration::from_mins(5);

/// How long the end of a process waits for refreshes: for the answer, and for the database.
const LAST_REFRESHES: Duration = Duration::from_secs(20);

/// Sessions of one identity provider and one client id.
#[derive(Debug)]
pub struct Sessions {
    store: SharedStore,
    token_endpoint: TokenEndpoint,
    client_id: String,
    dialect: Dialect,
    clock: SharedClock,
    initiations: Turns<InitiationKey>,
    known: KnownSessions,
    exchange_limit: ExchangeLimit,
    /// By session and grant.
    refreshes: Turns<(Uuid, String)>,
    memory: TokenMemory,
    /// Refreshes under way: nothing may drop one between request and record.
    tasks: TaskTracker,
}

impl Sessions {
    /// Makes no request yet.
    pub fn new(identity: &IdentityConfig, store: SharedStore, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            store,
            token_endpoint: TokenEndpoint::new(identity, Arc::clone(&clock)),
            client_id: identity.client_id.clone(),
            dialect: identity.dialect.clone(),
            clock,
            initiations: Turns::default(),
            known: KnownSessions::default(),
            exchange_limit: ExchangeLimit::default(),
            refreshes: Turns::default(),
            memory: TokenMemory::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Which grant of a session tokens for `api` come from: its name in storage.
    fn grant_for<'a>(&self, api: &'a DownstreamApi) -> &'a str {
        match self.dialect {
            Dialect::Entra { .. } => "",
            Dialect::TokenExchange { .. } => &api.name,
        }
    }

    /// Returns the user's sessions, newest first.
    pub async fn list(&self, owner: &Principal) -> Result<Vec<SessionView>, StoreError> {
        self.store.sessions(owner, &self.client_id).await
    }

    /// Stops a session: its tokens are erased, its unfinished jobs wait for their user. False if
    /// the user has no such session, or has stopped it before.
    ///
    /// Where the provider offers it (RFC 7009) the tokens are revoked there too, afterwards and
    /// without a second try. Entra does not.
    ///
    /// Source: MSAL `StopLongRunningProcessInWebApi`.
    pub async fn stop(self: &Arc<Self>, owner: &Principal, key: &str) -> Result<bool, StoreError> {
        let Some(tokens) = self.store.stop_session(owner, &self.client_id, key).await? else {
            return Ok(false);
        };
        self.revoke(owner.clone(), tokens);
        Ok(true)
    }

    /// Stops, among the `limit` sessions after `after`, those that nothing has needed for `grace`;
    /// says after which to go on, and how many were stopped. Their tokens are revoked as [`Sessions::stop`]
    /// does it.
    pub async fn stop_idle(
        self: &Arc<Self>,
        grace: Duration,
        after: Uuid,
        limit: u32,
    ) -> Result<Walked<u64>, StoreError> {
        let Walked { last, found } = self.store.stop_idle(grace, after, limit).await?;
        let stopped = found.len() as u64;
        for Retired { owner, client_id, tokens } in found {
            // Nobody but the client that they were issued to can revoke them.
            if client_id == self.client_id {
                self.revoke(owner, tokens);
            }
        }
        Ok(Walked { last, found: stopped })
    }

    fn revoke(self: &Arc<Self>, owner: Principal, tokens: Vec<RefreshToken>) {
        let sessions = Arc::clone(self);
        self.tasks.spawn(async move {
            for token in tokens {
                // A failure is logged where it happens.
                let _ = sessions.token_endpoint.revoke(&owner, &token).await;
            }
        });
    }

    /// Waits until no refresh is under way; at the end of a process, after its jobs.
    pub async fn finish_refreshes(&self) {
        self.tasks.close();
        if tokio::time::timeout(LAST_REFRESHES, self.tasks.wait()).await.is_err() {
            tracing::error!("a refresh could not be written before the process ended");
        }
    }
}

/// The access token of an answer to a request of that time, as it is stored.
fn new_access_token(
    scope_set: String,
    obtained_at: Timestamp,
    response: &TokenResponse,
) -> NewAccessToken {
    let expires_at = response.expires_at;
    let refresh_at = response.refresh_at.map(|refresh_at| {
        let (before, after) = (refresh_at.since(obtained_at), expires_at.since(refresh_at));
        let most = EARLY_SPREAD.min(before / 2).min(after / 2);
        refresh_at + most.mul_f64(fastrand::f64())
    });
    let access_token = response.access_token.clone();
    NewAccessToken { scope_set, access_token, obtained_at, expires_at, refresh_at }
}
