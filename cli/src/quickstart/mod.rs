//! Everything in one process, for a first look: simulated tenant and partner API, API, worker.

mod configuration;
mod curl;
mod data_folder;
mod documents;

use std::{error::Error, io, sync::Arc};

use clap::{Args, builder::NonEmptyStringValueParser};
use errand_api::{Api, BindError};
use errand_shared::{
    config::Config,
    process::stop_on_signals,
    storage::{self, SharedStore},
    telemetry::chain,
    time::{SharedClock, SystemClock},
    workflow::cage::Cages,
};
use errand_simulator::{Description, Options, Simulator};
use errand_worker::Worker;
use serde_json::{Value, json};

use self::{configuration::configuration, data_folder::DataFolder};
use crate::{
    client::{Client, ClientError},
    error::CommandError,
    output,
    progress::Progress,
    serve,
};

/// The demo user, whom the simulated tenant signs in without asking.
const USER: &str = "alice";

/// Try Errand: everything in one process, nothing to install or configure.
///
/// Submits a job as the demo user alice, shows its progress and prints it as JSON on stdout. Then
/// serves on, until Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// End with the job: exit code 0 if it completed, otherwise 1.
    #[arg(long)]
    exit: bool,
    /// Folder for database and keys, made if missing. Jobs in it go on when it is used again.
    #[arg(long, value_name = "DIR", default_value = ".errand",
          value_parser = NonEmptyStringValueParser::new())]
    data: String,
    /// Port of the API on 127.0.0.1.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), CommandError> {
    let stop = stop_on_signals();
    let folder = DataFolder::open(arguments.data)?;
    let options = Options { state_dir: Some(folder.simulator().into()), ..Options::default() };
    let simulator =
        Simulator::start(options).await.map_err(|error| folder.unusable(&chain(&error)))?;
    let config = configuration(&folder, arguments.port, simulator.description())?;
    let (api, worker) = open(&folder, &config).await?;
    output::note(&introduction(&folder, &config, simulator.description()));
    let serving = tokio::spawn(serve::until_stopped(api, worker, stop.clone()));

    let client = Client::new(config.api.public_url.clone(), simulator.user_token(USER));
    let demonstration = async {
        let job = show_job(&client).await?;
        if arguments.exit {
            return if_completed(&job);
        }
        output::note(&next_steps(&config, simulator.description(), &job));
        stop.cancelled().await;
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = demonstration => outcome,
        () = stop.cancelled() => if arguments.exit {
            Err(CommandError::Failed("stopped before the job had ended".to_owned()))
        } else {
            Ok(())
        },
    };
    stop.cancel();
    // It ends without a result; should it have panicked, that is on stderr already.
    let _ = serving.await;
    simulator.stop().await;
    outcome
}

async fn open(folder: &DataFolder, config: &Config) -> Result<(Api, Worker), CommandError> {
    let store = storage::open(&config.database, &config.encryption)
        .await
        .map_err(|error| folder.unusable(&chain(&error)))?;
    let clock: SharedClock = Arc::new(SystemClock);
    let cages = Arc::new(Cages::new(&config.limits));
    let shared = (SharedStore::clone(&store), SharedClock::clone(&clock), Arc::clone(&cages));
    let api = Api::bind(config, shared.0, shared.1, shared.2)
        .await
        .map_err(|error| bind_error(&error, config.api.listen.port()))?;
    Ok((api, Worker::new(config, store, clock, cages)))
}

fn bind_error(error: &BindError, port: u16) -> CommandError {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    CommandError::unusable(match source {
        Some(source) if source.kind() == io::ErrorKind::AddrInUse => {
            format!("port {port} is taken: choose another one with --port")
        }
        _ => chain(error),
    })
}

/// Submits the job, shows how it goes, prints it once it has ended.
async fn show_job(client: &Client) -> Result<Value, CommandError> {
    let failed = |error: ClientError| CommandError::Failed(error.to_string());
    output::note(&format!(
        "\nFor {USER}: GET api/process/data, wait 5 seconds, POST api/process/complete"
    ));
    let submitted =
        client.submit(&json!({ "definition": documents::process_data() })).await.map_err(failed)?;
    let id = submitted["id"].as_str().unwrap_or_default();
    output::note(&format!("Job {id}"));
    let mut progress = Progress::begin(&submitted);
    let job = client.watch(id, |job| progress.show(job)).await.map_err(failed)?;
    progress.end();
    output::result(&format!("{job:#}"))?;
    Ok(job)
}

fn if_completed(job: &Value) -> Result<(), CommandError> {
    match job["status"].as_str() {
        Some("completed") => Ok(()),
        status => {
            let status = status.unwrap_or("in no known state");
            Err(CommandError::Failed(format!("the job is {status}, not completed")))
        }
    }
}

fn introduction(folder: &DataFolder, config: &Config, simulator: &Description) -> String {
    format!(
        "Errand in one process, reachable from this machine only.\n\
         \x20 API          {}\n\
         \x20 worker       runs the jobs in {folder}/errand.db, those of earlier starts too\n\
         \x20 tenant       {} (simulated)\n\
         \x20 partner API  {} (simulated)",
        config.api.public_url, simulator.authority, simulator.downstream
    )
}

fn next_steps(config: &Config, simulator: &Description, job: &Value) -> String {
    let (api, token_url) = (&config.api.public_url, &simulator.token_url);
    let id = job["id"].as_str().unwrap_or_default();
    format!(
        "\nErrand goes on serving until Ctrl-C. Submit a job of your own:\n{}\n\
         Look at a job, this one for example:\n{}",
        curl::submit(api, token_url),
        curl::look(api, token_url, id)
    )
}
