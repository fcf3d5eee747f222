//! One request to the token endpoint, and what came of it.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    bounded_body::{self, BodyError},
    client_credential::Proof,
    failure::{ANOTHER_USER, OPERATOR, Outcome, TokenFailure, Verdict, decide},
    grant::Grant,
    oauth_error::OAuthError,
    principal::Principal,
    redaction::redact,
    requested_claims::RequestedClaims,
    token_endpoint::HTTP_TIMEOUT,
    token_response::{ResponseError, TokenResponse},
};
use crate::{http, telemetry, time::Timestamp};

/// Entra's answers stay below 16 KiB.
pub(super) const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// Longest `error`, `suberror` or correlation id that is kept.
const MAX_WORD_CHARACTERS: usize = 100;

/// What is asked for, the same in every attempt.
pub(super) struct Request<'a> {
    pub(super) grant: Grant<'a>,
    pub(super) principal: &'a Principal,
    /// What an API demands of the token.
    pub(super) claims: Option<&'a RequestedClaims>,
    pub(super) correlation_id: String,
    pub(super) deadline: Instant,
}

/// An attempt that brought no token.
pub(super) struct Failed {
    outcome: Outcome,
    verdict: Verdict,
    pub(super) description: String,
}

impl<'a> Request<'a> {
    /// One that begins now.
    pub(super) fn new(grant: Grant<'a>, principal: &'a Principal) -> Self {
        Self {
            grant,
            principal,
            claims: None,
            correlation_id: Uuid::new_v4().to_string(),
            deadline: Instant::now() + HTTP_TIMEOUT,
        }
    }

    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Failed {
    pub(super) fn of(grant: Grant<'_>, outcome: Outcome, description: String) -> Self {
        let verdict = decide(grant.kind(), &outcome);
        Self { outcome, verdict, description }
    }

    pub(super) fn locally(description: String) -> Self {
        Self { outcome: Outcome::NotSent, verdict: OPERATOR, description }
    }

    pub(super) fn error(&self) -> Option<&OAuthError> {
        match &self.outcome {
            Outcome::Answer { error, .. } => error.as_deref(),
            Outcome::NotSent | Outcome::NoAnswer => None,
        }
    }

    /// No connection, or a server's fault without `Retry-After`: often over in a moment.
    pub(super) fn is_brief(&self) -> bool {
        match self.outcome {
            Outcome::NotSent => self.verdict != OPERATOR,
            Outcome::Answer { status, retry_after, .. } => {
                (500..=599).contains(&status) && retry_after.is_none()
            }
            Outcome::NoAnswer => false,
        }
    }

    pub(super) fn into_failure(self, request: &Request<'_>) -> TokenFailure {
        // Nobody keeps a provider from putting what it was sent into any of its words.
        let secret = request.grant.secret();
        let word = |text: &String| -> String {
            redact(text, &[secret]).chars().take(MAX_WORD_CHARACTERS).collect()
        };
        let error = self.error();
        TokenFailure {
            decision: self.verdict.decision,
            gate: self.verdict.gate,
            refresh_token: self.verdict.refresh_token,
            presented: self.outcome.presented(),
            error: error.map(|error| word(&error.error)),
            suberror: error.and_then(|error| error.suberror.as_ref()).map(word),
            codes: error.map(OAuthError::codes).unwrap_or_default(),
            claims: error.and_then(OAuthError::claims).map(str::to_owned),
            correlation_id: error
                .and_then(|error| error.correlation_id.as_ref())
                .map(word)
                .or_else(|| Some(request.correlation_id.clone())),
            description: self.description,
        }
    }
}

pub(super) fn headers(request: &Request<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form);
    if !request.grant.kind().is_entra() {
        return headers;
    }
    headers.insert("return-client-request-id", HeaderValue::from_static("true"));
    headers.insert("x-client-sku", HeaderValue::from_static("errand"));
    headers.insert("x-client-ver", HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    // Routes the request to where the user's data are, also while Entra runs on its backup.
    let Principal { tenant, subject } = request.principal;
    let mailbox = format!("oid:{subject}@{tenant}");
    for (name, text) in
        [("client-request-id", &request.correlation_id), ("x-anchormailbox", &mailbox)]
    {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Reads the answer of the token endpoint to a request for `scope`.
pub(super) async fn read(
    response: reqwest::Response,
    request: &Request<'_>,
    scope: &str,
    proof: &Proof,
    requested_at: Timestamp,
) -> Result<TokenResponse, Failed> {
    let status = response.status().as_u16();
    let body = successful_body(response, request, proof, requested_at).await?;
    let kind = request.grant.kind();
    TokenResponse::parse(&body, kind, request.principal, scope, requested_at).map_err(|error| {
        let outcome = Outcome::Answer { status, retry_after: None, error: None };
        let failed = Failed::of(request.grant, outcome, error.to_string());
        match error {
            ResponseError::AnotherUser => {
                Failed { verdict: ANOTHER_USER.for_grant(kind), ..failed }
            }
            ResponseError::Malformed
            | ResponseError::TokenType
            | ResponseError::IssuedTokenType
            | ResponseError::Lifetime => failed,
        }
    })
}

/// Reads the answer of the revocation endpoint: a good status is all it says (RFC 7009 2.2).
pub(super) async fn read_revocation(
    response: reqwest::Response,
    request: &Request<'_>,
    proof: &Proof,
    requested_at: Timestamp,
) -> Result<(), Failed> {
    successful_body(response, request, proof, requested_at).await.map(drop)
}

/// Returns the body of an answer that is not an error.
async fn successful_body(
    response: reqwest::Response,
    request: &Request<'_>,
    proof: &Proof,
    requested_at: Timestamp,
) -> Result<Vec<u8>, Failed> {
    let status = response.status();
    let retry_after = http::retry_after(response.headers(), requested_at);
    let answer = |error| Outcome::Answer { status: status.as_u16(), retry_after, error };
    let failed = |outcome, description| Failed::of(request.grant, outcome, description);

    let body = match bounded_body::read(response, MAX_RESPONSE_BYTES).await {
        Ok(body) => body,
        Err(error @ BodyError::BrokeOff(_)) if status.is_success() => {
            return Err(failed(Outcome::NoAnswer, chain(&error)));
        }
        // The status alone says enough.
        Err(error) => return Err(failed(answer(None), chain(&error))),
    };
    if let Ok(error) = serde_json::from_slice::<OAuthError>(&body) {
        let description = error.error_description.as_deref().unwrap_or(&error.error);
        let description = redact(description, &[request.grant.secret(), proof.secret()]);
        return Err(failed(answer(Some(Box::new(error))), description));
    }
    if !status.is_success() {
        return Err(failed(answer(None), format!("status {status} without an OAuth error")));
    }
    Ok(body)
}

pub(super) fn unsent(error: &reqwest::Error) -> Outcome {
    if error.is_connect() || error.is_builder() { Outcome::NotSent } else { Outcome::NoAnswer }
}

/// An error with its causes: the outermost alone says only that something was sent in vain.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    redact(&telemetry::chain(error), &[])
}
