//! A user's token for later commands: given, or by the device authorization grant (RFC 8628).

use std::{path::PathBuf, time::Duration};

use clap::Args;
use errand_shared::{http, telemetry::chain};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::{
    connection::{is_local, read_token, server},
    error::CommandError,
    logins::Logins,
    output,
};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

const TIMEOUT: Duration = Duration::from_secs(30);

/// RFC 8628 3.5: by so much more seldom after `slow_down`.
const SLOWER: Duration = Duration::from_secs(5);

/// Store a token for a server, in a file that only you can read.
///
/// Either a token that you have (--token-file), or one that you sign in for in a browser, on this
/// device or another (--authority and --client-id of an application that may use the device flow, and
/// --scope of Errand). A login ends with its token; no refresh token is kept.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Address of the API that the token is for; it is sent to no other.
    #[arg(long, env = "ERRAND_SERVER", value_name = "URL")]
    server: Option<Url>,
    /// File with the token; `-`: standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authority", "client_id", "scope"])]
    token_file: Option<PathBuf>,
    /// The OpenID provider, such as https://login.microsoftonline.com/TENANT/v2.0.
    #[arg(long, value_name = "URL", requires_all = ["client_id", "scope"])]
    authority: Option<Url>,
    /// The application that you sign in with.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// What the token permits, such as api://errand/Jobs.ReadWrite.
    #[arg(long)]
    scope: Option<String>,
    /// Send the token by plain http to a server beyond this machine.
    #[arg(long)]
    allow_insecure_http: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), CommandError> {
    let server = server(arguments.server.as_ref(), arguments.allow_insecure_http)?;
    let logins = Logins::open()?;
    let (token, expires_in) = match (&arguments.token_file, &arguments.authority) {
        (Some(path), _) => (read_token(path)?, None),
        (None, Some(authority)) => {
            let client_id = arguments.client_id.as_deref().unwrap_or_default();
            let scope = arguments.scope.as_deref().unwrap_or_default();
            Device { http: http::client(TIMEOUT), client_id, scope }.sign_in(authority).await?
        }
        (None, None) => {
            return Err(CommandError::unusable(
                "say where the token comes from: --token-file FILE, or --authority, --client-id and --scope",
            ));
        }
    };
    let path = logins.store(&server, token, expires_in)?;
    output::note(&format!("stored for {server} in {}", path.display()));
    Ok(())
}

struct Device<'a> {
    http: reqwest::Client,
    client_id: &'a str,
    scope: &'a str,
}

#[derive(Deserialize)]
struct Metadata {
    device_authorization_endpoint: Option<Url>,
    token_endpoint: Url,
}

/// RFC 8628 3.2.
#[derive(Deserialize)]
struct Authorization {
    device_code: String,
    user_code: String,
    verification_uri: String,
    expires_in: u64,
    #[serde(default = "five")]
    interval: u64,
}

fn five() -> u64 {
    5
}

impl Device<'_> {
    /// Returns the access token, and for how many seconds it is good.
    async fn sign_in(&self, authority: &Url) -> Result<(String, Option<u64>), CommandError> {
        let base = authority.as_str().trim_end_matches('/');
        let discovery = format!("{base}/.well-known/openid-configuration");
        let discovery = discovery.parse().map_err(|_| {
            CommandError::unusable(format!("--authority: {authority} is no address of a provider"))
        })?;
        let metadata: Metadata = self.read(self.http.get(safe(discovery)?)).await?;
        let Some(endpoint) = metadata.device_authorization_endpoint else {
            return Err(CommandError::unusable(format!(
                "{authority} has no device flow: get a token elsewhere and use --token-file"
            )));
        };
        let form = [("client_id", self.client_id), ("scope", self.scope)];
        let device: Authorization = self.read(self.http.post(safe(endpoint)?).form(&form)).await?;
        output::note(&format!(
            "Open {} and enter the code {}",
            output::plain(&device.verification_uri),
            output::plain(&device.user_code)
        ));
        let waiting = self.poll(safe(metadata.token_endpoint)?, &device);
        let limit = Duration::from_secs(device.expires_in);
        tokio::time::timeout(limit, waiting)
            .await
            .unwrap_or_else(|_| Err(CommandError::Failed("nobody signed in in time".to_owned())))
    }

    async fn poll(
        &self,
        endpoint: Url,
        device: &Authorization,
    ) -> Result<(String, Option<u64>), CommandError> {
        let mut interval = Duration::from_secs(device.interval);
        loop {
            tokio::time::sleep(interval).await;
            let form = [
                ("grant_type", GRANT_TYPE),
                ("device_code", &device.device_code),
                ("client_id", self.client_id),
            ];
            let response = self.http.post(endpoint.clone()).form(&form).send().await;
            let answer: Value = match response {
                Ok(response) => response.json().await.map_err(|error| unanswered(&error))?,
                // RFC 8628 3.5: a connection that timed out is no end.
                Err(error) if error.is_timeout() => {
                    interval += SLOWER;
                    continue;
                }
                Err(error) => return Err(unanswered(&error)),
            };
            if let Some(token) = answer["access_token"].as_str() {
                return Ok((token.to_owned(), answer["expires_in"].as_u64()));
            }
            match answer["error"].as_str() {
                Some("authorization_pending") => {}
                Some("slow_down") => interval += SLOWER,
                error => {
                    let error = output::plain(error.unwrap_or("no token and no error"));
                    return Err(CommandError::Failed(format!("the provider answered: {error}")));
                }
            }
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, CommandError> {
        let response = request.send().await.and_then(reqwest::Response::error_for_status);
        let response = response.map_err(|error| unanswered(&error))?;
        response.json().await.map_err(|error| unanswered(&error))
    }
}

/// Addresses that a provider names are as good as the provider: https, or this machine.
fn safe(url: Url) -> Result<Url, CommandError> {
    if url.scheme() == "https" || (url.scheme() == "http" && is_local(&url)) {
        Ok(url)
    } else {
        Err(CommandError::unusable(format!("{url}: expected https")))
    }
}

fn unanswered(error: &reqwest::Error) -> CommandError {
    CommandError::Failed(format!("the provider did not answer as expected: {}", chain(error)))
}
