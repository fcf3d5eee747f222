//! stub
mod principal; mod secret;
pub use principal::Principal; pub use secret::*;
use serde::{Serialize,Deserialize};
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
/// x
pub enum SuspensionReason { /// a
ConsentRequired, /// b
 InteractionRequired, /// c
 SessionRevoked, /// d
 AdminActionRequired }
