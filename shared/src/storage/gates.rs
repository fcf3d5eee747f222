//! What [`Sessions`](crate::sessions::Sessions) asks of a database before it asks a provider: whether
//! others were refused what it is about to ask for.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;

use super::StoreError;
use crate::time::Timestamp;

/// Gates that all processes share. Their time is the database's.
#[async_trait]
pub trait Gates: fmt::Debug + Send + Sync {
    /// Asks for leave to send a token request for `api`.
    ///
    /// A gate whose time is over lets one request through, and nobody else for as long as `probe`, or
    /// until [`Gates::open_gate`].
    async fn pass_gates(
        &self,
        client_id: &str,
        tenant: &str,
        api: &str,
        probe: Duration,
    ) -> Result<Passage, StoreError>;

    /// Holds requests for `api`, or with an empty one all of the client in the tenant, for `length`
    /// from now. A gate that is closed for longer stays as it is.
    async fn close_gate(
        &self,
        client_id: &str,
        tenant: &str,
        api: &str,
        reason: GateReason,
        length: Duration,
    ) -> Result<(), StoreError>;

    /// Takes the gate away that `probe` was let through, unless it was closed anew meanwhile.
    async fn open_gate(
        &self,
        client_id: &str,
        tenant: &str,
        probe: &Probe,
    ) -> Result<(), StoreError>;
}

/// Whether a token request may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// It may. What it was let through as the first one after a pause.
    Open(Vec<Probe>),
    /// It would be refused.
    Held {
        /// Why.
        reason: GateReason,
        /// For how long.
        length: Duration,
    },
}

/// The right to be the first through a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The gate: an API's name, or empty.
    pub api: String,
    /// Until when nobody else is let through.
    pub until: Timestamp,
}

/// Why requests are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateReason {
    /// The provider asked for patience.
    Throttled,
    /// Only the operator can mend it.
    Operator,
}

impl GateReason {
    /// The word in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Operator => "operator",
        }
    }
}

/// The text is no reason.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no reason to hold requests")]
pub struct UnknownReason(String);

impl FromStr for GateReason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Throttled, Self::Operator]
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}
