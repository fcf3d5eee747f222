use std::{path::PathBuf, time::Duration};

use clap::Args;
use errand_shared::{process::stop_on_signals, telemetry::chain};
use errand_simulator::{Options, Simulator, StartError, TlsFiles};

use crate::{error::CommandError, output};

/// Run a simulated Entra tenant and partner API, on loopback only.
///
/// The first line on stdout describes it as JSON: authority, client id and secret, scope, downstream
/// address, and the address that answers user tokens (`?user=alice`).
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Port on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Serve HTTPS with this certificate for `localhost`.
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A certificate that the client may authenticate with, besides its secret.
    #[arg(long, value_name = "PEM")]
    client_cert: Option<PathBuf>,
    /// Keep keys, ids and the client secret here, so that tokens survive a restart.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How long access tokens live.
    #[arg(long, value_name = "N", default_value_t = 3600)]
    access_token_seconds: u64,
    /// Revoke all refresh tokens of a sign-in when a replaced one is presented again.
    #[arg(long)]
    reuse_detection: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), CommandError> {
    let stop = stop_on_signals();
    let tls = arguments.tls_cert.zip(arguments.tls_key);
    let options = Options {
        port: arguments.port,
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        state_dir: arguments.state,
        client_certificate: arguments.client_cert,
        access_token_lifetime: Duration::from_secs(arguments.access_token_seconds),
        reuse_detection: arguments.reuse_detection,
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.map_err(|error| start_error(&error))?;
    let description = serde_json::to_string(simulator.description());
    output::result(&description.expect("six texts are JSON"))?;
    stop.cancelled().await;
    simulator.stop().await;
    Ok(())
}

fn start_error(error: &StartError) -> CommandError {
    CommandError::unusable(match error {
        StartError::PortTaken { .. } => format!("{error}: choose another one with --port"),
        _ => chain(error),
    })
}
