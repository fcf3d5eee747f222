use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;

use crate::{
    answer::{HttpAnswer, ScriptedAnswer},
    apis::PARTNER,
    error::StartError,
    options::Options,
    partner::{Partner, PartnerCall},
    realm::{Realm, RealmRequest},
    registration::Registration,
    router::router,
    server::{self, Server},
    tenant::{
        ClientCertificate, EntraError, Hostility, Tenant, TenantLog, TokenRequest, UserTokenRequest,
    },
    user::random_id,
};

/// A running simulator. Dropping it closes its connections at once.
pub struct Simulator {
    description: Description,
    tenant: Arc<Tenant>,
    realm: Arc<Realm>,
    partner: Arc<Partner>,
    server: Server,
}

/// All that a client needs to know of a simulator.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// `http(s)://localhost:PORT/TENANT`.
    pub authority: String,
    /// Errand's client id.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Scope of the partner API.
    pub scope: String,
    /// Base URL of the partner API.
    pub downstream: String,
    /// With `?user=NAME` added, answers a user token for Errand as plain text.
    pub token_url: String,
}

impl Simulator {
    /// Listens on 127.0.0.1 and serves until [`stop`](Self::stop) or drop.
    ///
    /// # Errors
    /// A taken port, and files that cannot be read or written: all of them the caller's to change.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let listener = server::listen(options.port)?;
        let listen_error = |source| StartError::Listen { port: options.port, source };
        let port = listener.local_addr().map_err(listen_error)?.port();
        let tls = match &options.tls {
            Some(files) => Some(server::tls(files).await?),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://localhost:{port}");

        let certificate = options.client_certificate.as_deref();
        let certificate = certificate.map(ClientCertificate::read).transpose()?;
        let registration = match &options.state_dir {
            Some(folder) => Registration::kept_in(folder)?,
            None => Registration::random(),
        };

        let tenant = Arc::new(Tenant::new(origin, registration, certificate, &options));
        let partner = Arc::new(Partner::new(Arc::clone(&tenant)));
        let realm = Arc::new(Realm::new(Arc::clone(&tenant)));
        let router = router(Arc::clone(&tenant), Arc::clone(&realm), Arc::clone(&partner));
        let server = Server::start(listener, tls, router).map_err(listen_error)?;
        Ok(Self { description: Description::of(&tenant), tenant, realm, partner, server })
    }

    /// Where everything is, and Errand's credential.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Stops listening; requests under way have half a second to finish.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// Tokens that a test makes itself.
impl Simulator {
    /// A fresh token of `user` for Errand.
    pub fn user_token(&self, user: &str) -> String {
        self.sign(&self.token_header(), &self.user_claims(&UserTokenRequest::named(user)))
    }

    /// The claims of a user token, to be changed and [signed](Self::sign).
    pub fn user_claims(&self, request: &UserTokenRequest) -> Value {
        self.tenant.user_token_claims(request)
    }

    /// The header of a token: `typ`, `alg` and the `kid` of the present signing key.
    pub fn token_header(&self) -> Value {
        self.tenant.keys().current().header()
    }

    /// Signs anything with the present signing key, as `header.alg` says: `RS256`, `PS256`, `none`
    /// (no signature), or `HS256` with the public key's PEM as secret. Any other `alg`: as `RS256`.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.tenant.keys().current().sign(header, claims)
    }
}

/// The tenant, seen and changed by a test.
impl Simulator {
    /// Queues an answer for the next token request that has none yet.
    pub fn script_token_answer(&self, answer: impl Into<ScriptedAnswer>) {
        self.tenant.script(answer.into());
    }

    /// Drops the queued answers that no token request has met.
    pub fn forget_token_answers(&self) {
        self.tenant.forget_scripts();
    }

    /// Entra's answer for an AADSTS number. One it does not know becomes a bare `invalid_grant`.
    pub fn entra_error(&self, code: u32) -> HttpAnswer {
        EntraError::from(code).answer(self.tenant.clock.now(), &random_id())
    }

    /// Token requests in the order of their arrival.
    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.tenant.log().token_requests.clone()
    }

    /// Everything the tenant was asked.
    pub fn tenant_log(&self) -> TenantLog {
        self.tenant.log().clone()
    }

    /// Life of the access tokens issued from now on.
    pub fn set_access_token_lifetime(&self, lifetime: Duration) {
        self.tenant.set_access_token_lifetime(lifetime);
    }

    /// Signs with a new key from now on. The ones before stay published until they are
    /// [withdrawn](Self::withdraw_former_keys); a new one is not kept in the state folder.
    pub fn rotate_signing_key(&self) {
        self.tenant.keys().rotate();
    }

    /// Publishes the present signing key only.
    pub fn withdraw_former_keys(&self) {
        self.tenant.keys().withdraw_former();
    }

    /// While set, the tenant's endpoints close the connection without an answer. `token_url`, the logs
    /// and the partner API go on.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.tenant.set_unreachable(unreachable);
    }

    /// Treats refreshes badly from now on, or no longer. The realm stays as it is.
    pub fn set_hostility(&self, hostility: Option<Hostility>) {
        self.tenant.set_hostility(hostility);
    }

    /// Sets the clock of tenant and partner ahead, for tests that do so with Errand's.
    pub fn advance_clock(&self, by: Duration) {
        self.tenant.clock.advance(by);
    }
}

/// The other provider: a generic one, with token exchange. Client id and secret are the tenant's; the
/// audience of an API is the first part of its scope at the tenant, its scope the last.
impl Simulator {
    /// `http(s)://localhost:PORT/realms/acme`.
    pub fn realm_authority(&self) -> String {
        self.realm.issuer()
    }

    /// A fresh token of `user` for Errand.
    pub fn realm_user_token(&self, user: &str) -> String {
        self.realm.user_token(user)
    }

    /// The claims of a user token, to be changed and [signed](Self::sign).
    pub fn realm_user_claims(&self, user: &str) -> Value {
        self.realm.user_claims(user)
    }

    /// Requests to its token and revocation endpoints in the order of their arrival. Answers of the
    /// token endpoint are [scripted](Self::script_token_answer) like the tenant's.
    pub fn realm_requests(&self) -> Vec<RealmRequest> {
        self.realm.log().clone()
    }

    /// Ends every sign-in: no refresh token issued so far is good any more.
    pub fn end_realm_sessions(&self) {
        self.realm.end_sessions();
    }
}

/// The partner API, seen and changed by a test.
impl Simulator {
    /// Calls in the order of their arrival, refused ones included.
    pub fn calls(&self) -> Vec<PartnerCall> {
        self.partner.calls()
    }

    /// The most calls that were under way at one moment.
    pub fn most_calls_at_once(&self) -> usize {
        self.partner.most_calls_at_once()
    }

    /// Queues an answer for the next call of `method` to `path`, the whole path on the listener
    /// (`/partner/api/process/data`). Calls with a bad token are refused without using it up.
    pub fn script_call_answer(&self, method: &str, path: &str, answer: impl Into<ScriptedAnswer>) {
        self.partner.script(method, path, answer.into());
    }
}

impl Description {
    fn of(tenant: &Tenant) -> Self {
        let origin = &tenant.origin;
        let registration = &tenant.registration;
        Self {
            authority: format!("{origin}/{}", registration.tenant_id),
            client_id: registration.client_id.clone(),
            client_secret: registration.client_secret.clone(),
            scope: PARTNER.scope(),
            downstream: format!("{origin}/{}", PARTNER.path),
            token_url: format!("{origin}/user-token"),
        }
    }
}

impl fmt::Debug for Description {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.authority;
        formatter.debug_struct("Description").field("authority", authority).finish_non_exhaustive()
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let description = &self.description;
        formatter
            .debug_struct("Simulator")
            .field("description", description)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
