//! A user's view: the HTTP API, called with the user's token.

use std::time::Duration;

use errand_shared::{http, telemetry::chain};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
};
use serde_json::Value;

/// How long one look at a job waits for a change (RFC 7240, `Prefer: wait`).
const WAIT_SECONDS: u64 = 30;

/// Why a request got no answer that helps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("the API cannot be reached: {}", chain(.0))]
    Request(#[from] reqwest::Error),
    #[error("the API answered {status}: {problem}")]
    Refused { status: StatusCode, problem: String },
}

/// One user at one API.
pub(crate) struct Client {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl Client {
    /// `api` without a trailing slash.
    pub(crate) fn new(api: String, token: String) -> Self {
        Self { http: http::client(Duration::from_secs(2 * WAIT_SECONDS)), api, token }
    }

    /// Submits a job and returns it as it was accepted.
    pub(crate) async fn submit(&self, submission: &Value) -> Result<Value, ClientError> {
        let request = self.http.post(format!("{}/v1/jobs", self.api));
        Ok(self.send(request.json(submission)).await?.json().await?)
    }

    /// Sends a request without a body, to a path below `/v1`, and returns the answer's.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> Result<Value, ClientError> {
        let request = self.http.request(method, format!("{}/v1/{path}", self.api));
        Ok(self.send(request).await?.json().await?)
    }

    /// As [`Client::ask`] with GET and a query.
    pub(crate) async fn list(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Value, ClientError> {
        let mut url = format!("{}/v1/{path}", self.api);
        if !query.is_empty() {
            let pairs = query.iter().map(|(name, value)| (*name, value.as_str()));
            url.push('?');
            url.push_str(
                &url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish(),
            );
        }
        Ok(self.send(self.http.get(url)).await?.json().await?)
    }

    /// Shows a job at each change, and returns it once it will change no more by itself.
    pub(crate) async fn watch(
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
        let body = response.text().await?;
        Err(ClientError::Refused { status, problem: describe(&body) })
    }
}

/// A problem (RFC 9457) as lines for people; anything else as it is.
fn describe(body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let Some(title) = problem["title"].as_str() else { return body.to_owned() };
    let mut text = format!("{title}: {}", problem["detail"].as_str().unwrap_or_default());
    for error in problem["errors"].as_array().into_iter().flatten() {
        let part = |name: &str| error[name].as_str().unwrap_or_default();
        text.push_str(&format!("\n  {}: {}", part("pointer"), part("detail")));
    }
    for name in ["consent_url", "claims"] {
        if let Some(value) = problem[name].as_str() {
            text.push_str(&format!("\n  {name}: {value}"));
        }
    }
    text
}

fn is_settled(job: &Value) -> bool {
    ["completed", "faulted", "cancelled", "suspended"].iter().any(|status| job["status"] == *status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_places() {
        let body = r#"{"title":"Invalid body","detail":"2 places","errors":[{"pointer":"/a","detail":"b"}]}"#;
        assert_eq!(describe(body), "Invalid body: 2 places\n  /a: b");
        assert_eq!(describe("<html>"), "<html>");
    }
}
