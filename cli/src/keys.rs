use aws_lc_rs::rand;
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Subcommand;
use errand_shared::time::{Clock, SystemClock, Timestamp};

use crate::{error::CommandError, output};

/// Keys for what is encrypted in the database.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a new key, for `[encryption] keys` or a line of `keys_file`.
    Generate,
}

pub(crate) fn run(command: &Command) -> Result<(), CommandError> {
    match command {
        Command::Generate => output::result(&new_key(SystemClock.now())),
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
