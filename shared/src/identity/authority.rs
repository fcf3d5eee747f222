//! The addresses of Entra, which follow from cloud and tenant.

use url::Url;

/// The two generations of Entra's tokens and metadata; `ver` in a token says which it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// Where a cloud's identity provider answers. A tenant is the first segment below it.
#[derive(Debug, Clone)]
pub(super) struct Authority {
    instance: Url,
}

impl Authority {
    pub(super) fn new(instance: Url) -> Self {
        Self { instance }
    }

    /// Where the metadata of `version` is published (OpenID Connect Discovery 1.0, 4).
    pub(super) fn metadata(&self, tenant: &str, version: Version) -> Url {
        match version {
            Version::V1 => self.below(tenant, ".well-known/openid-configuration"),
            Version::V2 => self.below(tenant, "v2.0/.well-known/openid-configuration"),
        }
    }

    /// Who signs second-generation tokens of `tenant`.
    pub(super) fn v2_issuer(&self, tenant: &str) -> String {
        self.below(tenant, "v2.0").into()
    }

    pub(super) fn token_endpoint(&self, tenant: &str) -> Url {
        self.below(tenant, "oauth2/v2.0/token")
    }

    pub(super) fn authorization_endpoint(&self, tenant: &str) -> Url {
        self.below(tenant, "oauth2/v2.0/authorize")
    }

    fn below(&self, tenant: &str, path: &str) -> Url {
        let mut url = self.instance.clone();
        url.set_path(&format!("{}/{tenant}/{path}", self.instance.path().trim_end_matches('/')));
        url
    }
}
