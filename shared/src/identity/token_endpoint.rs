//! How a token is got: one request to the provider's token endpoint, rarely two.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use tokio::time::Instant;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    authority::Authority,
    bounded_body::{self, BodyError},
    client_credential::{self, Proof},
    failure::{ANOTHER_USER, FailedGrant, OPERATOR, Outcome, TokenFailure, Verdict, decide},
    grant::Grant,
    oauth_error::OAuthError,
    principal::Principal,
    redaction::redact,
    scopes::Scopes,
    secret::{RefreshToken, UserAssertion},
    token_response::{ResponseError, TokenResponse},
};
use crate::{
    config::{ClientAuthentication, ClientCredential, DownstreamApi, IdentityConfig},
    http,
    time::{SharedClock, Timestamp},
};

/// The longest that [`TokenEndpoint::exchange`] and [`TokenEndpoint::refresh`] take, a second
/// attempt included. A submitting caller waits for it; the lease of a refresh has to outlast it.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(8);

/// Before the one quick repetition of a failed exchange.
const QUICK_RETRY_PAUSE: Duration = Duration::from_millis(300);
/// With less left of [`HTTP_TIMEOUT`] there is no second attempt: it would only blur the first answer.
const MIN_SECOND_ATTEMPT: Duration = Duration::from_secs(2);
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// Clamp of `Retry-After`: longer is a mistake or a lock-out (MSAL: 3600 s).
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Longest `error`, `suberror` or correlation id that is kept.
const MAX_WORD_CHARACTERS: usize = 100;

/// The provider's token endpoint, asked in Errand's name.
#[derive(Debug)]
pub struct TokenEndpoint {
    http: reqwest::Client,
    authority: Authority,
    client_id: String,
    authentication: ClientAuthentication,
    credentials: Vec<ClientCredential>,
    extra_parameters: BTreeMap<String, String>,
    clock: SharedClock,
}

/// What is asked for, the same in every attempt.
struct Request<'a> {
    grant: Grant<'a>,
    principal: &'a Principal,
    api: &'a DownstreamApi,
    scope: String,
    correlation_id: String,
    deadline: Instant,
}

/// An attempt that brought no token.
struct Failed {
    outcome: Outcome,
    verdict: Verdict,
    description: String,
}

impl TokenEndpoint {
    /// Makes no request and reads no file yet.
    pub fn new(config: &IdentityConfig, clock: SharedClock) -> Self {
        Self {
            http: http::client(HTTP_TIMEOUT),
            authority: Authority::of(config),
            client_id: config.client_id.clone(),
            authentication: config.client_authentication,
            credentials: config.client_credentials.clone(),
            extra_parameters: config.extra_token_parameters.clone(),
            clock,
        }
    }

    /// Exchanges the caller's token for one of `api`, in the caller's tenant.
    ///
    /// Repeats once when there was no connection or a server's fault without `Retry-After`.
    ///
    /// Source: RFC 7523 2.1; Entra "OAuth 2.0 On-Behalf-Of flow"; MSAL `InitiateLongRunningProcess`.
    pub async fn exchange(
        &self,
        principal: &Principal,
        assertion: &UserAssertion,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, TokenFailure> {
        self.request(Grant::JwtBearer(assertion), principal, api)
            .await
    }

    /// Redeems a refresh token for a token of `api`, which need not be the API it was got for.
    ///
    /// Never repeats by itself what the provider may have seen, since that may have replaced the
    /// refresh token: [`TokenFailure::presented`] says what the caller may do. The one exception is
    /// a refused certificate, after which the next credential is tried.
    ///
    /// Source: RFC 6749 6; MSAL `AcquireTokenInLongRunningProcess`.
    pub async fn refresh(
        &self,
        principal: &Principal,
        refresh_token: &RefreshToken,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, TokenFailure> {
        self.request(Grant::RefreshToken(refresh_token), principal, api)
            .await
    }

    async fn request(
        &self,
        grant: Grant<'_>,
        principal: &Principal,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, TokenFailure> {
        let correlation_id = Uuid::new_v4().to_string();
        let deadline = Instant::now() + HTTP_TIMEOUT;
        let result = match (Scopes::new(&api.scopes), self.credentials.first()) {
            (Err(error), _) => Err(Failed::locally(error.to_string())),
            (Ok(_), None) => Err(Failed::locally("no client credential is configured".into())),
            (Ok(scopes), Some(credential)) => {
                let scope = scopes.parameter();
                let correlation_id = correlation_id.clone();
                let request = Request {
                    grant,
                    principal,
                    api,
                    scope,
                    correlation_id,
                    deadline,
                };
                self.attempt_twice(&request, credential).await
            }
        };
        result.map_err(|failed| {
            let failure = failed.into_failure(correlation_id);
            log(&failure);
            failure
        })
    }

    async fn attempt_twice(
        &self,
        request: &Request<'_>,
        credential: &ClientCredential,
    ) -> Result<TokenResponse, Failed> {
        let failed = match self.attempt(request, credential).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let credential = if let Some(next) = self.next_credential(&failed) {
            tracing::warn!(reason = %failed.description, "trying the next client credential");
            next
        } else if request.grant.when_failed() == FailedGrant::JwtBearer && failed.is_brief() {
            tokio::time::sleep(QUICK_RETRY_PAUSE).await;
            credential
        } else {
            return Err(failed);
        };
        if request.time_left() < MIN_SECOND_ATTEMPT {
            return Err(failed);
        }
        self.attempt(request, credential).await
    }

    /// What may do better after a refused certificate: the second credential, or the same one read
    /// and signed anew if the assertion was out of its window.
    fn next_credential(&self, failed: &Failed) -> Option<&ClientCredential> {
        let error = failed
            .error()
            .filter(|error| error.is_about_certificate())?;
        let again = self
            .credentials
            .first()
            .filter(|_| error.is_about_assertion_window());
        self.credentials.get(1).or(again)
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        credential: &ClientCredential,
    ) -> Result<TokenResponse, Failed> {
        let endpoint = self.authority.token_endpoint(&request.principal.tenant);
        let requested_at = self.clock.now();
        let proof = client_credential::prove(
            credential,
            &self.client_id,
            self.authentication,
            &endpoint,
            requested_at,
        )
        .await
        .map_err(|error| Failed::locally(error.to_string()))?;

        let mut post = self
            .http
            .post(endpoint)
            .headers(headers(request))
            .timeout(request.time_left())
            .body(self.form(request, &proof));
        if let Some((user, password)) = proof.basic(&self.client_id) {
            post = post.basic_auth(user, Some(password));
        }
        match post.send().await {
            Ok(response) => read(response, request, &proof, requested_at).await,
            Err(error) => Err(Failed::of(request.grant, unsent(&error), chain(&error))),
        }
    }

    /// The form; empty values are left out, and what is configured as extra never replaces what the
    /// protocol says.
    fn form(&self, request: &Request<'_>, proof: &Proof) -> String {
        let mut parameters: BTreeMap<&str, &str> = BTreeMap::new();
        let extra = self
            .extra_parameters
            .iter()
            .chain(&request.api.extra_token_parameters);
        parameters.extend(extra.map(|(name, value)| (name.as_str(), value.as_str())));
        parameters.extend(request.grant.parameters());
        parameters.extend(proof.parameters());
        parameters.insert("scope", &request.scope);
        parameters.insert("client_info", "1");
        if proof.basic(&self.client_id).is_none() {
            parameters.insert("client_id", &self.client_id);
        }
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(
                parameters
                    .into_iter()
                    .filter(|(_, value)| !value.trim().is_empty()),
            )
            .finish()
    }
}

impl Request<'_> {
    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Failed {
    fn of(grant: Grant<'_>, outcome: Outcome, description: String) -> Self {
        let verdict = decide(grant.when_failed(), &outcome);
        Self {
            outcome,
            verdict,
            description,
        }
    }

    fn locally(description: String) -> Self {
        Self {
            outcome: Outcome::NotSent,
            verdict: OPERATOR,
            description,
        }
    }

    fn error(&self) -> Option<&OAuthError> {
        match &self.outcome {
            Outcome::Answer { error, .. } => error.as_ref(),
            Outcome::NotSent | Outcome::NoAnswer => None,
        }
    }

    /// No connection, or a server's fault without `Retry-After`: often over in a moment.
    fn is_brief(&self) -> bool {
        match self.outcome {
            Outcome::NotSent => self.verdict != OPERATOR,
            Outcome::Answer {
                status,
                retry_after,
                ..
            } => (500..=599).contains(&status) && retry_after.is_none(),
            Outcome::NoAnswer => false,
        }
    }

    fn into_failure(self, correlation_id: String) -> TokenFailure {
        let word = |text: &String| -> String {
            redact(text, &[])
                .chars()
                .take(MAX_WORD_CHARACTERS)
                .collect()
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
                .or(Some(correlation_id)),
            description: self.description,
        }
    }
}

fn headers(request: &Request<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form);
    headers.insert("return-client-request-id", HeaderValue::from_static("true"));
    headers.insert("x-client-sku", HeaderValue::from_static("errand"));
    headers.insert(
        "x-client-ver",
        HeaderValue::from_static(env!("CARGO_PKG_VERSION")),
    );
    // Routes the request to where the user's data are, also while Entra runs on its backup.
    let Principal { tenant, subject } = request.principal;
    let mailbox = format!("oid:{subject}@{tenant}");
    for (name, text) in [
        ("client-request-id", &request.correlation_id),
        ("x-anchormailbox", &mailbox),
    ] {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    headers
}

async fn read(
    response: reqwest::Response,
    request: &Request<'_>,
    proof: &Proof,
    requested_at: Timestamp,
) -> Result<TokenResponse, Failed> {
    let status = response.status();
    let retry_after = retry_after(response.headers(), requested_at);
    let answer = |error| Outcome::Answer {
        status: status.as_u16(),
        retry_after,
        error,
    };
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
        return Err(failed(answer(Some(error)), description));
    }
    if !status.is_success() {
        return Err(failed(
            answer(None),
            format!("status {status} without an OAuth error"),
        ));
    }
    TokenResponse::parse(&body, request.principal, &request.scope, requested_at).map_err(|error| {
        let failed = failed(answer(None), error.to_string());
        match error {
            ResponseError::AnotherUser => {
                let verdict = ANOTHER_USER.for_grant(request.grant.when_failed());
                Failed { verdict, ..failed }
            }
            ResponseError::Malformed | ResponseError::TokenType | ResponseError::Lifetime => failed,
        }
    })
}

/// Seconds or a date (RFC 9110 10.2.3), between one second and one hour.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let length = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            date.duration_since(SystemTime::from(now.as_datetime()))
                .unwrap_or_default()
        }
    };
    Some(length.clamp(Duration::from_secs(1), MAX_RETRY_AFTER))
}

fn unsent(error: &reqwest::Error) -> Outcome {
    if error.is_connect() || error.is_builder() {
        Outcome::NotSent
    } else {
        Outcome::NoAnswer
    }
}

/// An error with its causes: the outermost alone says only that something was sent in vain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    redact(&text, &[])
}

fn log(failure: &TokenFailure) {
    tracing::warn!(
        oauth.error = failure.error,
        oauth.suberror = failure.suberror,
        oauth.codes = ?failure.codes,
        oauth.correlation_id = failure.correlation_id,
        decision = ?failure.decision,
        presented = ?failure.presented,
        "no token from the identity provider: {}",
        failure.description
    );
}

#[cfg(test)]
mod tests;
