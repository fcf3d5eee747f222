//! How a token is got: one request to the provider's token endpoint, rarely two.

use std::{collections::BTreeMap, time::Duration};

use tokio::time;
use url::{Url, form_urlencoded};

use super::{
    client_credential::{ClientCredential, Proof},
    endpoints::{DiscoveryError, Endpoints},
    failure::{Outcome, TokenFailure},
    grant::Grant,
    principal::Principal,
    requested_claims::{self, RequestedClaims},
    secret::{RefreshToken, UserAssertion},
    token_request::{Failed, Request, chain, headers, read, read_revocation, unsent},
    token_response::TokenResponse,
};
use crate::{
    config::{Dialect, DownstreamApi, IdentityConfig},
    http, metrics,
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
    endpoints: Endpoints,
    dialect: Dialect,
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
            endpoints: Endpoints::of(&config.dialect, clock.clone()),
            dialect: config.dialect.clone(),
            client_id: config.client_id.clone(),
            credentials: ClientCredential::all(config, &clock),
            extra_parameters: config.extra_token_parameters.clone(),
            clock,
        }
    }

    /// Exchanges the caller's token for one of `api`, at Entra in the caller's tenant.
    ///
    /// Repeats once when there was no connection or a server's fault without `Retry-After`.
    ///
    /// Source: RFC 7523 2.1; Entra "OAuth 2.0 On-Behalf-Of flow"; MSAL `InitiateLongRunningProcess`;
    /// RFC 8693 2.
    pub async fn exchange(
        &self,
        principal: &Principal,
        assertion: &UserAssertion,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, TokenFailure> {
        let grant = match &self.dialect {
            Dialect::Entra { .. } => Grant::JwtBearer(assertion),
            Dialect::TokenExchange { subject_token_type, refresh, .. } => Grant::TokenExchange {
                subject_token: assertion,
                subject_token_type,
                refresh: *refresh,
            },
        };
        self.request(Request::new(grant, principal), api).await
    }

    /// Redeems a refresh token for a token of `api`. At Entra that need not be the API it was got
    /// for, elsewhere it has to be. `claims` are what that API demands of it; Entra's dialect only.
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
        claims: Option<&RequestedClaims>,
    ) -> Result<TokenResponse, TokenFailure> {
        let grant = match &self.dialect {
            Dialect::Entra { .. } => Grant::RefreshToken(refresh_token),
            Dialect::TokenExchange { .. } => Grant::BoundRefreshToken(refresh_token),
        };
        self.request(Request { claims, ..Request::new(grant, principal) }, api).await
    }

    /// Tells the provider that a refresh token will not be used again. False if it cannot be told.
    ///
    /// # Errors
    /// The provider may still accept the token. Trying again is safe, and not worth holding
    /// anything up for.
    ///
    /// Source: RFC 7009 2.
    pub async fn revoke(
        &self,
        principal: &Principal,
        refresh_token: &RefreshToken,
    ) -> Result<bool, TokenFailure> {
        let grant = match &self.dialect {
            // It has no such endpoint.
            Dialect::Entra { .. } => return Ok(false),
            Dialect::TokenExchange { .. } => Grant::BoundRefreshToken(refresh_token),
        };
        let request = Request::new(grant, principal);
        self.revoke_as(&request, refresh_token).await.map_err(|failed| failed.reported(&request))
    }

    /// Whether the provider answers at all, asked without showing it any token.
    pub async fn answers(&self, principal: &Principal) -> bool {
        let answer = self.http.get(self.endpoints.metadata(principal)).send().await;
        answer.is_ok_and(|response| response.status().is_success())
    }

    async fn request(
        &self,
        request: Request<'_>,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, TokenFailure> {
        let answer = self.request_as(&request, api).await;
        let answer = answer.map_err(|failed| failed.reported(&request));
        let failed = answer.as_ref().err().map(|failure| &failure.decision);
        metrics::token_request(request.grant.kind().is_exchange(), failed);
        answer
    }

    async fn request_as(
        &self,
        request: &Request<'_>,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, Failed> {
        let scope = request.grant.scope(&api.scopes);
        let scope = scope.map_err(|error| Failed::locally(error.to_string()))?;
        let endpoint = self.endpoints.token(request.principal).await;
        let endpoint = endpoint.map_err(|error| undiscovered(request.grant, &error))?;
        let is_entra = request.grant.kind().is_entra();
        let claims = is_entra.then(|| requested_claims::parameter(request.claims));
        let mut parameters: BTreeMap<&str, &str> = BTreeMap::new();
        // What is configured as extra never replaces what the protocol says.
        let extra = self.extra_parameters.iter().chain(&api.extra_token_parameters);
        parameters.extend(extra.map(|(name, value)| (name.as_str(), value.as_str())));
        parameters.extend(request.grant.parameters());
        parameters.extend(claims.as_deref().map(|claims| ("claims", claims)));
        parameters.extend(scope.as_deref().map(|scope| ("scope", scope)));
        let scope = scope.as_deref().unwrap_or_default();
        self.attempt_twice(request, &Form { endpoint, parameters, scope }).await
    }

    async fn attempt_twice(
        &self,
        request: &Request<'_>,
        form: &Form<'_>,
    ) -> Result<TokenResponse, Failed> {
        let (used, proof) =
            self.prove(request, &form.endpoint, 0).await.map_err(Failed::locally)?;
        let failed = match self.attempt(request, form, &proof).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let next = if let Some(next) = self.next_credential(used, &failed) {
            tracing::warn!(reason = %failed.description, "trying the next client credential");
            next
        } else if request.grant.kind().is_exchange() && failed.is_brief() {
            time::sleep(QUICK_RETRY_PAUSE).await;
            used
        } else {
            return Err(failed);
        };
        if request.time_left() < MIN_SECOND_ATTEMPT {
            return Err(failed);
        }
        match self.prove(request, &form.endpoint, next).await {
            Ok((_, proof)) => self.attempt(request, form, &proof).await,
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
    async fn prove(
        &self,
        request: &Request<'_>,
        endpoint: &Url,
        start: usize,
    ) -> Result<(usize, Proof), String> {
        let deadline = request.deadline - MIN_REQUEST;
        let mut problem = "no client credential is configured".to_owned();
        for (number, credential) in self.credentials.iter().enumerate().skip(start) {
            let proof = credential.prove(&self.client_id, endpoint, &self.clock);
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

    async fn attempt(
        &self,
        request: &Request<'_>,
        form: &Form<'_>,
        proof: &Proof,
    ) -> Result<TokenResponse, Failed> {
        let requested_at = self.clock.now();
        let response = self.post(request, form, proof).await?;
        read(response, request, form.scope, proof, requested_at).await
    }

    async fn revoke_as(
        &self,
        request: &Request<'_>,
        refresh_token: &RefreshToken,
    ) -> Result<bool, Failed> {
        let endpoint = self.endpoints.revocation().await;
        let endpoint = endpoint.map_err(|error| undiscovered(request.grant, &error))?;
        let Some(endpoint) = endpoint else { return Ok(false) };
        let (_, proof) = self.prove(request, &endpoint, 0).await.map_err(Failed::locally)?;
        let token = refresh_token.expose();
        let parameters = BTreeMap::from([("token", token), ("token_type_hint", "refresh_token")]);
        let form = Form { endpoint, parameters, scope: "" };
        let response = self.post(request, &form, &proof).await?;
        read_revocation(response, request, &proof, self.clock.now()).await.map(|()| true)
    }

    /// Sends a form with a proof of who Errand is; empty values are left out.
    async fn post(
        &self,
        request: &Request<'_>,
        form: &Form<'_>,
        proof: &Proof,
    ) -> Result<reqwest::Response, Failed> {
        let mut parameters = form.parameters.clone();
        parameters.extend(proof.parameters());
        let basic = proof.basic(&self.client_id);
        if basic.is_none() {
            parameters.insert("client_id", &self.client_id);
        }
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters.into_iter().filter(|(_, value)| !value.trim().is_empty()))
            .finish();
        let mut post = self
            .http
            .post(form.endpoint.clone())
            .headers(headers(request))
            .timeout(request.time_left())
            .body(body);
        if let Some((user, password)) = basic {
            post = post.basic_auth(user, Some(password));
        }
        let sent = post.send().await;
        sent.map_err(|error| Failed::of(request.grant, unsent(&error), chain(&error)))
    }
}

/// What is sent where, the same in every attempt; the proof is added to it.
struct Form<'a> {
    endpoint: Url,
    parameters: BTreeMap<&'a str, &'a str>,
    /// What is asked for, if it is.
    scope: &'a str,
}

/// Nothing was sent, because it is not known where to.
fn undiscovered(grant: Grant<'_>, error: &DiscoveryError) -> Failed {
    if error.is_operators() {
        Failed::locally(chain(error))
    } else {
        Failed::of(grant, Outcome::NotSent, chain(error))
    }
}

impl Failed {
    /// The failure for the caller, and a line for the operator.
    fn reported(self, request: &Request<'_>) -> TokenFailure {
        let failure = self.into_failure(request);
        log(&failure);
        failure
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

mod credential_check;
#[cfg(test)]
mod tests;
