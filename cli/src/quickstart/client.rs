//! A user's view: the HTTP API, called with the user's token.

use std::time::Duration;

use errand_shared::{http, telemetry::chain};
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
};
use serde_json::{Value, json};

/// How long one look at a job waits for a change (RFC 7240, `Prefer: wait`).
const WAIT_SECONDS: u64 = 30;

/// Why a request got no answer that helps.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the API cannot be reached: {}", chain(.0))]
    Request(#[from] reqwest::Error),
    #[error("the API answered {status}: {body}")]
    Refused { status: StatusCode, body: String },
}

/// One user at one API.
pub(super) struct Client {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl Client {
    /// `api` without a trailing slash.
    pub(super) fn new(api: String, token: String) -> Self {
        Self { http: http::client(Duration::from_secs(2 * WAIT_SECONDS)), api, token }
    }

    /// Submits a job and returns it as it was accepted.
    pub(super) async fn submit(&self, definition: &Value) -> Result<Value, ClientError> {
        let request = self.http.post(format!("{}/v1/jobs", self.api));
        let response = self.send(request.json(&json!({ "definition": definition }))).await?;
        Ok(response.json().await?)
    }

    /// Shows a job at each change, and returns it once it will change no more by itself.
    pub(super) async fn watch(
        &self,
        id: &str,
        mut show: impl FnMut(&Value),
    ) -> Result<Value, ClientError> {
        let address = format!("{}/v1/jobs/{id}", self.api);
        let mut seen: Option<HeaderValue> = None;
        loop {
            let mut request = self.http.get(&address);
            if let Some(tag) = seen.take() {
                request = request.header(IF_NONE_MATCH, &tag);
                request = request.header("prefer", format!("wait={WAIT_SECONDS}"));
                seen = Some(tag);
            }
            let response = self.send(request).await?;
            if response.status() == StatusCode::NOT_MODIFIED {
                continue;
            }
            seen = response.headers().get(ETAG).cloned();
            let job = response.json().await?;
            show(&job);
            if is_settled(&job) {
                return Ok(job);
            }
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.bearer_auth(&self.token).send().await?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        Err(ClientError::Refused { status, body: response.text().await? })
    }
}

fn is_settled(job: &Value) -> bool {
    ["completed", "faulted", "cancelled", "suspended"].iter().any(|status| job["status"] == *status)
}
