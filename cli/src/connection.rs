//! Which API a command talks to, and with whose token.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use url::{Host, Url};

use crate::{client::Client, error::CommandError, logins::Logins};

/// The way to the API that commands of users share.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Address of the API, such as https://errand.example.com.
    #[arg(long, env = "ERRAND_SERVER", value_name = "URL")]
    server: Option<Url>,
    /// File with a user's token for Errand; `-`: standard input. Without it, the variable
    /// `ERRAND_TOKEN` or what `errand login` stored for this server.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send the token by plain http to a server beyond this machine.
    #[arg(long)]
    allow_insecure_http: bool,
    /// Print the API's answer as JSON, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Connection {
    pub(crate) fn client(&self) -> Result<Client, CommandError> {
        let server = server(self.server.as_ref(), self.allow_insecure_http)?;
        let token = match (&self.token_file, std::env::var("ERRAND_TOKEN")) {
            (Some(path), _) => read_token(path)?,
            (None, Ok(token)) if !token.trim().is_empty() => token.trim().to_owned(),
            (None, _) => Logins::open()?.token(&server)?,
        };
        Ok(Client::new(server, token))
    }
}

/// The API's address without a trailing slash.
pub(crate) fn server(server: Option<&Url>, insecure: bool) -> Result<String, CommandError> {
    let Some(server) = server else {
        let expected = "say which API: --server URL, or the variable ERRAND_SERVER";
        return Err(CommandError::unusable(expected));
    };
    if !(server.scheme() == "https" || server.scheme() == "http" && (insecure || is_local(server)))
    {
        return Err(CommandError::unusable(format!(
            "{server}: expected https, because a token is sent there (--allow-insecure-http permits http)"
        )));
    }
    if server.query().is_some() || server.fragment().is_some() || !server.username().is_empty() {
        return Err(CommandError::unusable(
            "--server is an address without user, query or fragment",
        ));
    }
    Ok(server.as_str().trim_end_matches('/').to_owned())
}

/// Whether what is sent there stays on this machine.
pub(crate) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Reads a token from a file, or from standard input for `-`; never from an argument, which every
/// user of the machine can see.
pub(crate) fn read_token(path: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = read.map_err(|error| {
        CommandError::unusable(format!("{}: cannot be read: {error}", path.display()))
    })?;
    let token = text.trim();
    if token.is_empty() || token.contains(|letter: char| !letter.is_ascii_graphic()) {
        return Err(CommandError::unusable(format!("{}: expected one token", path.display())));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_travels_encrypted_or_stays_here() {
        let allowed = |url: &str, insecure| server(Some(&url.parse().unwrap()), insecure).is_ok();
        for url in ["https://errand.example.com/", "http://localhost:8080", "http://[::1]:8080"] {
            assert!(allowed(url, false), "{url}");
        }
        for url in ["http://errand.example.com", "ftp://localhost", "https://a@b", "https://a/?b"] {
            assert!(!allowed(url, false), "{url}");
        }
        assert!(allowed("http://errand:8080", true));
    }
}
