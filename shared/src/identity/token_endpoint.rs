//! How a token is got: one request to the provider's token endpoint, rarely two.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use url::form_urlencoded;
use uuid::Uuid;

use super::{
    authority::{Authority, Version},
    client_credential::{self, Proof},
    failure::{FailedGrant, TokenFailure},
    grant::Grant,
    principal::Principal,
    scopes::Scopes,
    secret::{RefreshToken, UserAssertion},
    token_request::{Failed, Request, chain, headers, read, unsent},
    token_response::TokenResponse,
};
use crate::{
    config::{ClientAuthentication, ClientCredential, DownstreamApi, IdentityConfig},
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
    authority: Authority,
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
        let result = match (Scopes::new(&api.scopes), self.credentials.first()) {
            (Err(error), _) => Err(Failed::locally(error.to_string())),
            (Ok(_), None) => Err(Failed::locally("no client credential is configured".into())),
            (Ok(scopes), Some(credential)) => {
                let scope = scopes.parameter();
                let correlation_id = correlation_id.clone();
                let request = Request { grant, principal, api, scope, correlation_id, deadline };
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
        let error = failed.error().filter(|error| error.is_about_certificate())?;
        let again = self.credentials.first().filter(|_| error.is_about_assertion_window());
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
