//! A simulated Microsoft Entra tenant and partner API, on loopback.
//!
//! For the quickstart, for tests, and for trying a client library against: the tenant exchanges
//! user tokens (On-Behalf-Of), rotates refresh tokens and refuses with Entra's error bodies; the
//! partner API checks the tokens it is called with and remembers each call by its idempotency key.
//! Nobody proves who they are to `token_url`, so it must never be anything but loopback.
//!
//! - `tenant/`: discovery, keys, token endpoint
//! - `realm/`: another provider, which has nothing of Entra: token exchange (RFC 8693)
//! - `partner/`: the downstream APIs
//! - `router.rs`: every route
//! - `simulator.rs`: start, stop, and what tests can see and change

mod answer;
mod apis;
mod clock;
mod error;
mod jwt;
mod options;
mod partner;
mod realm;
mod registration;
mod router;
mod server;
mod signing_keys;
mod simulator;
mod tenant;
mod user;

pub use answer::{HttpAnswer, Reply, ScriptedAnswer};
pub use error::StartError;
pub use options::{Options, TlsFiles};
pub use partner::PartnerCall;
pub use realm::RealmRequest;
pub use simulator::{Description, Simulator};
pub use tenant::{ClientAuthentication, Hostility, TenantLog, TokenRequest, UserTokenRequest};
