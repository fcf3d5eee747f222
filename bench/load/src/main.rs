//! Load for Errand's measurements: keep-alive clients, and an API that answers them.
//!
//! Written by hand above TCP, on one thread, so that it costs as little as possible beside what is
//! measured: what the clients get from the API of this program is the ceiling that `bench/run` prints.

mod client;
mod downstream;
mod message;

use std::io::{self, Write};

use clap::Parser;
use serde_json::Value;

#[derive(Debug, Parser)]
#[command(about)]
enum Command {
    Requests(client::Arguments),
    Downstream(downstream::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    match Command::parse() {
        Command::Requests(arguments) => print(&client::run(arguments).await?),
        Command::Downstream(arguments) => downstream::run(&arguments).await,
    }
}

/// One line of JSON.
fn print(result: &Value) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{result}")?;
    output.flush()
}
