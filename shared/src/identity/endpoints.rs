//! Where the provider is asked: at Entra by rule, elsewhere as its discovery document says.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::{
    authority::{Authority, Version},
    bounded_body::{self, BodyError},
    principal::Principal,
};
use crate::{
    config::Dialect,
    http,
    time::{SharedClock, Timestamp},
};

/// A discovery document is read anew after this; it changes when the provider is moved.
const MAX_AGE: Duration = Duration::from_hours(12);
const HTTP_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BYTES: usize = 64 * 1024;

/// The provider's endpoints.
#[derive(Debug)]
pub(super) enum Endpoints {
    Entra(Authority),
    OpenId(Discovery),
}

/// A discovery document that is fetched when it is first needed.
#[derive(Debug)]
pub(super) struct Discovery {
    metadata_url: Url,
    http: reqwest::Client,
    clock: SharedClock,
    /// Held while fetching: whoever waits for it finds what the one before found.
    fetched: Mutex<Option<(Arc<Metadata>, Timestamp)>>,
}

/// What of the document is used (OpenID Connect Discovery 1.0, 3; RFC 8414 2).
#[derive(Debug, Deserialize)]
struct Metadata {
    token_endpoint: Url,
    revocation_endpoint: Option<Url>,
}

/// The provider's endpoints are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    /// Try again later.
    #[error("the discovery document cannot be fetched")]
    Unreachable(#[source] reqwest::Error),
    /// Try again later.
    #[error("the discovery document was answered with status {0}")]
    Status(u16),
    /// Try again later.
    #[error("the discovery document cannot be read")]
    Body(#[from] BodyError),
    /// The operator's.
    #[error("the discovery document at {0} cannot be understood")]
    Malformed(Url, #[source] serde_json::Error),
    /// The operator's: whoever can change the document could have tokens sent elsewhere.
    #[error("the discovery document names an endpoint at another origin: {0}")]
    Foreign(Url),
}

impl Endpoints {
    pub(super) fn of(dialect: &Dialect, clock: SharedClock) -> Self {
        match dialect {
            Dialect::Entra { instance, .. } => Self::Entra(Authority::new(instance.clone())),
            Dialect::TokenExchange { authority, .. } => Self::OpenId(Discovery {
                metadata_url: metadata_below(authority),
                http: http::client(HTTP_TIMEOUT),
                clock,
                fetched: Mutex::default(),
            }),
        }
    }

    pub(super) async fn token(&self, principal: &Principal) -> Result<Url, DiscoveryError> {
        match self {
            Self::Entra(authority) => Ok(authority.token_endpoint(&principal.tenant)),
            Self::OpenId(discovery) => Ok(discovery.metadata().await?.token_endpoint.clone()),
        }
    }

    /// Where refresh tokens are revoked (RFC 7009), if anywhere: Entra has no such endpoint.
    pub(super) async fn revocation(&self) -> Result<Option<Url>, DiscoveryError> {
        match self {
            Self::Entra(_) => Ok(None),
            Self::OpenId(discovery) => Ok(discovery.metadata().await?.revocation_endpoint.clone()),
        }
    }

    /// A document that anybody may ask for.
    pub(super) fn metadata(&self, principal: &Principal) -> Url {
        match self {
            Self::Entra(authority) => authority.metadata(&principal.tenant, Version::V2),
            Self::OpenId(discovery) => discovery.metadata_url.clone(),
        }
    }
}

impl Discovery {
    async fn metadata(&self) -> Result<Arc<Metadata>, DiscoveryError> {
        let mut fetched = self.fetched.lock().await;
        let now = self.clock.now();
        if let Some((metadata, at)) = &*fetched
            && now.since(*at) < MAX_AGE
        {
            return Ok(Arc::clone(metadata));
        }
        match (self.fetch().await, &*fetched) {
            (Ok(metadata), _) => {
                let metadata = Arc::new(metadata);
                *fetched = Some((Arc::clone(&metadata), now));
                Ok(metadata)
            }
            // Addresses seldom change: the ones from before are the best guess.
            (Err(_), Some((metadata, _))) => Ok(Arc::clone(metadata)),
            (Err(error), None) => Err(error),
        }
    }

    async fn fetch(&self) -> Result<Metadata, DiscoveryError> {
        let request = self.http.get(self.metadata_url.clone());
        let response = request.send().await.map_err(DiscoveryError::Unreachable)?;
        if response.status().as_u16() != 200 {
            return Err(DiscoveryError::Status(response.status().as_u16()));
        }
        let body = bounded_body::read(response, MAX_BYTES).await?;
        let metadata: Metadata = serde_json::from_slice(&body)
            .map_err(|error| DiscoveryError::Malformed(self.metadata_url.clone(), error))?;
        let endpoints = [Some(&metadata.token_endpoint), metadata.revocation_endpoint.as_ref()];
        for endpoint in endpoints.into_iter().flatten() {
            if endpoint.origin() != self.metadata_url.origin() {
                return Err(DiscoveryError::Foreign(endpoint.clone()));
            }
        }
        Ok(metadata)
    }
}

impl DiscoveryError {
    /// Whether only the operator can mend it.
    pub(super) fn is_operators(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Body(_) => false,
            Self::Status(status) => *status == 404,
            Self::Malformed(..) | Self::Foreign(_) => true,
        }
    }
}

/// The discovery document of an issuer (OpenID Connect Discovery 1.0, 4).
pub(super) fn metadata_below(authority: &Url) -> Url {
    let mut url = authority.clone();
    let path = authority.path().trim_end_matches('/');
    url.set_path(&format!("{path}/.well-known/openid-configuration"));
    url
}
