use serde_json::{Value, json};

use super::Realm;
use crate::{apis::Api, registration::random_text, user::User};

impl Realm {
    /// A fresh token of `user` for Errand.
    pub(crate) fn user_token(&self, user: &str) -> String {
        self.sign(&self.user_claims(user))
    }

    /// The claims of the token with which a user calls Errand.
    pub(crate) fn user_claims(&self, user: &str) -> Value {
        let lifetime = self.tenant.settings().user_token_lifetime;
        let user = User::named(user, "");
        let audience = &self.tenant.registration.client_id;
        let mut claims = self.claims(&user, audience, "Jobs.ReadWrite", lifetime);
        claims["azp"] = "frontend".into();
        claims
    }

    /// An access token for `api` with which the client acts for `user`.
    pub(crate) fn access_token(&self, user: &User, api: &Api) -> String {
        let lifetime = self.tenant.settings().access_token_lifetime;
        let mut claims = self.claims(user, api.identifier_uri, api.permission, lifetime);
        claims["azp"] = self.tenant.registration.client_id.as_str().into();
        self.sign(&claims)
    }

    /// RFC 9068, section 2.2; `sub` is the same for every client.
    fn claims(&self, user: &User, audience: &str, scope: &str, lifetime: i64) -> Value {
        let now = self.tenant.clock.now();
        json!({
            "iss": self.issuer(),
            "aud": audience,
            "sub": user.oid,
            "iat": now,
            "exp": now.saturating_add(lifetime),
            "jti": random_text::<16>(),
            "scope": scope,
            "name": user.name,
            "preferred_username": user.preferred_username,
        })
    }

    fn sign(&self, claims: &Value) -> String {
        let keys = self.tenant.keys();
        let mut header = keys.current().header();
        header["typ"] = "at+jwt".into();
        keys.current().sign(&header, claims)
    }
}
