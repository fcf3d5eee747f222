//! `errand`: everything of Errand that is started from a terminal.
//!
//! One file per command. Results go to stdout, all else to stderr (`output`). Exit codes (`error`):
//! 0 done, 1 failed, 2 wrong usage or configuration.

mod client;
mod connection;
mod doctor;
mod dry_run;
mod error;
mod jobs;
mod keys;
mod login;
mod logins;
mod migrate;
mod output;
mod progress;
mod quickstart;
mod serve;
mod simulator;
mod workflow;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use errand_shared::{telemetry, workflow::cage::run_if_caged};

use self::error::CommandError;

/// Background jobs that run on behalf of your users.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Arguments),
    Serve(serve::Arguments),
    Migrate(migrate::Arguments),
    Doctor(doctor::Arguments),
    #[command(subcommand)]
    Keys(keys::Command),
    #[command(subcommand)]
    Workflow(workflow::Command),
    Simulator(simulator::Arguments),
    Login(login::Arguments),
    Submit(jobs::Submit),
    Watch(jobs::Watch),
    Jobs(jobs::List),
    /// Print a job as JSON.
    Job(jobs::One),
    /// End a job.
    Cancel(jobs::One),
    /// Let the suspended jobs of a job's session go on, with a fresh token.
    Resume(jobs::One),
    Sessions(jobs::Sessions),
}

fn main() -> ExitCode {
    run_if_caged();
    start()
}

#[tokio::main]
async fn start() -> ExitCode {
    let command = Arguments::parse().command;
    match command {
        Command::Quickstart(_) => telemetry::init_quietly(),
        _ => telemetry::init(),
    }
    match run(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&error.to_string());
            error.exit_code()
        }
    }
}

async fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Quickstart(arguments) => quickstart::run(arguments).await,
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Migrate(arguments) => migrate::run(arguments).await,
        Command::Doctor(arguments) => doctor::run(arguments).await,
        Command::Keys(command) => keys::run(command).await,
        Command::Workflow(command) => workflow::run(&command),
        Command::Simulator(arguments) => simulator::run(arguments).await,
        Command::Login(arguments) => login::run(arguments).await,
        Command::Submit(arguments) => jobs::submit(arguments).await,
        Command::Watch(arguments) => jobs::watch(arguments).await,
        Command::Jobs(arguments) => jobs::list(arguments).await,
        Command::Job(arguments) => jobs::show(arguments).await,
        Command::Cancel(arguments) => jobs::cancel(arguments).await,
        Command::Resume(arguments) => jobs::resume(arguments).await,
        Command::Sessions(arguments) => jobs::sessions(arguments).await,
    }
}
