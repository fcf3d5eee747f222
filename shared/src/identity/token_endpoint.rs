//! How a token is got: one request to the provider's token endpoint, rarely two.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{self, Instant};
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    authority::{Authority, Version},
    client_credential::{ClientCredential, Proof},
    failure::{FailedGrant, TokenFailure},
    grant::Grant,
    principal::Principal,
    scopes::Scopes,
    secret::{RefreshToken, UserAssertion},
    token_request::{Failed, Request, chain, headers, read, unsent},
    token_response::TokenResponse,
};
use crate::{
    config::{DownstreamApi, IdentityConfig},
    http,
    time::SharedClock,
};

/// The longest that [`TokenEndpoint::exchange`] and [`TokenEndpoint::refresh`] take, a second
/// attempt included. A submitting caller waits for it; the lease of a refresh has to outlast it.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(8);

/// Before the one quick repetition of a failed exchange.
const QUICK_RETRY_PAUSE: Duration = Duration::from_millis(300);
/// With less left of [`HTTP_TIMEOUT`] there is no second attempt: it would only blur the first answer.
const MIN_SECOND_ATTEMPT: Duration = Duration::from_secs(2);
/// What a proof has to leave for the request itself: one that is cut off may have been processed.
const MIN_REQUEST: Duration = Duration::from_secs(1);

/// The provider's token endpoint, asked in Errand's name.
#[derive(Debug)]
pub struct TokenEndpoint {
    http: reqwest::Client,
    authority: Authority,
    client_id: String,
    credentials: Vec<ClientCredential>,
    extra_parameters: BTreeMap<String, String>,
    clock: SharedClock,
}

impl TokenEndpoint {
    /// Makes no request and reads no file yet.
    pub fn new(config: &IdentityConfig, clock: SharedClock) -> Self {
        Self {
            http: http::client(HTTP_TIMEOUT),
            authority: Authority::of(config),
            client_id: config.client_id.clone(),
            credentials: ClientCredential::all(config, &clock),
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
        self.request(Grant::JwtBearer(assertion), principal, api).await
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
        self.request(Grant::RefreshToken(refresh_token), principal, api).await
    }

    /// Whether the provider answers at all, asked without showing it any token.
    pub async fn answers(&self, principal: &Principal) -> bool {
        let metadata = self.authority.metadata(&principal.tenant, Version::V2);
        let answer = self.http.get(metadata).send().await;
        answer.is_ok_and(|response| response.status().is_success())
    }

    async fn request(
        &self,
        grant: Grant<'_>,
        principal: &Principal,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, TokenFailure> {
        let correlation_id = Uuid::new_v4().to_string();
        let deadline = Instant::now() + HTTP_TIMEOUT;
        let result = match Scopes::new(&api.scopes) {
            Err(error) => Err(Failed::locally(error.to_string())),
            Ok(scopes) => {
                let scope = scopes.parameter();
                let correlation_id = correlation_id.clone();
                let request = Request { grant, principal, api, scope, correlation_id, deadline };
                self.attempt_twice(&request).await
            }
        };
        result.map_err(|failed| {
            let failure = failed.into_failure(correlation_id);
            log(&failure);
            failure
        })
    }

    async fn attempt_twice(&self, request: &Request<'_>) -> Result<TokenResponse, Failed> {
        let (used, proof) = self.prove(request, 0).await.map_err(Failed::locally)?;
        let failed = match self.attempt(request, &proof).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let next = if let Some(next) = self.next_credential(used, &failed) {
            tracing::warn!(reason = %failed.description, "trying the next client credential");
            next
        } else if request.grant.when_failed() == FailedGrant::JwtBearer && failed.is_brief() {
            time::sleep(QUICK_RETRY_PAUSE).await;
            used
        } else {
            return Err(failed);
        };
        if request.time_left() < MIN_SECOND_ATTEMPT {
            return Err(failed);
        }
        match self.prove(request, next).await {
            Ok((_, proof)) => self.attempt(request, &proof).await,
            // What the provider said decides, and not that there was nothing else to show it.
            Err(problem) => {
                tracing::warn!("{problem}");
                Err(failed)
            }
        }
    }

    /// What may do better after a refused certificate: the credential after `used`, or the same one
    /// read and signed anew if the assertion was out of its window.
    fn next_credential(&self, used: usize, failed: &Failed) -> Option<usize> {
        let error = failed.error().filter(|error| error.is_about_certificate())?;
        if used + 1 < self.credentials.len() {
            return Some(used + 1);
        }
        error.is_about_assertion_window().then_some(used)
    }

    /// The proof of the first credential from number `start` on that can give one, and its number;
    /// otherwise what is wrong with the last.
    async fn prove(&self, request: &Request<'_>, start: usize) -> Result<(usize, Proof), String> {
        let endpoint = self.authority.token_endpoint(&request.principal.tenant);
        let deadline = request.deadline - MIN_REQUEST;
        let mut problem = "no client credential is configured".to_owned();
        for (number, credential) in self.credentials.iter().enumerate().skip(start) {
            let proof = credential.prove(&self.client_id, &endpoint, &self.clock);
            problem = match time::timeout_at(deadline, proof).await {
                Ok(Ok(proof)) => return Ok((number, proof)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => return Err("client credential: no proof in time".to_owned()),
            };
            if number + 1 < self.credentials.len() {
                tracing::warn!("{problem}; trying the next client credential");
            }
        }
        Err(problem)
    }

    async fn attempt(&self, request: &Request<'_>, proof: &Proof) -> Result<TokenResponse, Failed> {
        let endpoint = self.authority.token_endpoint(&request.principal.tenant);
        let requested_at = self.clock.now();
        let mut post = self
            .http
            .post(endpoint)
            .headers(headers(request))
            .timeout(request.time_left())
            .body(self.form(request, proof));
        if let Some((user, password)) = proof.basic(&self.client_id) {
            post = post.basic_auth(user, Some(password));
        }
        match post.send().await {
            Ok(response) => read(response, request, proof, requested_at).await,
            Err(error) => Err(Failed::of(request.grant, unsent(&error), chain(&error))),
        }
    }

    /// The form; empty values are left out, and what is configured as extra never replaces what the
    /// protocol says.
    fn form(&self, request: &Request<'_>, proof: &Proof) -> String {
        let mut parameters: BTreeMap<&str, &str> = BTreeMap::new();
        let extra = self.extra_parameters.iter().chain(&request.api.extra_token_parameters);
        parameters.extend(extra.map(|(name, value)| (name.as_str(), value.as_str())));
        parameters.extend(request.grant.parameters());
        parameters.extend(proof.parameters());
        parameters.insert("scope", &request.scope);
        parameters.insert("client_info", "1");
        if proof.basic(&self.client_id).is_none() {
            parameters.insert("client_id", &self.client_id);
        }
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters.into_iter().filter(|(_, value)| !value.trim().is_empty()))
            .finish()
    }
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
