//! Claims jobs, steps them, calls downstream APIs as the user, records.
//!
//! `advance_job` is the heart: what happens to one job between claim and record. Around it:
//! `claims` (the stream of claimed jobs), `leases` (kept while they run), `runner` (apalis runs
//! them), `recorder` (writes the records of many jobs together), `flights` (the calls of one job that
//! are under way), `downstream` (one call), `call_slots` and `patience` (how many calls, and whose, an
//! API wants now), `state` (what is kept of a job between two claims), `workflows` (documents, ready to
//! run), `health` (answers of a worker process), `webhooks` (tells those who asked), `retention` (lets
//! go of what nobody needs any more).

mod advance_job;
mod call_slots;
mod challenge;
mod claims;
mod downstream;
mod flights;
mod health;
mod leases;
mod patience;
mod recorder;
mod retention;
mod retry_delay;
mod runner;
mod state;
mod webhooks;
mod workflows;

use std::{num::NonZero, sync::Arc};

use errand_shared::{
    config::{Config, DownstreamApis, IdentityConfig, Limits, RetentionConfig, WorkerConfig},
    http,
    sessions::Sessions,
    storage::SharedStore,
    time::SharedClock,
    workflow::cage::SharedCages,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

pub use self::health::{HealthError, HealthListener};
use self::{
    call_slots::CallSlots, leases::Leases, patience::Patience, recorder::Recorder,
    webhooks::Webhooks, workflows::Workflows,
};

/// A worker: one of any number on the same database.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    retention: RetentionConfig,
    context: Arc<Context>,
    webhooks: Option<Arc<Webhooks>>,
}

/// What every job of a worker needs.
#[derive(Debug)]
struct Context {
    /// Random for each start: a name that is used again makes an orphan look alive.
    id: Uuid,
    store: SharedStore,
    sessions: Arc<Sessions>,
    identity: IdentityConfig,
    downstream_apis: DownstreamApis,
    limits: Limits,
    workflows: Workflows,
    cages: SharedCages,
    http: reqwest::Client,
    leases: Leases,
    recorder: Recorder,
    call_slots: Arc<CallSlots>,
    patience: Patience,
    /// How many jobs compute at once: not so many that nothing else gets a core.
    stepping: Semaphore,
    /// Jobs hand back at their next record once this is cancelled.
    stopping: CancellationToken,
}

impl Worker {
    /// Claims nothing yet.
    pub fn new(
        config: &Config,
        store: SharedStore,
        clock: SharedClock,
        cages: SharedCages,
    ) -> Self {
        let slowest = config.downstream_apis.values().map(|api| api.timeout).max();
        let stopping = CancellationToken::new();
        let webhooks = Webhooks::new(config, Arc::clone(&store), Arc::clone(&clock));
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let id = Uuid::now_v7();
        let leases = Leases::new(Arc::clone(&store), id, config.worker.lease, stopping.clone());
        let context = Context {
            id,
            sessions: Sessions::new(&config.identity, Arc::clone(&store), clock),
            leases,
            recorder: Recorder::start(&store),
            call_slots: CallSlots::new(Arc::clone(&store), &config.downstream_apis),
            patience: Patience::default(),
            stepping: Semaphore::new(cores.saturating_sub(1).max(1)),
            store,
            identity: config.identity.clone(),
            downstream_apis: config.downstream_apis.clone(),
            limits: config.limits.clone(),
            workflows: Workflows::new(&config.limits, &config.downstream_apis),
            cages,
            http: http::client(slowest.unwrap_or_default()),
            stopping,
        };
        Self {
            config: config.worker.clone(),
            retention: config.retention.clone(),
            context: Arc::new(context),
            webhooks,
        }
    }

    /// Works until `stop` is cancelled, then lets running jobs reach their next record, for
    /// `drain_seconds` at most, and gives the rest back.
    pub async fn run(self, stop: CancellationToken) {
        let telling = self.webhooks.map(|webhooks| tokio::spawn(webhooks.run(stop.clone())));
        let sweep = retention::sweep(Arc::clone(&self.context), self.retention);
        let sweeping = AbortOnDropHandle::new(tokio::spawn(sweep));
        runner::run(&self.config, self.context, stop).await;
        drop(sweeping);
        // Bounded by the time that one receiver has to answer.
        if let Some(Err(error)) = futures::future::OptionFuture::from(telling).await {
            tracing::error!("the webhooks' loop panicked: {error}");
        }
    }
}
