//! One call as the user, and what its outcome allows.

use std::{collections::BTreeMap, time::Duration};

use errand_shared::{
    config::DownstreamApi,
    http::retry_after,
    identity::{AccessToken, RequestedClaims},
    jobs::CallOutcome,
    time::Timestamp,
    workflow::{Call, Response, WorkflowError, address},
};
use reqwest::{
    Method,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap,
        HeaderName, HeaderValue,
    },
};
use serde_json::Value;

use crate::challenge::requested_claims;

/// What stands in a kept answer instead of the token that was sent.
const REDACTED: &str = "[redacted]";

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Sent {
    /// For the workflow to deal with: an answer that stays what it is.
    Final(Response),
    /// An answer with this status that the workflow does not get.
    Unusable(u16, WorkflowError),
    /// It cannot be sent.
    Refused(WorkflowError),
    /// 401: another token may help, if it has the claims that the API demands.
    Unauthorized(Response, Option<RequestedClaims>),
    /// Another time it may be different.
    Transient(Transient),
}

/// A failure that may pass.
#[derive(Debug)]
pub(crate) struct Transient {
    /// Whether the API may have done what it was asked: then only a call that may be repeated is.
    pub(crate) maybe_processed: bool,
    /// The API asked for patience: a throttle, not an attempt.
    pub(crate) throttled: bool,
    /// Not before this.
    pub(crate) retry_after: Option<Duration>,
    /// The same for the audit.
    outcome: CallOutcome,
    /// What the workflow gets if it does not pass.
    pub(crate) last: Result<Response, WorkflowError>,
}

impl Sent {
    /// A 401 to a token whose time was over when it came: the machine or the network was slow.
    pub(crate) fn too_late(response: Response) -> Self {
        Self::Transient(Transient {
            maybe_processed: false,
            throttled: true,
            retry_after: None,
            outcome: CallOutcome::Answered,
            last: Ok(response),
        })
    }

    /// What the audit says of it, with the status of the answer; none if it was not sent.
    pub(crate) fn outcome(&self) -> Option<(CallOutcome, Option<u16>)> {
        match self {
            Self::Final(response) | Self::Unauthorized(response, _) => {
                Some((CallOutcome::Answered, Some(response.status)))
            }
            Self::Unusable(status, _) => Some((CallOutcome::UnusableAnswer, Some(*status))),
            Self::Refused(_) => None,
            Self::Transient(Transient { outcome, last, .. }) => {
                Some((*outcome, last.as_ref().ok().map(|response| response.status)))
            }
        }
    }
}

/// Whether the call asks for no change (RFC 9110 9.2.1).
pub(crate) fn only_reads(call: &Call) -> bool {
    matches!(call.method.as_str(), "GET" | "HEAD" | "OPTIONS")
}

/// Whether sending the call twice is safe (RFC 9110 9.2.2), or the API makes it so.
pub(crate) fn may_be_repeated(call: &Call, api: &DownstreamApi) -> bool {
    only_reads(call)
        || matches!(call.method.as_str(), "PUT" | "DELETE")
        || api.honours_idempotency_key
}

/// Sends the call with the user's token for its API.
pub(crate) async fn send(
    http: &reqwest::Client,
    api: &DownstreamApi,
    call: &Call,
    token: &AccessToken,
    idempotency_key: &str,
    traceparent: &str,
    now: Timestamp,
) -> Sent {
    let request = match request(http, api, call, token, idempotency_key, traceparent) {
        Ok(request) => request,
        Err(error) => return Sent::Refused(error),
    };
    let response = match http.execute(request).await {
        Ok(response) => response,
        Err(error) => return unanswered(&error),
    };
    let retry_after = retry_after(response.headers(), now);
    // Read from the headers as they came: the workflow sees one of each name.
    let claims = requested_claims(response.headers());
    match read(response, api.max_response_bytes, token).await {
        Ok(response) if response.status == 401 => Sent::Unauthorized(response, claims),
        Ok(response) => classify(call, api, response, retry_after),
        Err(ReadError::Connection(error)) => unanswered(&error),
        Err(ReadError::Unusable(status, error)) => Sent::Unusable(status, error),
    }
}

fn request(
    http: &reqwest::Client,
    api: &DownstreamApi,
    call: &Call,
    token: &AccessToken,
    idempotency_key: &str,
    traceparent: &str,
) -> Result<reqwest::Request, WorkflowError> {
    // Decided again for the present configuration: the checkpoint may be older.
    let url = address::url(api, &call.method, &call.path)
        .map_err(|error| WorkflowError::authorization(error.to_string()))?;
    let method = Method::from_bytes(call.method.as_bytes())
        .map_err(|_| WorkflowError::configuration("the method is not an HTTP method"))?;
    let mut headers = document_headers(&call.headers)?;
    let mut bearer = header_value(&format!("Bearer {}", token.expose()))?;
    bearer.set_sensitive(true);
    headers.insert(AUTHORIZATION, bearer);
    headers.insert(HeaderName::from_static("idempotency-key"), header_value(idempotency_key)?);
    headers.insert(HeaderName::from_static("traceparent"), header_value(traceparent)?);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json, */*;q=0.8"));
    let body = call.body.as_ref().map(|body| body_bytes(body, &mut headers));
    let mut request = http.request(method, url).headers(headers).timeout(api.timeout);
    if let Some(body) = body {
        request = request.body(body);
    }
    request.build().map_err(|error| WorkflowError::runtime(error.without_url().to_string()))
}

fn document_headers(headers: &BTreeMap<String, String>) -> Result<HeaderMap, WorkflowError> {
    headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| WorkflowError::configuration("a header's name is not allowed"))?;
            Ok((name, header_value(value)?))
        })
        .collect()
}

fn header_value(text: &str) -> Result<HeaderValue, WorkflowError> {
    HeaderValue::from_str(text)
        .map_err(|_| WorkflowError::configuration("a header's value is not allowed"))
}

/// JSON, unless the document says that its text is something else.
fn body_bytes(body: &Value, headers: &mut HeaderMap) -> Vec<u8> {
    let content_type =
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    let is_json = content_type.to_str().is_ok_and(|value| value.contains("json"));
    match body {
        Value::String(text) if !is_json => text.clone().into_bytes(),
        body => body.to_string().into_bytes(),
    }
}

enum ReadError {
    Connection(reqwest::Error),
    Unusable(u16, WorkflowError),
}

/// Reads the whole answer, or none of it.
async fn read(
    mut response: reqwest::Response,
    limit: usize,
    token: &AccessToken,
) -> Result<Response, ReadError> {
    let status = response.status().as_u16();
    let encoding = response.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let detail = "the answer is compressed, which the request did not accept";
        let error = WorkflowError::communication(status, detail);
        return Err(ReadError::Unusable(status, error));
    }
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.replace(token.expose(), REDACTED))
        })
        .collect();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Connection)? {
        if body.len() + chunk.len() > limit {
            let detail = format!("the answer is larger than `max_response_bytes`, {limit} bytes");
            let error = WorkflowError::communication(status, detail);
            return Err(ReadError::Unusable(status, error));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response { status, headers, body: without_token(body, token) })
}

/// Some APIs echo what they were sent; the token must not end up in a job's output.
fn without_token(body: Vec<u8>, token: &AccessToken) -> Vec<u8> {
    let needle = token.expose().as_bytes();
    if needle.is_empty() || !body.windows(needle.len()).any(|window| window == needle) {
        return body;
    }
    let mut kept = Vec::with_capacity(body.len());
    let mut rest = body.as_slice();
    while let Some(at) = rest.windows(needle.len()).position(|window| window == needle) {
        kept.extend_from_slice(&rest[..at]);
        kept.extend_from_slice(REDACTED.as_bytes());
        rest = &rest[at + needle.len()..];
    }
    kept.extend_from_slice(rest);
    kept
}

fn classify(
    call: &Call,
    api: &DownstreamApi,
    response: Response,
    retry_after: Option<Duration>,
) -> Sent {
    let transient = |maybe_processed, response| {
        Sent::Transient(Transient {
            maybe_processed,
            throttled: retry_after.is_some(),
            retry_after,
            outcome: CallOutcome::Answered,
            last: Ok(response),
        })
    };
    match response.status {
        429 => Sent::Transient(Transient {
            maybe_processed: false,
            throttled: true,
            retry_after,
            outcome: CallOutcome::Answered,
            last: Ok(response),
        }),
        503 if retry_after.is_some() => transient(false, response),
        // Nobody says whether it was processed, and nobody says that it was not: an error.
        503 if !may_be_repeated(call, api) => Sent::Final(response),
        408 | 502 | 503 | 504 => transient(true, response),
        _ => Sent::Final(response),
    }
}

fn unanswered(error: &reqwest::Error) -> Sent {
    let (outcome, detail) = if error.is_connect() {
        (CallOutcome::NotConnected, "no connection to the API")
    } else if error.is_timeout() {
        (CallOutcome::TimedOut, "no answer from the API in time")
    } else {
        (CallOutcome::ConnectionLost, "the connection to the API was lost")
    };
    Sent::Transient(Transient {
        maybe_processed: outcome != CallOutcome::NotConnected,
        throttled: false,
        retry_after: None,
        outcome,
        // The conformance kit's status for a call without an answer.
        last: Err(WorkflowError::communication(500, detail)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echoed_token_is_taken_out_wherever_it_stands() {
        let token = AccessToken::new("secret");
        for (body, kept) in [
            (r#"{"you sent":"secret"}"#, r#"{"you sent":"[redacted]"}"#),
            ("secretsecret", "[redacted][redacted]"),
            ("secre", "secre"),
        ] {
            assert_eq!(without_token(body.into(), &token), kept.as_bytes());
        }
    }

    #[test]
    fn a_text_body_is_sent_as_it_is_only_if_the_document_says_so() {
        let mut headers = HeaderMap::new();
        assert_eq!(body_bytes(&"a".into(), &mut headers), b"\"a\"");
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert_eq!(body_bytes(&"a".into(), &mut headers), b"a");
    }
}
