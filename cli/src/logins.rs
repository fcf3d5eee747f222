//! Tokens that `errand login` keeps, each for the server it was stored for and no other.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::error::CommandError;

/// The file of all logins, readable for its user alone.
#[derive(Debug)]
pub(crate) struct Logins {
    path: PathBuf,
    by_server: BTreeMap<String, Login>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Login {
    token: String,
    /// Seconds since 1970, if whoever issued it said so.
    expires_at: Option<u64>,
}

impl Logins {
    /// Reads `errand/logins.json` of `XDG_CONFIG_HOME`, or of `~/.config`.
    pub(crate) fn open() -> Result<Self, CommandError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
        let folder = folder.ok_or_else(|| {
            CommandError::unusable("there is no place for logins: set HOME or XDG_CONFIG_HOME")
        })?;
        let path = folder.join("errand/logins.json");
        let by_server = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|_| {
                CommandError::unusable(format!("{}: is not what was stored", path.display()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(CommandError::unusable(format!("{}: {error}", path.display())));
            }
        };
        Ok(Self { path, by_server })
    }

    /// The token stored for exactly this server.
    pub(crate) fn token(&self, server: &str) -> Result<String, CommandError> {
        let advice = "errand login stores one; --token-file and ERRAND_TOKEN go before it";
        let Some(login) = self.by_server.get(server) else {
            return Err(CommandError::unusable(format!("no token for {server}: {advice}")));
        };
        if login.expires_at.is_some_and(|expires_at| expires_at <= now()) {
            return Err(CommandError::unusable(format!(
                "the login at {server} has ended: {advice}"
            )));
        }
        Ok(login.token.clone())
    }

    /// Stores a token; returns where.
    pub(crate) fn store(
        mut self,
        server: &str,
        token: String,
        expires_in: Option<u64>,
    ) -> Result<PathBuf, CommandError> {
        let expires_at = expires_in.map(|seconds| now().saturating_add(seconds));
        self.by_server.insert(server.to_owned(), Login { token, expires_at });
        let written = self.write();
        written.map_err(|error| {
            CommandError::unusable(format!("{}: cannot be written: {error}", self.path.display()))
        })?;
        Ok(self.path)
    }

    /// Whole or not at all, and never readable for others.
    fn write(&self) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new)?;
        file.write_all(&serde_json::to_vec(&self.by_server)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[expect(clippy::disallowed_methods, reason = "a login ends by the clock of the machine it is on")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
