use std::path::PathBuf;

use aws_lc_rs::rand;
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand};
use errand_shared::{
    process::Process,
    storage::Opened,
    telemetry::chain,
    time::{Clock, SystemClock, Timestamp},
};

use crate::{error::CommandError, output};

/// Keys for what is encrypted in the database.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a new key, for `[encryption] keys` or a line of `keys_file`.
    Generate,
    Rotate(RotateArguments),
}

/// Encrypt all stored values anew that are not encrypted with the first key.
///
/// While everything runs; broken off, it can be started again. Every process has to have the first
/// key at the front before.
#[derive(Debug, Args)]
pub(crate) struct RotateArguments {
    /// TOML, or an appsettings.json of Microsoft.Identity.Web; `ERRAND__SECTION__KEY` overrides it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Generate => output::result(&new_key(SystemClock.now())),
        Command::Rotate(arguments) => rotate(arguments).await,
    }
}

async fn rotate(arguments: RotateArguments) -> Result<(), CommandError> {
    let Process { config, store, .. } = Process::start(arguments.config.as_deref()).await?;
    let rotated = store.rotate().await.map_err(|error| CommandError::Failed(chain(&error)))?;
    let Opened { values, undecryptable } = rotated;
    for error in &undecryptable {
        output::note(&chain(error));
    }
    let (first, left) = (&config.encryption.keys[0].id, undecryptable.len());
    output::result(&format!(
        "{values} values encrypted anew with `{first}`, {left} left as they are; keep the former \
         keys configured for 24 hours more: idempotency keys refer to them that long"
    ))?;
    match left {
        0 => Ok(()),
        _ => Err(CommandError::Failed(format!("{left} values cannot be decrypted"))),
    }
}

/// Returns a new random key as `ID:BASE64-OF-32-BYTES`.
///
/// The id says when the key was made, and two of one day differ in it.
pub(crate) fn new_key(now: Timestamp) -> String {
    let date = now.to_string().split('T').next().unwrap_or_default().replace('-', "");
    let [high, low] = random_bytes();
    format!("k{date}-{high:02x}{low:02x}:{}", BASE64_STANDARD.encode(random_bytes::<32>()))
}

fn random_bytes<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_dated_id_and_32_bytes() {
        let key = new_key(Timestamp::from_seconds(1_700_000_000).unwrap());
        let (id, bytes) = key.split_once(':').unwrap();
        assert!(id.starts_with("k20231114-") && id.len() == 14, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{id}");
        assert_eq!(BASE64_STANDARD.decode(bytes).unwrap().len(), 32);
        assert_ne!(key, new_key(Timestamp::from_seconds(1_700_000_000).unwrap()));
    }
}
