use serde::Serialize;

/// One request to the realm's token or revocation endpoint. It holds no secret and no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RealmRequest {
    /// `grant_type`; none at the revocation endpoint.
    pub grant_type: Option<String>,
    /// `audience`
    pub audience: Option<String>,
    /// `scope`, as it was sent.
    pub scope: Option<String>,
    /// `requested_token_type`
    pub requested_token_type: Option<String>,
    /// Status answered; `None`: the connection was closed without an answer.
    pub status: Option<u16>,
    /// The error with which it was refused, scripted answers aside.
    pub error: Option<&'static str>,
}
