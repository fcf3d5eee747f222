//! The stored right to act for a user while that user is away.
//!
//! A session begins when a job is submitted ([`Sessions::initiate`]: the user's token is exchanged)
//! and is used by workers ([`Sessions::acquire_token`]: its refresh token is redeemed when an access
//! token is about to end). Refreshing follows a protocol that holds over any number of processes,
//! because a refresh token that is sent twice can cost the session at providers that rotate it:
//! `acquire.rs`.

mod acquire;
mod initiate;
mod turns;

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use self::{
    acquire::AcquireError,
    initiate::{InitiateError, Initiated},
};
use self::{initiate::InitiationKey, turns::Turns};
use crate::{
    config::IdentityConfig, identity::TokenEndpoint, storage::SharedStore, time::SharedClock,
};

/// How long the end of a process waits for refreshes: for the answer, and for the database.
const LAST_REFRESHES: Duration = Duration::from_secs(20);

/// Sessions of one identity provider and one client id.
#[derive(Debug)]
pub struct Sessions {
    store: SharedStore,
    token_endpoint: TokenEndpoint,
    client_id: String,
    clock: SharedClock,
    initiations: Turns<InitiationKey>,
    refreshes: Turns<Uuid>,
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
            clock,
            initiations: Turns::default(),
            refreshes: Turns::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Waits until no refresh is under way; at the end of a process, after its jobs.
    pub async fn finish_refreshes(&self) {
        self.tasks.close();
        if tokio::time::timeout(LAST_REFRESHES, self.tasks.wait()).await.is_err() {
            tracing::error!("a refresh could not be written before the process ended");
        }
    }
}
