//! Tokens of an Azure managed identity, by which Entra recognises Errand (workload identity
//! federation; Microsoft.Identity.Web `SignedAssertionFromManagedIdentity`).
//!
//! A token is asked for where Errand runs: from App Service's identity endpoint or from the instance
//! metadata service. Whoever answers is slow and limits requests, so one answer serves all until
//! shortly before it expires, and a failure serves all for a moment.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::{sync::Mutex, time};
use url::Url;

use super::{bounded_body, redaction::redact};
use crate::{
    config::{self, ManagedIdentitySource},
    http,
    time::{SharedClock, Timestamp},
};

/// Whom the token is for: Entra's side of the federation (Microsoft.Identity.Web's default).
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Link-local, and the same on every machine in Azure.
const INSTANCE_METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
/// For everything together: a token request waits for it within its own deadline.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Before each repetition; MSAL's three, but shorter, because a job that failed comes back by itself.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(400), Duration::from_millis(800)];
/// A token with less life left is replaced (MSAL's margin).
const EXPIRY_MARGIN: Duration = Duration::from_mins(5);
/// How long nobody asks again after a failure, so that another credential can serve at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// Tokens stay below 4 KiB.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// One managed identity, with its token.
#[derive(Debug)]
pub(super) struct ManagedIdentity {
    client_id: Option<String>,
    endpoint: Endpoint,
    http: reqwest::Client,
    clock: SharedClock,
    pauses: [Duration; 3],
    /// Held while fetching: whoever waits for it finds the answer of the one before.
    answer: Mutex<Option<Answer>>,
}

#[derive(Debug)]
enum Endpoint {
    AppService { url: Url, header: SecretString },
    InstanceMetadata { url: Url },
}

#[derive(Debug)]
struct Answer {
    token: Result<SecretString, ManagedIdentityError>,
    good_until: Timestamp,
}

/// No token, and what the operator can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("managed identity {identity}: {service} {problem}")]
pub(super) struct ManagedIdentityError {
    identity: String,
    service: &'static str,
    problem: Problem,
}

#[derive(Debug, Clone, thiserror::Error)]
enum Problem {
    #[error(
        "does not answer: let Errand run in Azure with this identity assigned and reach the service, \
         or remove the credential"
    )]
    Unreachable,
    #[error("has no answer now (status {0})")]
    Unavailable(u16),
    #[error(
        "refuses it (status {status}: {description}): assign the identity to where Errand runs, or \
         correct `managed_identity_client_id`"
    )]
    Refused { status: u16, description: String },
    #[error("answered with no token")]
    Malformed,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    expires_on: Seconds,
}

/// Since 1970; a string from the metadata service, a string or a number from App Service.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(i64),
    Text(String),
}

/// The metadata service has `error_description`, App Service `message`.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(alias = "message")]
    error_description: Option<String>,
}

impl ManagedIdentity {
    /// Asks for nothing yet.
    pub(super) fn new(config: config::ManagedIdentity, clock: SharedClock) -> Self {
        let endpoint = match config.source {
            ManagedIdentitySource::AppService { endpoint, header } => {
                Endpoint::AppService { url: endpoint, header }
            }
            ManagedIdentitySource::InstanceMetadata => Endpoint::InstanceMetadata {
                url: Url::parse(INSTANCE_METADATA).expect("the constant is a URL"),
            },
        };
        Self::at(endpoint, config.client_id, clock, PAUSES)
    }

    fn at(
        endpoint: Endpoint,
        client_id: Option<String>,
        clock: SharedClock,
        pauses: [Duration; 3],
    ) -> Self {
        let http = http::client(FETCH_TIMEOUT);
        Self { client_id, endpoint, http, clock, pauses, answer: Mutex::default() }
    }

    /// Returns a token of the identity for Entra, new or still good for minutes.
    pub(super) async fn token(&self) -> Result<SecretString, ManagedIdentityError> {
        let mut answer = self.answer.lock().await;
        if let Some(answer) = answer.as_ref()
            && self.clock.now() < answer.good_until
        {
            return answer.token.clone();
        }
        let fetched = time::timeout(FETCH_TIMEOUT, self.fetch()).await;
        let fetched = fetched.unwrap_or(Err(Problem::Unreachable));
        let answer = answer.insert(match fetched {
            Ok((token, expires_at)) => {
                Answer { token: Ok(token), good_until: expires_at - EXPIRY_MARGIN }
            }
            Err(problem) => Answer {
                token: Err(self.error(problem)),
                good_until: self.clock.now() + FAILURE_PAUSE,
            },
        });
        answer.token.clone()
    }

    async fn fetch(&self) -> Result<(SecretString, Timestamp), Problem> {
        for pause in self.pauses {
            match self.ask().await {
                Err(Problem::Unavailable(_)) => time::sleep(pause).await,
                answer => return answer,
            }
        }
        self.ask().await
    }

    async fn ask(&self) -> Result<(SecretString, Timestamp), Problem> {
        let response = self.request().send().await.map_err(|_| Problem::Unreachable)?;
        let status = response.status();
        let body = bounded_body::read(response, MAX_ANSWER_BYTES).await;
        match status.as_u16() {
            200 => Token::parse(&body.unwrap_or_default()),
            // 404 and 410: the service starts, or is being replaced.
            status @ (404 | 408 | 410 | 429 | 500..) => Err(Problem::Unavailable(status)),
            status => {
                let refusal = serde_json::from_slice::<Refusal>(&body.unwrap_or_default());
                let description = refusal.unwrap_or_default().error_description;
                let description = redact(description.as_deref().unwrap_or("no reason given"), &[]);
                Err(Problem::Refused { status, description })
            }
        }
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let (url, version) = match &self.endpoint {
            Endpoint::AppService { url, .. } => (url, "2019-08-01"),
            Endpoint::InstanceMetadata { url } => (url, "2018-02-01"),
        };
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("api-version", version)
            .append_pair("resource", AUDIENCE)
            .extend_pairs(self.client_id.iter().map(|id| ("client_id", id)));
        let request = self.http.get(url);
        match &self.endpoint {
            Endpoint::AppService { header, .. } => {
                request.header("x-identity-header", header.expose_secret())
            }
            // Proves that nobody was tricked into following a link to the service.
            Endpoint::InstanceMetadata { .. } => request.header("metadata", "true"),
        }
    }

    fn error(&self, problem: Problem) -> ManagedIdentityError {
        let identity = self.client_id.clone().unwrap_or_else(|| "of this machine".to_owned());
        let service = match self.endpoint {
            Endpoint::AppService { .. } => "App Service (IDENTITY_ENDPOINT)",
            Endpoint::InstanceMetadata { .. } => "the instance metadata service (169.254.169.254)",
        };
        ManagedIdentityError { identity, service, problem }
    }
}

impl Token {
    fn parse(body: &[u8]) -> Result<(SecretString, Timestamp), Problem> {
        let token: Self = serde_json::from_slice(body).map_err(|_| Problem::Malformed)?;
        let seconds = match token.expires_on {
            Seconds::Number(seconds) => Some(seconds),
            Seconds::Text(text) => text.parse().ok(),
        };
        let expires_at = seconds.and_then(Timestamp::from_seconds).ok_or(Problem::Malformed)?;
        if token.access_token.is_empty() {
            return Err(Problem::Malformed);
        }
        Ok((token.access_token.into(), expires_at))
    }
}

#[cfg(test)]
mod tests;
