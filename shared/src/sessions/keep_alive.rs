//! Refresh tokens end when they are not used for long (at Entra after 90 days): those that a job will
//! need are used in time.

use std::{sync::Arc, time::Duration};

use super::{
    Sessions,
    acquire::{Wanted, jittered},
    initiate::scope_set,
};
use crate::{
    config::{Dialect, DownstreamApi, DownstreamApis},
    storage::{IdleGrant, StoreError},
    telemetry::chain,
};

/// Between two looks at what was not used for long.
const ROUND: Duration = Duration::from_hours(1);

/// Grants that are looked up at once; they are refreshed one after the other.
const BATCH: u32 = 20;

/// Before a grant is tried again whose refresh brought nothing.
const NEXT_TRY: Duration = Duration::from_hours(6);

/// Between two refreshes of a batch.
const PAUSE: Duration = Duration::from_millis(200);

impl Sessions {
    /// Refreshes, again and again, what was not used for `unused` and unfinished jobs need. Any number
    /// of processes may do so: each grant is refreshed by one of them.
    pub async fn keep_alive(self: &Arc<Self>, unused: Duration, apis: &DownstreamApis) {
        loop {
            if let Err(error) = self.keep_alive_once(unused, apis).await {
                tracing::warn!("idle sessions could not be looked up: {}", chain(&error));
            }
            tokio::time::sleep(jittered(ROUND)).await;
        }
    }

    /// As [`Sessions::keep_alive`], until nothing is left to refresh now.
    pub(super) async fn keep_alive_once(
        self: &Arc<Self>,
        unused: Duration,
        apis: &DownstreamApis,
    ) -> Result<(), StoreError> {
        loop {
            let idle = self.store.idle_grants(&self.client_id, unused, BATCH).await?;
            if idle.is_empty() {
                return Ok(());
            }
            for grant in idle {
                // Claimed one by one: nobody holds what it does not come to.
                if self.store.claim_idle_grant(&grant, NEXT_TRY).await? {
                    self.refresh_idle(grant, apis).await;
                    tokio::time::sleep(jittered(PAUSE)).await;
                }
            }
        }
    }

    async fn refresh_idle(self: &Arc<Self>, grant: IdleGrant, apis: &DownstreamApis) {
        let Some(api) = self.api_of(&grant, apis) else {
            tracing::warn!(session.id = %grant.session_id, "no API is configured to refresh it for");
            return;
        };
        let wanted = Wanted::in_background(&grant, api, scope_set(api));
        let sessions = Arc::clone(self);
        let task = self.tasks.spawn(async move { sessions.renew(&wanted, grant.version).await });
        if let Ok(Err(error)) = task.await {
            let id = grant.session_id;
            tracing::warn!(session.id = %id, "an idle session is not refreshed: {}", chain(&error));
        }
    }

    /// For which API to ask: the one that the grant is bound to; at Entra the one it served last.
    fn api_of<'a>(&self, grant: &IdleGrant, apis: &'a DownstreamApis) -> Option<&'a DownstreamApi> {
        match self.dialect {
            Dialect::TokenExchange { .. } => apis.get(&grant.api),
            Dialect::Entra { .. } => apis
                .values()
                .find(|api| grant.scope_set.as_ref() == Some(&scope_set(api)))
                .or_else(|| apis.values().next()),
        }
    }
}
