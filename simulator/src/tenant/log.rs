use std::time::Duration;

use serde::Serialize;

use super::ClientAuthentication;

/// What a tenant was asked since its start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TenantLog {
    /// Times the discovery document was asked for.
    pub discovery_requests: usize,
    /// Times the key set was asked for.
    pub key_requests: usize,
    /// Token requests in the order of their arrival.
    pub token_requests: Vec<TokenRequest>,
}

/// One request to the token endpoint. It holds no secret and no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRequest {
    /// Tenant of the path.
    pub tenant: String,
    /// `grant_type`.
    pub grant_type: String,
    /// `scope`, as it was sent.
    pub scope: String,
    /// `claims`, as they were sent.
    pub claims: Option<String>,
    /// The kind of credential, right or wrong.
    pub client_authentication: Option<ClientAuthentication>,
    /// SHA-256 of the refresh token presented, base64url.
    pub refresh_token_hash: Option<String>,
    /// The refresh token presented had been replaced before.
    pub reuse: bool,
    /// `client-request-id` header.
    pub client_request_id: Option<String>,
    /// When it arrived, since the start of the simulator.
    pub received_at: Duration,
    /// When its answer was sent or its connection closed; `None`: it is still open.
    pub ended_at: Option<Duration>,
    /// Status answered; `None`: the connection was closed without an answer, by whichever side.
    pub status: Option<u16>,
    /// Number of the error with which it was refused, scripted answers aside.
    pub error_code: Option<u32>,
}
