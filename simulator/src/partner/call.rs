use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method, Uri, header::AUTHORIZATION};
use serde::Serialize;
use serde_json::Value;

/// One request to a downstream API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartnerCall {
    /// HTTP method.
    pub method: String,
    /// Whole path on the listener, such as `/partner/api/process/data`.
    pub path: String,
    /// Query, as it was sent.
    pub query: Option<String>,
    /// Name of the user the token speaks for; empty if the token was refused.
    pub user: String,
    /// Their `oid`; empty if the token was refused.
    pub user_id: String,
    /// `uti` of the access token: tells two tokens apart without showing them.
    pub token_id: String,
    /// `Idempotency-Key` header.
    pub idempotency_key: Option<String>,
    /// `traceparent` header.
    pub traceparent: Option<String>,
    /// All headers but `authorization`, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// JSON, or a string if it is not; null if there is none.
    pub body: Value,
    /// It changed something: a method that does so, answered with success, and not the repetition
    /// of an idempotency key.
    pub effect: bool,
    /// Status answered; `None`: the connection was closed without an answer.
    pub status: Option<u16>,
}

impl PartnerCall {
    /// A request as it came in: nobody's yet, and without effect.
    pub(crate) fn received(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Self {
            method: method.to_string(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            user: String::new(),
            user_id: String::new(),
            token_id: String::new(),
            idempotency_key: text("idempotency-key"),
            traceparent: text("traceparent"),
            headers: headers
                .iter()
                .filter(|(name, _)| *name != AUTHORIZATION)
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect(),
            body: match body {
                [] => Value::Null,
                _ => serde_json::from_slice(body)
                    .unwrap_or_else(|_| String::from_utf8_lossy(body).into()),
            },
            effect: false,
            status: None,
        }
    }
}
