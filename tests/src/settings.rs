use std::{net::SocketAddr, path::Path, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use errand_simulator::{Description, Options};
use serde_json::Value;

/// What a story wants otherwise than usual.
#[derive(Debug)]
pub struct Settings {
    /// How the tenant behaves.
    pub simulator: Options,
    /// Workers that are started at once.
    pub workers: usize,
    /// `RUST_LOG` of all processes.
    pub log_levels: &'static str,
    /// `worker.lease_seconds`
    pub lease_seconds: u32,
    /// `worker.drain_seconds`
    pub drain_seconds: u32,
    /// `retry.max_attempts` of the partner API.
    pub max_attempts: u32,
    /// `honours_idempotency_key` of the partner API.
    pub honours_idempotency_key: bool,
    /// `timeout_seconds` of the partner API.
    pub timeout_seconds: u32,
    /// `max_concurrency` of the partner API.
    pub max_concurrency: u32,
    /// A client credential that is tried before the secret, as TOML.
    pub first_credential: Option<String>,
    /// Users of every tenant may come.
    pub any_tenant: bool,
    /// Who may be told of jobs, `host:port`.
    pub webhook_host: Option<String>,
    /// The disk may be full later on: see [`crate::TestApp::fill_disk`].
    pub may_fill_disk: bool,
    /// Further sections of the configuration.
    pub more: String,
    /// The operator's documents; with some, clients' own ones do not run.
    pub registered: Vec<Value>,
    /// The simulator's realm in place of its tenant, with this `identity.refresh`.
    pub token_exchange: Option<&'static str>,
}

/// `webhooks.secret` where there is a host.
pub const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

impl Default for Settings {
    /// One worker; a rotating tenant that punishes whoever presents a refresh token twice.
    fn default() -> Self {
        Self {
            simulator: Options { reuse_detection: true, ..Options::default() },
            workers: 1,
            log_levels: "info,errand=debug,errand_api=debug,errand_shared=debug,errand_worker=debug",
            lease_seconds: 60,
            drain_seconds: 10,
            max_attempts: 3,
            honours_idempotency_key: false,
            timeout_seconds: 30,
            max_concurrency: 0,
            first_credential: None,
            any_tenant: false,
            webhook_host: None,
            may_fill_disk: false,
            more: String::new(),
            registered: Vec::new(),
            token_exchange: None,
        }
    }
}

impl Settings {
    /// The usual, with access tokens of that life.
    pub fn with_access_tokens_of(lifetime: Duration) -> Self {
        let mut settings = Self::default();
        settings.simulator.access_token_lifetime = lifetime;
        settings
    }

    /// Writes the configuration file.
    pub(crate) fn write(
        &self,
        path: &Path,
        simulator: &Description,
        database: &str,
        api: SocketAddr,
        encryption_key: &[u8; 32],
    ) {
        let provider = self.provider(simulator);
        let webhooks = self.webhook_host.as_ref().map(|host| {
            format!("[webhooks]\nhosts = [\"{host}\"]\nsecret = \"{WEBHOOK_SECRET}\"\n")
        });
        let webhooks = webhooks.unwrap_or_default();
        let (client_id, client_secret) = (&simulator.client_id, &simulator.client_secret);
        let first_credential = self.first_credential.as_ref().map(|first| format!("{first}, "));
        let first_credential = first_credential.unwrap_or_default();
        let downstream = &simulator.downstream;
        let (partner_scopes, ledger_scopes) = if self.token_exchange.is_some() {
            (bound_to("api://partner-api-id"), bound_to("api://ledger-api-id"))
        } else {
            let scopes = |scope: &str| format!("scopes = [\"{scope}\"]");
            (scopes(&simulator.scope), scopes("api://ledger-api-id/read"))
        };
        let api = api.to_string();
        let key = key(encryption_key);
        let Self { lease_seconds, drain_seconds, max_attempts, timeout_seconds, more, .. } = self;
        let max_concurrency = self.max_concurrency;
        let honours_idempotency_key = self.honours_idempotency_key;
        let ledger = downstream.replace("/partner", "/ledger");
        let workflows = self.register(path);
        let content = format!(
            r#"
[database]
{database}

[encryption]
keys = ["{key}"]

[api]
listen = "{api}"

[worker]
lease_seconds = {lease_seconds}
drain_seconds = {drain_seconds}

[identity]
{provider}
client_id = "{client_id}"
client_credentials = [{first_credential}{{ source_type = "ClientSecret", client_secret = "{client_secret}" }}]
consent_redirect_uri = "http://localhost/consent-given"

[downstream_apis.PartnerAPI]
base_url = "{downstream}"
{partner_scopes}
methods = ["GET", "POST"]
timeout_seconds = {timeout_seconds}
max_concurrency = {max_concurrency}
honours_idempotency_key = {honours_idempotency_key}
retry = {{ max_attempts = {max_attempts}, initial_seconds = 0.1, max_seconds = 0.2 }}

[downstream_apis.LedgerAPI]
base_url = "{ledger}"
{ledger_scopes}
required_scopes = ["Ledger.Use"]

{webhooks}{more}
{workflows}"#
        );
        std::fs::write(path, content).expect("the folder can be written");
    }

    /// Writes the operator's documents beside the configuration file; returns its section about them.
    fn register(&self, configuration: &Path) -> String {
        let folder = configuration.with_file_name("workflows");
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        for (at, document) in self.registered.iter().enumerate() {
            let file = folder.join(format!("{at}.json"));
            std::fs::write(file, document.to_string()).expect("the folder can be written");
        }
        let inline = self.registered.is_empty();
        format!("[workflows]\ndirectory = \"{}\"\ninline = {inline}\n", folder.display())
    }

    /// Who signs users in and issues tokens.
    fn provider(&self, simulator: &Description) -> String {
        if let Some(refresh) = self.token_exchange {
            let authority = simulator.downstream.replace("/partner", "/realms/acme");
            return format!(
                "dialect = \"token-exchange\"\nauthority = \"{authority}\"\nrefresh = \"{refresh}\""
            );
        }
        let (instance, tenant_id) =
            simulator.authority.rsplit_once('/').expect("an authority ends with its tenant");
        let tenant = if self.any_tenant {
            "tenant_id = \"organizations\"\nallowed_tenants = [\"*\"]".to_owned()
        } else {
            format!("tenant_id = \"{tenant_id}\"")
        };
        format!("instance = \"{instance}/\"\n{tenant}")
    }
}

/// An encryption key as an entry of `encryption.keys`.
pub(crate) fn key(bytes: &[u8; 32]) -> String {
    format!("k1:{}", BASE64_STANDARD.encode(bytes))
}

/// Scopes and target of an API of the realm.
fn bound_to(audience: &str) -> String {
    format!("scopes = [\"read\"]\nextra_token_parameters = {{ audience = \"{audience}\" }}")
}
