//! `errand-worker`: a worker in a process of its own.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use errand_shared::{
    process::{Process, StartError, report, stop_on_signals},
    storage::SharedStore,
    telemetry,
    workflow::cage::run_if_caged,
};
use errand_worker::{HealthListener, Worker};

/// Runs jobs: claims them, calls downstream APIs as their users, records.
///
/// Any number of workers on one PostgreSQL share the work.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// TOML, or an appsettings.json of Microsoft.Identity.Web; `ERRAND__SECTION__KEY` overrides it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    run_if_caged();
    start()
}

#[tokio::main]
async fn start() -> ExitCode {
    let arguments = Arguments::parse();
    telemetry::init();
    report(run(arguments).await)
}

async fn run(arguments: Arguments) -> Result<(), StartError> {
    let stop = stop_on_signals();
    let Process { config, store, clock, cages } =
        Process::start(arguments.config.as_deref()).await?;
    for address in config.worker.listen.into_iter().chain(config.telemetry.metrics_listen) {
        let health = HealthListener::bind(address).await;
        let health = health.map_err(|error| StartError::Other(telemetry::chain(&error)))?;
        tokio::spawn(health.serve(SharedStore::clone(&store)));
    }
    Worker::new(&config, store, clock, cages).run(stop).await;
    Ok(())
}
