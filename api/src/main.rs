//! `errand-api`: the HTTP interface in a process of its own.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use errand_api::Api;
use errand_shared::{
    process::{Process, StartError, report, stop_on_signals},
    telemetry,
    workflow::cage::run_if_caged,
};

/// Takes jobs over HTTP: verifies the caller's token, exchanges it, stores grant and job.
///
/// Any number of these on one PostgreSQL serve the same jobs.
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
    let api = Api::bind(&config, store, clock, cages)
        .await
        .map_err(|error| StartError::Other(telemetry::chain(&error)))?;
    api.run(stop).await;
    Ok(())
}
