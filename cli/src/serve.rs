use std::{path::PathBuf, sync::Arc};

use clap::Args;
use errand_api::Api;
use errand_shared::{
    process::{Process, stop_on_signals},
    storage::SharedStore,
    telemetry::chain,
    time::SharedClock,
};
use errand_worker::{HealthListener, Worker};
use tokio_util::sync::CancellationToken;

use crate::error::CommandError;

/// Run API and worker in one process, on one machine.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// TOML, or an appsettings.json of Microsoft.Identity.Web; `ERRAND__SECTION__KEY` overrides it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), CommandError> {
    let stop = stop_on_signals();
    let Process { config, store, clock, cages } =
        Process::start(arguments.config.as_deref()).await?;
    let shared = (SharedStore::clone(&store), SharedClock::clone(&clock), Arc::clone(&cages));
    let api = Api::bind(&config, shared.0, shared.1, shared.2)
        .await
        .map_err(|error| CommandError::unusable(chain(&error)))?;
    if let Some(address) = config.worker.listen {
        let health = HealthListener::bind(address).await;
        let health = health.map_err(|error| CommandError::unusable(chain(&error)))?;
        tokio::spawn(health.serve(SharedStore::clone(&store)));
    }
    let worker = Worker::new(&config, store, clock, cages);
    until_stopped(api, worker, stop).await;
    Ok(())
}

/// Serves and works until `stop` is cancelled and the worker has brought its jobs to a record.
pub(crate) async fn until_stopped(api: Api, worker: Worker, stop: CancellationToken) {
    tokio::join!(api.run(stop.clone()), worker.run(stop));
}
