use std::path::PathBuf;

use clap::Args;
use errand_shared::process::Process;

use crate::{error::CommandError, output};

/// Bring the schema of the database up to date.
///
/// Every other command does so at its start; this one is for deployments that want it done before.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// TOML, or an appsettings.json of Microsoft.Identity.Web; `ERRAND__SECTION__KEY` overrides it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), CommandError> {
    Process::start(arguments.config.as_deref()).await?;
    output::note("the schema is up to date");
    Ok(())
}
