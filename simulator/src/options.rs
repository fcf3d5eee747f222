use std::{path::PathBuf, time::Duration};

/// What a simulator is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// TCP port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
    /// Serves HTTPS with these files; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// Folder that keeps the keys, the ids and the client secret, so that tokens survive a restart.
    /// Made if missing. Without it everything is random per start.
    pub state_dir: Option<PathBuf>,
    /// PEM certificate with which the client may sign client assertions, besides its secret.
    pub client_certificate: Option<PathBuf>,
    /// Life of the access tokens of the token endpoint.
    pub access_token_lifetime: Duration,
    /// Life of the user tokens of `token_url`.
    pub user_token_lifetime: Duration,
    /// Revokes the whole family when a replaced refresh token is presented again (RFC 9700 section
    /// 4.14.2). Entra does not: there a replaced one stays usable.
    pub reuse_detection: bool,
    /// So long after its replacement a token may still be presented: what providers offer for
    /// answers that got lost.
    pub reuse_leeway: Duration,
}

impl Default for Options {
    /// Plain HTTP on any port, tokens of an hour, refresh tokens as at Entra.
    fn default() -> Self {
        Self {
            port: 0,
            tls: None,
            state_dir: None,
            client_certificate: None,
            access_token_lifetime: Duration::from_hours(1),
            user_token_lifetime: Duration::from_hours(1),
            reuse_detection: false,
            reuse_leeway: Duration::ZERO,
        }
    }
}

/// PEM files of the server's certificate.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate for `localhost`, with its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}
