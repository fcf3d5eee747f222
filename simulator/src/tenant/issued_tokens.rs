use serde::Deserialize;
use serde_json::{Value, json};

use super::Tenant;
use crate::{
    apis::Api,
    registration::random_text,
    user::{User, id_of},
};

/// The user's own client, which got the token for Errand.
const FRONTEND: &str = "frontend";

/// What a user token is asked for with: the query of `token_url`.
#[derive(Debug, Clone, Deserialize)]
pub struct UserTokenRequest {
    /// Any name; each is a user.
    pub user: String,
    /// `aud`, in place of Errand's.
    pub audience: Option<String>,
    /// Seconds from now to `exp`; negative: expired already.
    pub expires_in: Option<i64>,
    /// `scp`, in place of `Jobs.ReadWrite`.
    pub scp: Option<String>,
    /// `tid`, and with it the issuer, in place of the tenant's own.
    pub tenant: Option<String>,
    /// 1: in the form of the v1 endpoint; 2, as without, in that of v2.
    pub version: Option<u8>,
    /// Application roles, with spaces between: `roles`. Without, a user's token has none.
    pub roles: Option<String>,
    /// A token of an application itself, without a user.
    #[serde(default)]
    pub app: bool,
}

impl UserTokenRequest {
    /// A token of `user` for Errand.
    pub fn named(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            audience: None,
            expires_in: None,
            scp: None,
            tenant: None,
            version: None,
            roles: None,
            app: false,
        }
    }
}

impl Tenant {
    /// Claims of the token with which a user calls Errand.
    pub(crate) fn user_token_claims(&self, request: &UserTokenRequest) -> Value {
        let is_v1 = request.version == Some(1);
        let client_id = &self.registration.client_id;
        let default_audience = if is_v1 { format!("api://{client_id}") } else { client_id.clone() };
        let audience = request.audience.as_deref().unwrap_or(&default_audience);
        let tid = request.tenant.as_deref().unwrap_or(&self.registration.tenant_id);
        let user = User::named(&request.user, tid);
        let default_lifetime = self.settings().user_token_lifetime;
        let expires_in = request.expires_in.unwrap_or(default_lifetime);

        let mut claims = self.identity_claims(&user, audience, expires_in);
        claims["azp"] = id_of(FRONTEND).into();
        claims["azpacr"] = "0".into();
        if request.app {
            for name in ["name", "preferred_username"] {
                claims.as_object_mut().expect("claims are an object").remove(name);
            }
            claims["sub"] = claims["oid"].clone();
            claims["idtyp"] = "app".into();
            claims["roles"] = json!(["Jobs.ReadWrite.All"]);
        } else {
            claims["scp"] = request.scp.as_deref().unwrap_or("Jobs.ReadWrite").into();
        }
        if let Some(roles) = &request.roles {
            claims["roles"] = roles.split_whitespace().collect::<Vec<_>>().into();
        }
        if is_v1 { self.in_v1_form(claims, tid) } else { claims }
    }

    /// The claims as a v1 token has them.
    fn in_v1_form(&self, mut claims: Value, tid: &str) -> Value {
        let members = claims.as_object_mut().expect("claims are an object");
        for (name, v1_name) in
            [("azp", "appid"), ("azpacr", "appidacr"), ("preferred_username", "unique_name")]
        {
            if let Some(value) = members.remove(name) {
                members.insert(v1_name.to_owned(), value);
            }
        }
        claims["iss"] = self.issuer_v1(tid).into();
        claims["ver"] = "1.0".into();
        claims
    }

    /// An access token for `api` with which the client acts for `user`.
    pub(crate) fn access_token(
        &self,
        user: &User,
        api: &Api,
        azpacr: &str,
        xms_cc: Option<&Value>,
    ) -> String {
        let lifetime = self.settings().access_token_lifetime;
        let mut claims = self.identity_claims(user, api.identifier_uri, lifetime);
        claims["azp"] = self.registration.client_id.as_str().into();
        claims["azpacr"] = azpacr.into();
        claims["scp"] = api.permission.into();
        if let Some(capabilities) = xms_cc {
            claims["xms_cc"] = capabilities.clone();
        }
        self.sign(&claims)
    }

    pub(crate) fn id_token(&self, user: &User) -> String {
        let lifetime = self.settings().access_token_lifetime;
        self.sign(&self.identity_claims(user, &self.registration.client_id, lifetime))
    }

    /// The claims that every token about a user has.
    fn identity_claims(&self, user: &User, audience: &str, expires_in: i64) -> Value {
        let now = self.clock.now();
        let expires_at = now.saturating_add(expires_in);
        // An expired token was issued before it expired.
        let issued_at = if expires_at > now { now } else { expires_at - 3600 };
        json!({
            "aud": audience,
            "iss": self.issuer_v2(&user.tid),
            "iat": issued_at,
            "nbf": issued_at,
            "exp": expires_at,
            "name": user.name,
            "oid": user.oid,
            "preferred_username": user.preferred_username,
            "sub": user.subject_for(audience),
            "tid": user.tid,
            "uti": random_text::<16>(),
            "ver": "2.0",
        })
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let keys = self.keys();
        keys.current().sign(&keys.current().header(), claims)
    }
}
