//! How a token is got: one request to the provider's token endpoint, rarely two.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::{
    client_credential::{self, Proof},
    endpoints::{DiscoveryError, Endpoints},
    failure::{Outcome, TokenFailure},
    grant::Grant,
    principal::Principal,
    secret::{RefreshToken, UserAssertion},
    token_request::{Failed, Request, chain, headers, read, read_revocation, unsent},
    token_response::TokenResponse,
};
use crate::{
    config::{ClientAuthentication, ClientCredential, Dialect, DownstreamApi, IdentityConfig},
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

/// The provider's token endpoint, asked in Errand's name.
#[derive(Debug)]
pub struct TokenEndpoint {
    http: reqwest::Client,
    endpoints: Endpoints,
    dialect: Dialect,
    client_id: String,
    authentication: ClientAuthentication,
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
            authentication: config.client_authentication,
            credentials: config.client_credentials.clone(),
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
        self.request(grant, principal, api).await
    }

    /// Redeems a refresh token for a token of `api`. At Entra that need not be the API it was got
    /// for, elsewhere it has to be.
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
        let grant = match &self.dialect {
            Dialect::Entra { .. } => Grant::RefreshToken(refresh_token),
            Dialect::TokenExchange { .. } => Grant::BoundRefreshToken(refresh_token),
        };
        self.request(grant, principal, api).await
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
        let request = Request {
            grant,
            principal,
            scope: None,
            correlation_id: Uuid::new_v4().to_string(),
            deadline: Instant::now() + HTTP_TIMEOUT,
        };
        self.attempt_revocation(&request, refresh_token)
            .await
            .map_err(|failed| failed.reported(&request))
    }

    /// Whether the provider answers at all, asked without showing it any token.
    pub async fn answers(&self, principal: &Principal) -> bool {
        let answer = self.http.get(self.endpoints.metadata(principal)).send().await;
        answer.is_ok_and(|response| response.status().is_success())
    }

    async fn request(
        &self,
        grant: Grant<'_>,
        principal: &Principal,
        api: &DownstreamApi,
    ) -> Result<TokenResponse, TokenFailure> {
        let request = Request {
            grant,
            principal,
            scope: None,
            correlation_id: Uuid::new_v4().to_string(),
            deadline: Instant::now() + HTTP_TIMEOUT,
        };
        let result = match (grant.scope(&api.scopes), self.credentials.first()) {
            (Err(error), _) => Err(Failed::locally(error.to_string())),
            (Ok(_), None) => Err(no_credential()),
            (Ok(scope), Some(credential)) => {
                let request = Request { scope, ..request.clone() };
                self.attempt_twice(&request, api, credential).await
            }
        };
        result.map_err(|failed| failed.reported(&request))
    }

    async fn attempt_twice(
        &self,
        request: &Request<'_>,
        api: &DownstreamApi,
        credential: &ClientCredential,
    ) -> Result<TokenResponse, Failed> {
        let failed = match self.attempt(request, api, credential).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let credential = if let Some(next) = self.next_credential(&failed) {
            tracing::warn!(reason = %failed.description, "trying the next client credential");
            next
        } else if request.grant.kind().is_exchange() && failed.is_brief() {
            tokio::time::sleep(QUICK_RETRY_PAUSE).await;
            credential
        } else {
            return Err(failed);
        };
        if request.time_left() < MIN_SECOND_ATTEMPT {
            return Err(failed);
        }
        self.attempt(request, api, credential).await
    }

    /// What may do better after a refused certificate: the second credential, or the same one read
    /// and signed anew if the assertion was out of its window.
    fn next_credential(&self, failed: &Failed) -> Option<&ClientCredential> {
        let error = failed.error().filter(|error| error.is_about_certificate())?;
        let again = self.credentials.first().filter(|_| error.is_about_assertion_window());
        self.credentials.get(1).or(again)
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        api: &DownstreamApi,
        credential: &ClientCredential,
    ) -> Result<TokenResponse, Failed> {
        let endpoint = self.endpoints.token(request.principal).await;
        let endpoint = endpoint.map_err(|error| undiscovered(request.grant, &error))?;
        let requested_at = self.clock.now();
        let proof = self.prove(credential, &endpoint).await?;
        let mut parameters: BTreeMap<&str, &str> = BTreeMap::new();
        let extra = self.extra_parameters.iter().chain(&api.extra_token_parameters);
        parameters.extend(extra.map(|(name, value)| (name.as_str(), value.as_str())));
        parameters.extend(request.grant.parameters());
        parameters.extend(request.scope.as_deref().map(|scope| ("scope", scope)));
        let response = self.post(endpoint, request, &proof, parameters).await?;
        read(response, request, &proof, requested_at).await
    }

    async fn attempt_revocation(
        &self,
        request: &Request<'_>,
        refresh_token: &RefreshToken,
    ) -> Result<bool, Failed> {
        let endpoint = self.endpoints.revocation().await;
        let endpoint = endpoint.map_err(|error| undiscovered(request.grant, &error))?;
        let Some(endpoint) = endpoint else { return Ok(false) };
        let credential = self.credentials.first().ok_or_else(no_credential)?;
        let proof = self.prove(credential, &endpoint).await?;
        let token = refresh_token.expose();
        let parameters = BTreeMap::from([("token", token), ("token_type_hint", "refresh_token")]);
        let response = self.post(endpoint, request, &proof, parameters).await?;
        read_revocation(response, request, &proof, self.clock.now()).await.map(|()| true)
    }

    async fn prove(&self, credential: &ClientCredential, endpoint: &Url) -> Result<Proof, Failed> {
        client_credential::prove(
            credential,
            &self.client_id,
            self.authentication,
            endpoint,
            self.clock.now(),
        )
        .await
        .map_err(|error| Failed::locally(error.to_string()))
    }

    /// Sends a form; empty values are left out, and what is configured as extra never replaces what
    /// the protocol says.
    async fn post(
        &self,
        endpoint: Url,
        request: &Request<'_>,
        proof: &Proof,
        mut parameters: BTreeMap<&str, &str>,
    ) -> Result<reqwest::Response, Failed> {
        parameters.extend(proof.parameters());
        let basic = proof.basic(&self.client_id);
        if basic.is_none() {
            parameters.insert("client_id", &self.client_id);
        }
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters.into_iter().filter(|(_, value)| !value.trim().is_empty()))
            .finish();
        let mut post = self
            .http
            .post(endpoint)
            .headers(headers(request))
            .timeout(request.time_left())
            .body(form);
        if let Some((user, password)) = basic {
            post = post.basic_auth(user, Some(password));
        }
        let sent = post.send().await;
        sent.map_err(|error| Failed::of(request.grant, unsent(&error), chain(&error)))
    }
}

fn no_credential() -> Failed {
    Failed::locally("no client credential is configured".to_owned())
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
        let failure = self.into_failure(request.correlation_id.clone());
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

#[cfg(test)]
mod tests;
