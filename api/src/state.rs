//! What every request may need.

use std::sync::Arc;

use errand_shared::{
    config::{Config, DownstreamApis, IdentityConfig, Limits, WebhooksConfig},
    identity::Verifier,
    sessions::Sessions,
    storage::SharedStore,
    time::SharedClock,
    workflow::{
        cage::SharedCages,
        registry::{Registry, RegistryError},
    },
};
use tokio_util::sync::CancellationToken;

use crate::streams::Streams;

#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) store: SharedStore,
    pub(crate) clock: SharedClock,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) verifier: Verifier,
    pub(crate) identity: IdentityConfig,
    pub(crate) downstream_apis: DownstreamApis,
    pub(crate) webhooks: WebhooksConfig,
    pub(crate) limits: Limits,
    pub(crate) streams: Arc<Streams>,
    /// May clients post documents of their own?
    pub(crate) inline: bool,
    /// Whether `/metrics` is among the API's addresses.
    pub(crate) metrics_here: bool,
    pub(crate) registry: Registry,
    pub(crate) cages: SharedCages,
    /// Without a trailing slash.
    pub(crate) public_url: String,
    /// Requests that only wait end once this is cancelled.
    pub(crate) stopping: CancellationToken,
}

impl AppState {
    pub(crate) fn new(
        config: &Config,
        store: SharedStore,
        clock: SharedClock,
        cages: SharedCages,
    ) -> Result<Self, RegistryError> {
        let Config { downstream_apis, limits, workflows, .. } = config;
        let registry = Registry::load(&workflows.directory, limits, downstream_apis, &cages)?;
        Ok(Self {
            sessions: Sessions::new(&config.identity, Arc::clone(&store), Arc::clone(&clock)),
            verifier: Verifier::new(&config.identity, Arc::clone(&clock)),
            store,
            identity: config.identity.clone(),
            downstream_apis: config.downstream_apis.clone(),
            streams: Streams::new(config.limits.streams_per_user),
            clock,
            webhooks: config.webhooks.clone(),
            limits: config.limits.clone(),
            inline: config.workflows.inline,
            metrics_here: config.telemetry.metrics_listen.is_none(),
            public_url: config.api.public_url.trim_end_matches('/').to_owned(),
            stopping: CancellationToken::new(),
            registry,
            cages,
        })
    }
}
