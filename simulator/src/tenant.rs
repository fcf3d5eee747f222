//! The tenant: it knows one client, a few APIs, and any user who is named.

mod client_authentication;
mod client_certificate;
pub(crate) mod discovery;
mod entra_error;
mod hostility;
mod issued_tokens;
mod log;
mod refresh_tokens;
mod scopes;
pub(crate) mod token_endpoint;
mod user_assertion;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    extract::{Query, Request, State},
    middleware::Next,
    response::Response,
};
use tokio::time::Instant;

pub use client_authentication::ClientAuthentication;
pub use hostility::Hostility;
pub use issued_tokens::UserTokenRequest;
pub use log::{TenantLog, TokenRequest};

use self::refresh_tokens::RefreshTokens;
pub(crate) use self::{
    client_authentication::Credential, client_certificate::ClientCertificate,
    entra_error::EntraError,
};
use crate::{
    answer::{Reply, ScriptedAnswer, Withheld},
    clock::Clock,
    options::Options,
    registration::Registration,
    signing_keys::SigningKeys,
};

pub(crate) struct Tenant {
    /// `http(s)://localhost:PORT`.
    pub(crate) origin: String,
    pub(crate) registration: Registration,
    pub(crate) clock: Clock,
    client_certificate: Option<ClientCertificate>,
    refresh_tokens: RefreshTokens,
    keys: Mutex<SigningKeys>,
    settings: Mutex<Settings>,
    scripts: Mutex<VecDeque<ScriptedAnswer>>,
    /// With the number of refreshes that have met it.
    hostility: Mutex<Option<(Hostility, u64)>>,
    log: Mutex<TenantLog>,
    unreachable: AtomicBool,
    started: Instant,
}

/// Lifetimes in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) access_token_lifetime: i64,
    pub(crate) user_token_lifetime: i64,
}

impl Tenant {
    pub(crate) fn new(
        origin: String,
        registration: Registration,
        client_certificate: Option<ClientCertificate>,
        options: &Options,
    ) -> Self {
        Self {
            refresh_tokens: RefreshTokens::new(
                &registration.refresh_token_key,
                options.reuse_detection.then_some(options.reuse_leeway),
            ),
            keys: Mutex::new(SigningKeys::new(registration.signing_key.clone())),
            origin,
            registration,
            client_certificate,
            clock: Clock::default(),
            settings: Mutex::new(Settings {
                access_token_lifetime: seconds(options.access_token_lifetime),
                user_token_lifetime: seconds(options.user_token_lifetime),
            }),
            scripts: Mutex::default(),
            hostility: Mutex::default(),
            log: Mutex::default(),
            unreachable: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// Issuer of v1 tokens; at Entra `https://sts.windows.net/{tid}/`, with the slash.
    pub(crate) fn issuer_v1(&self, tid: &str) -> String {
        format!("{}/{tid}/", self.origin)
    }

    /// Issuer of v2 tokens.
    pub(crate) fn issuer_v2(&self, tid: &str) -> String {
        format!("{}/{tid}/v2.0", self.origin)
    }

    /// Issuer of the other provider on this listener.
    pub(crate) fn realm_issuer(&self) -> String {
        format!("{}/realms/acme", self.origin)
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, SigningKeys> {
        self.keys.lock().expect("nobody panics while holding it")
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, TenantLog> {
        self.log.lock().expect("nobody panics while holding it")
    }

    pub(crate) fn settings(&self) -> Settings {
        *self.settings.lock().expect("nobody panics while holding it")
    }

    pub(crate) fn set_access_token_lifetime(&self, lifetime: Duration) {
        let mut settings = self.settings.lock().expect("nobody panics while holding it");
        settings.access_token_lifetime = seconds(lifetime);
    }

    pub(crate) fn script(&self, answer: ScriptedAnswer) {
        self.scripts.lock().expect("nobody panics while holding it").push_back(answer);
    }

    /// Drops the answers that nobody has asked for yet.
    pub(crate) fn forget_scripts(&self) {
        self.scripts.lock().expect("nobody panics while holding it").clear();
    }

    /// The answer in store for the next token request; the usual one if there is none.
    pub(crate) fn next_script(&self) -> ScriptedAnswer {
        let mut scripts = self.scripts.lock().expect("nobody panics while holding it");
        scripts.pop_front().unwrap_or_else(|| Reply::Usual.into())
    }

    pub(crate) fn set_hostility(&self, hostility: Option<Hostility>) {
        *self.hostility.lock().expect("nobody panics while holding it") =
            hostility.map(|hostility| (hostility, 0));
    }

    /// The fate of one more refresh, while the tenant is hostile.
    pub(crate) fn next_fate(&self) -> Option<ScriptedAnswer> {
        let mut hostility = self.hostility.lock().expect("nobody panics while holding it");
        let (hostility, refreshes) = hostility.as_mut()?;
        *refreshes += 1;
        Some(hostility.fate(*refreshes))
    }

    pub(crate) fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::Relaxed);
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// `GET /user-token`: a fresh user token as plain text.
pub(crate) async fn user_token(
    State(tenant): State<Arc<Tenant>>,
    Query(request): Query<UserTokenRequest>,
) -> String {
    tenant.sign(&tenant.user_token_claims(&request))
}

/// `GET /tenant-log`.
pub(crate) async fn tenant_log(State(tenant): State<Arc<Tenant>>) -> Json<TenantLog> {
    Json(tenant.log().clone())
}

/// While the tenant is unreachable, every answer of it is withheld.
pub(crate) async fn unless_unreachable(
    State(tenant): State<Arc<Tenant>>,
    request: Request,
    next: Next,
) -> Response {
    if tenant.unreachable.load(Ordering::Relaxed) {
        return Withheld::response();
    }
    next.run(request).await
}
