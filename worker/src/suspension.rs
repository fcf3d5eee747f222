//! What a suspended job says is missing.

use errand_shared::{
    config::{DownstreamApi, IdentityConfig},
    identity::{SuspensionReason, consent_url},
    jobs::Suspension,
};

/// Puts together what the user, or an administrator, needs to know to let the job go on.
pub(crate) fn suspension(
    reason: SuspensionReason,
    claims: Option<String>,
    identity: &IdentityConfig,
    tenant: &str,
    api_name: &str,
    api: &DownstreamApi,
) -> Suspension {
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
    Suspension {
        reason,
        detail,
        api: api_name.to_owned(),
        scopes: api.scopes.clone(),
        claims,
        consent_url: consent_url.map(String::from),
    }
}
