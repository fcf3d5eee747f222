//! Every key of the configuration, in one struct per section.
//!
//! What a field means on the outside (key, unit, default) stands at the field. How it is read, from
//! TOML, from the environment or from a Microsoft.Identity.Web `appsettings.json`, stands in the
//! modules beside.

mod address;
mod api;
mod client_credentials;
mod database;
mod downstream_apis;
mod encryption;
mod environment;
mod error;
mod file;
mod identity;
mod limits;
mod load;
mod microsoft;
mod node;
mod not_yet;
mod report;
mod retention;
mod secret;
mod section;
mod spelling;
mod telemetry;
#[cfg(test)]
mod tests;
mod webhooks;
mod worker;
mod workflows;

use std::{collections::BTreeMap, net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use secrecy::{SecretSlice, SecretString};
use url::Url;

pub use self::{
    environment::process_environment,
    error::{ConfigError, Problem},
};

/// A whole configuration, valid in itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// `allow_insecure_http`, default false: plain `http` beyond loopback.
    pub allow_insecure_http: bool,
    /// `[database]`
    pub database: DatabaseConfig,
    /// `[encryption]`
    pub encryption: EncryptionConfig,
    /// `[api]`
    pub api: ApiConfig,
    /// `[worker]`
    pub worker: WorkerConfig,
    /// `[identity]`, in JSON `AzureAd`
    pub identity: IdentityConfig,
    /// `[downstream_apis.NAME]`, in JSON `DownstreamApis:NAME`
    pub downstream_apis: DownstreamApis,
    /// `[webhooks]`
    pub webhooks: WebhooksConfig,
    /// `[workflows]`
    pub workflows: WorkflowsConfig,
    /// `[limits]`
    pub limits: Limits,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// What is accepted but deserves a word in the log, e.g. an unknown key inside `AzureAd`.
    pub warnings: Vec<String>,
}

/// Where jobs and sessions are kept.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `url`: `sqlite://PATH` or `postgres://…`, default `sqlite://.errand/errand.db`. A secret: it
    /// may hold a password.
    pub url: SecretString,
    /// `listen`, default true: LISTEN/NOTIFY; false behind a transaction pooler.
    pub listen: bool,
    /// `prepared_statements`, default true; false behind a transaction pooler.
    pub prepared_statements: bool,
}

/// Keys for what is encrypted at rest.
#[derive(Debug, Clone)]
pub struct EncryptionConfig {
    /// `keys` or `keys_file`, each `ID:BASE64-OF-32-BYTES`: the first encrypts, all decrypt.
    pub keys: Vec<EncryptionKey>,
}

/// One key of the ring.
#[derive(Debug, Clone)]
pub struct EncryptionKey {
    /// Its name in the envelope of everything it encrypted, `[A-Za-z0-9_-]{1,32}`.
    pub id: String,
    /// 32 bytes.
    pub key: SecretSlice<u8>,
}

/// The HTTP interface.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `listen`, default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `public_url`, without a trailing slash; default `http://` + `listen`, required if
    /// `listen` is not loopback. Used in `Location` and links.
    pub public_url: String,
}

/// A worker process.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// `listen`: where `/livez` and `/readyz` are answered; default `""`: nowhere.
    pub listen: Option<SocketAddr>,
    /// `concurrency`, default 64: jobs at once in one process.
    pub concurrency: usize,
    /// `lease_seconds`, default 60, at least 3.
    pub lease: Duration,
    /// `drain_seconds`, default 30: how long a stop waits for running jobs.
    pub drain: Duration,
}

/// Who signs users in, and who Errand is towards that party.
#[derive(Debug, Clone)]
pub struct IdentityConfig {
    /// `dialect`, `"entra"` (default) or `"token-exchange"`.
    pub dialect: Dialect,
    /// `client_id`: Errand's own.
    pub client_id: String,
    /// `audiences`, default `client_id` and, at Entra, `api://client_id`.
    pub audiences: Vec<String>,
    /// `required_scopes`, default `["Jobs.ReadWrite"]`: any of them must be in `scp`.
    pub required_scopes: Vec<String>,
    /// `allowed_clients`, default empty (any): `azp`/`appid` that may call.
    pub allowed_clients: Vec<String>,
    /// `client_authentication`, `"post"` (default) or `"basic"`: how a secret is sent.
    pub client_authentication: ClientAuthentication,
    /// `client_credentials`, tried in order, at least one; `client_secret` is short for a secret.
    pub client_credentials: Vec<ClientCredential>,
    /// `extra_token_parameters`, sent with every token request.
    pub extra_token_parameters: BTreeMap<String, String>,
    /// `consent_redirect_uri`, default none: where a consent link sends the user afterwards.
    pub consent_redirect_uri: Option<Url>,
    /// `keep_alive_days`, default 30, 0 for never: how long a session that unfinished jobs need goes
    /// unused before it is refreshed.
    pub keep_alive: Option<Duration>,
}

/// How the identity provider is spoken to, with what only that way knows.
#[derive(Debug, Clone)]
pub enum Dialect {
    /// Microsoft Entra: On-Behalf-Of (RFC 7523 with `requested_token_use`).
    Entra {
        /// `instance`, default `https://login.microsoftonline.com/`; with the trailing slash.
        instance: Url,
        /// `tenant_id`
        tenant: Tenant,
    },
    /// Any OpenID provider with token exchange (RFC 8693).
    TokenExchange {
        /// `authority`, with the trailing slash: the discovery document is found below it.
        authority: Url,
        /// `subject_token_type`, default an access token's: what users' tokens are.
        subject_token_type: String,
        /// `refresh`
        refresh: RefreshRequest,
    },
}

/// How a refresh token is asked for in an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshRequest {
    /// `"offline_access"` (default): by that scope.
    OfflineAccess,
    /// `"requested_type"`: by `requested_token_type`.
    RequestedType,
    /// `"none"`: not at all; a session lives as long as its access token.
    None,
}

/// Whose users may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenant {
    /// One tenant, by its id (a lower-case GUID).
    Single(String),
    /// `organizations` or `common`, with `allowed_tenants`.
    Multiple {
        /// The authority's path segment, `organizations` or `common`.
        authority: String,
        /// Ids (lower-case GUIDs) of tenants that may come; `None` for `"*"`, any.
        allowed: Option<Vec<String>>,
    },
}

/// How a client secret travels (RFC 6749 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// In the form body.
    Post,
    /// In the `Authorization` header.
    Basic,
}

/// A proof of who Errand is. Files are read anew for each request.
#[derive(Debug, Clone)]
pub enum ClientCredential {
    /// `source_type = "ClientSecret"`
    Secret(SecretString),
    /// `source_type = "Path"`: a key that signs.
    Certificate(ClientCertificate),
    /// `source_type = "SignedAssertionFilePath"`: a JWT that somebody else renews; default of
    /// `signed_assertion_file_path`: the variable `AZURE_FEDERATED_TOKEN_FILE`.
    SignedAssertionFile(PathBuf),
    /// `source_type = "SignedAssertionFromManagedIdentity"`: a JWT that Azure gives to what runs there.
    ManagedIdentity(ManagedIdentity),
}

/// A certificate whose key signs Errand's assertions.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// `key_id`: how the provider finds the key.
    pub key_id: KeyId,
    /// Where it is.
    pub file: CertificateFile,
    /// `algorithm`, `"PS256"` (default) or `"RS256"`.
    pub algorithm: AssertionAlgorithm,
    /// `send_x5c` of `[identity]`, default false: send the certificate along, so that the provider
    /// can recognise it by subject name and issuer.
    pub send_x5c: bool,
}

/// `kid` of a client assertion (RFC 7515 4.1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyId {
    /// None, the default at Entra: it knows keys by their certificates.
    Omitted,
    /// The key's own thumbprint (RFC 7638), the default in the token-exchange dialect.
    Thumbprint,
    /// As configured.
    Named(String),
}

/// The file format of a certificate.
#[derive(Debug, Clone)]
pub enum CertificateFile {
    /// PEM (RFC 7468).
    Pem {
        /// `certificate_path`
        certificate_path: PathBuf,
        /// `private_key_path`; default: in the certificate's file.
        private_key_path: PathBuf,
    },
    /// PKCS#12 (RFC 7292): a path that ends in `.pfx` or `.p12`, or any with a password.
    Pkcs12 {
        /// `certificate_path`
        path: PathBuf,
        /// `certificate_password`, default empty.
        password: SecretString,
    },
}

/// How a client assertion is signed (RFC 7518 3.1), and with it how its certificate is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssertionAlgorithm {
    /// RSASSA-PSS; `x5t#S256`.
    Ps256,
    /// RSASSA-PKCS1-v1_5; `x5t`, which is what AD FS knows.
    Rs256,
}

/// A managed identity of Azure that the app registration trusts by a federated credential.
#[derive(Debug, Clone)]
pub struct ManagedIdentity {
    /// `managed_identity_client_id`, default none: the only one, or the system-assigned one.
    pub client_id: Option<String>,
    /// Who gives its tokens.
    pub source: ManagedIdentitySource,
}

/// Who gives the tokens of a managed identity.
#[derive(Debug, Clone)]
pub enum ManagedIdentitySource {
    /// App Service, Functions, Container Apps.
    AppService {
        /// The variable `IDENTITY_ENDPOINT`.
        endpoint: Url,
        /// The variable `IDENTITY_HEADER`.
        header: SecretString,
    },
    /// Where those two variables are not set: the instance metadata service of virtual machines.
    InstanceMetadata,
}

/// The configured downstream APIs by name.
pub type DownstreamApis = BTreeMap<String, DownstreamApi>;

/// An API that jobs may call as the user.
#[derive(Debug, Clone)]
pub struct DownstreamApi {
    /// Its name in the configuration.
    pub name: String,
    /// `base_url`, with the trailing slash: calls go below it and nowhere else.
    pub base_url: Url,
    /// `scopes` that a token for it is asked with; at least one, unless the token-exchange dialect
    /// names the API by `audience` or `resource`.
    pub scopes: Vec<String>,
    /// `required_scopes`, default none: the caller's own token must hold one of these to name this API.
    pub required_scopes: Vec<String>,
    /// `timeout_seconds`, default 30: for a whole answer.
    pub timeout: Duration,
    /// `methods`, default empty (all): upper case.
    pub methods: Vec<String>,
    /// `paths`, default empty (all), without a leading slash: patterns below `base_url`, `*` within a segment, `**` across segments.
    pub paths: Vec<String>,
    /// `max_response_bytes`, default 1 MiB.
    pub max_response_bytes: usize,
    /// `retry`
    pub retry: RetryConfig,
    /// `honours_idempotency_key`, default false: POST and PATCH may be sent again too.
    pub honours_idempotency_key: bool,
    /// `max_concurrency`, default 0 (none: no limit): calls at once of all processes together.
    pub max_concurrency: Option<NonZero<u32>>,
    /// `extra_token_parameters`, sent with token requests for this API.
    pub extra_token_parameters: BTreeMap<String, String>,
}

/// How often and when a call is sent again.
#[derive(Debug, Clone)]
pub struct RetryConfig {
    /// `max_attempts`, default 5, the first included.
    pub max_attempts: u32,
    /// `initial_seconds`, default 1: the first delay, before jitter.
    pub initial: Duration,
    /// `max_seconds`, default 300: no delay is longer.
    pub max: Duration,
}

/// Who may be told of jobs.
#[derive(Debug, Clone)]
pub struct WebhooksConfig {
    /// `hosts`, default none: `host` or `host:port`, as a URL spells them.
    pub hosts: Vec<String>,
    /// `secret` or `secret_file`, one or several while rotating: `whsec_` and Base64.
    pub secrets: Vec<SecretString>,
    /// The key at the top: plain `http` beyond loopback.
    pub allow_insecure_http: bool,
}

/// What an operator can measure.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `metrics_listen`: where `/metrics` is answered instead of on `listen` of the API; default `""`.
    pub metrics_listen: Option<SocketAddr>,
}

/// How long what is done with is kept.
#[derive(Debug, Clone)]
pub struct RetentionConfig {
    /// `finished_days`, default 30, at least 1: after it a finished job is deleted with everything of
    /// it, and so is each event of a session; none for -1: never. Not shorter than an `Idempotency-Key`
    /// is remembered, which leads to its job for a day.
    pub finished: Option<Duration>,
    /// `session_grace_minutes`, default 60: so long after its last unfinished job has ended a session
    /// is stopped, its tokens erased; none for -1: never.
    pub session_grace: Option<Duration>,
}

/// Which workflows may run.
#[derive(Debug, Clone)]
pub struct WorkflowsConfig {
    /// `directory`, default `workflows`: where the registered ones are.
    pub directory: PathBuf,
    /// `inline`, default true: may clients post documents of their own?
    pub inline: bool,
}

/// Bounds of documents and jobs; defaults from `Default`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `body_bytes`, default 262,144: of a submission.
    pub body_bytes: usize,
    /// `tasks`, default 200: in one document.
    pub tasks: usize,
    /// `nesting`, default 16: of tasks in tasks.
    pub nesting: usize,
    /// `expression_bytes`, default 4,096: of one expression.
    pub expression_bytes: usize,
    /// `branches`, default 32: of one fork.
    pub branches: usize,
    /// `loop_items`, default 1,000: of one loop.
    pub loop_items: usize,
    /// `task_starts`, default 100,000: in one job.
    pub task_starts: u64,
    /// `calls`, default 20,000: in one job.
    pub calls: u64,
    /// `checkpoint_bytes`, default 1 MiB.
    pub checkpoint_bytes: usize,
    /// `evaluation_cpu_seconds`, default 2: of one child process, for expressions of one step.
    pub evaluation_cpu_seconds: u64,
    /// `evaluation_seconds_per_job`, default 30: for all steps of one job together.
    pub evaluation_per_job: Duration,
    /// `max_deadline`, default `P400D`.
    pub max_deadline: Duration,
    /// `streams_per_user`, default 10: open event streams of one user on one API process.
    pub streams_per_user: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 262_144,
            tasks: 200,
            nesting: 16,
            expression_bytes: 4_096,
            branches: 32,
            loop_items: 1_000,
            task_starts: 100_000,
            calls: 20_000,
            checkpoint_bytes: 1_048_576,
            evaluation_cpu_seconds: 2,
            evaluation_per_job: Duration::from_secs(30),
            max_deadline: Duration::from_hours(400 * 24),
            streams_per_user: 10,
        }
    }
}
