//! What a suspended job says is missing.

use serde::{Deserialize, Serialize};

use crate::{
    config::{DownstreamApi, IdentityConfig},
    identity::{SuspensionReason, consent_url},
};

/// Why a job stands still until somebody acts, and what exactly is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Who must do what.
    pub reason: SuspensionReason,
    /// The same in a sentence for the user.
    pub detail: String,
    /// Name of the downstream API the token was wanted for.
    pub api: String,
    /// Scopes the token was wanted with.
    pub scopes: Vec<String>,
    /// Claims challenge to pass to an interactive sign-in, untouched (a JSON object as text).
    pub claims: Option<String>,
    /// Where consent can be given, if `consent_redirect_uri` is configured.
    pub consent_url: Option<String>,
}

impl Suspension {
    /// Puts together what the user, or an administrator, needs to know to let the job go on.
    pub fn new(
        reason: SuspensionReason,
        claims: Option<String>,
        identity: &IdentityConfig,
        tenant: &str,
        api_name: &str,
        api: &DownstreamApi,
    ) -> Self {
        let detail = match reason {
            SuspensionReason::ConsentRequired => {
                format!(
                    "Consent to the permissions for `{api_name}` is missing. Give it, then sign in again and resume the job."
                )
            }
            SuspensionReason::InteractionRequired => {
                format!(
                    "The identity provider asks for a new sign-in before `{api_name}` may be called. Sign in again, with `claims` if there are any, and resume the job."
                )
            }
            SuspensionReason::SessionRevoked => {
                "The stored sign-in has ended or was revoked. Sign in again and resume the job."
                    .to_owned()
            }
            SuspensionReason::AdminActionRequired => {
                format!(
                    "A policy of the organisation keeps this job from calling `{api_name}`. An administrator must act; then sign in again and resume the job."
                )
            }
        };
        let consent_url = (reason == SuspensionReason::ConsentRequired)
            .then(|| consent_url(identity, tenant, api))
            .flatten();
        Self {
            reason,
            detail,
            api: api_name.to_owned(),
            scopes: api.scopes.clone(),
            claims,
            consent_url: consent_url.map(String::from),
        }
    }
}
