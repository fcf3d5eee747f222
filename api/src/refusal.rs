//! Why a caller is refused, as answers: what the client, its user or the operator has to do.
//!
//! Challenges stand in the header for clients of the platform's libraries and in the body for
//! everybody else.
//!
//! Source: RFC 6750 3; Entra "Claims challenges"; Microsoft.Identity.Web's consent challenge.

use std::{fmt::Write, time::Duration};

use axum::http::{
    StatusCode,
    header::{RETRY_AFTER as RETRY_AFTER_HEADER, WWW_AUTHENTICATE},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use errand_shared::{
    config::{DownstreamApi, IdentityConfig},
    identity::{
        Caller, Decision, ForbiddenReason, SuspensionReason, TokenFailure, VerifyError, consent_url,
    },
    sessions::InitiateError,
    storage::{GateReason, StoreError},
    telemetry::chain,
};

use crate::problem::Problem;

/// After this a client may ask again, where nobody said anything better.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// After this a request loop that the provider noticed may go on.
const RETRY_AFTER_LOOP: Duration = Duration::from_mins(5);

/// The caller's token was not accepted.
pub(crate) fn unverified(error: VerifyError, identity: &IdentityConfig) -> Problem {
    match error {
        VerifyError::Missing => {
            unauthorized("Send `Authorization: Bearer` with a user's access token.")
                .header(WWW_AUTHENTICATE, "Bearer")
        }
        VerifyError::Invalid { description } => invalid_token(description),
        VerifyError::ExpiresTooSoon => invalid_token(
            "The token ends within a minute, before it could be exchanged. Get a fresh one.",
        ),
        VerifyError::Forbidden { reason } => {
            let detail = match reason {
                ForbiddenReason::AppOnly => "The token is an application's. Send a user's.",
                ForbiddenReason::MissingScope => "The token has none of the required scopes.",
                ForbiddenReason::ClientNotAllowed => {
                    "The application that the token was issued to may not call this service."
                }
                ForbiddenReason::NotOperator => "The token lacks the role `Errand.Operator`.",
            };
            insufficient_scope(detail, &identity.required_scopes)
        }
        VerifyError::Unavailable { retry_after } => Problem::unavailable(
            "The identity provider's keys cannot be fetched at the moment.",
            retry_after.as_secs(),
        ),
    }
}

/// The caller's token lacks what naming an API takes.
pub(crate) fn insufficient_scope(detail: &str, scopes: &[String]) -> Problem {
    let challenge = format!(r#"Bearer error="insufficient_scope", scope="{}""#, scopes.join(" "));
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
        .header(WWW_AUTHENTICATE, &challenge)
}

/// There is no grant for the caller's job.
pub(crate) fn uninitiated(
    error: &InitiateError,
    caller: &Caller,
    identity: &IdentityConfig,
) -> Problem {
    match error {
        InitiateError::Refused { api, source } => refused(source, caller, identity, api),
        InitiateError::NoRefreshToken => {
            tracing::error!("no refresh token: grant `offline_access` to Errand's registration");
            Problem::new(
                StatusCode::BAD_GATEWAY,
                "no_refresh_token",
                "No refresh token",
                "The identity provider issued no refresh token, so the job could not act for the \
                 user once the access token has ended. The operator has to allow `offline_access`.",
            )
        }
        InitiateError::TooMany { retry_after } => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_exchanges",
            "Too many exchanges",
            "Your tokens were exchanged too often lately. Submit several jobs with one token and \
             one session key.",
        )
        .header(RETRY_AFTER_HEADER, &retry_after.as_secs().max(1).to_string()),
        InitiateError::Held { reason: GateReason::Throttled, retry_after } => {
            provider_unavailable(*retry_after)
        }
        InitiateError::Held { reason: GateReason::Operator, .. } => provider_refused(),
        InitiateError::Store(error) => unstored(error),
    }
}

/// A suspended job waits for an API that the operator has taken away.
pub(crate) fn no_longer_configured(api: &str) -> Problem {
    tracing::error!("a job waits for `{api}`, which is not configured");
    Problem::unavailable("The API that this job calls is not configured at the moment.", 60)
}

/// The database did not do its part.
pub(crate) fn unstored(error: &StoreError) -> Problem {
    tracing::error!("{}", chain(error));
    match error {
        StoreError::Database(_) | StoreError::Migration(_) => {
            Problem::unavailable("The database does not answer.", RETRY_AFTER.as_secs())
        }
        StoreError::LeaseLost
        | StoreError::Undecryptable { .. }
        | StoreError::Unreadable { .. } => Problem::internal(),
    }
}

fn refused(
    failure: &TokenFailure,
    caller: &Caller,
    identity: &IdentityConfig,
    api: &DownstreamApi,
) -> Problem {
    match failure.decision {
        Decision::Retry { after } => provider_unavailable(after.unwrap_or(RETRY_AFTER)),
        Decision::RetryFew { .. } => provider_unavailable(RETRY_AFTER),
        Decision::RetrySlow => provider_unavailable(RETRY_AFTER_LOOP),
        Decision::SuspendForUser { reason: SuspensionReason::ConsentRequired } => {
            consent_required(failure, caller, identity, api)
        }
        Decision::SuspendForUser { .. } => interaction_required(failure, api),
        Decision::SuspendForAdministrator => Problem::new(
            StatusCode::FORBIDDEN,
            "admin_action_required",
            "Administrator must act",
            "A policy of the organisation keeps Errand from acting for this user. Only an \
             administrator can change that.",
        )
        .member("scopes", api.scopes.clone()),
        Decision::Operator => provider_refused(),
        Decision::Permanent | Decision::ForbiddenCaller => Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Forbidden",
            "The identity provider does not let this service act for this caller.",
        ),
        Decision::RejectAssertion => {
            invalid_token("The identity provider does not accept the token. Get a fresh one.")
        }
    }
}

fn provider_unavailable(retry_after: Duration) -> Problem {
    // Rounded up: a client that comes a little early would be refused again.
    let seconds = retry_after.as_millis().div_ceil(1000);
    Problem::unavailable(
        "The identity provider is not available at the moment.",
        u64::try_from(seconds).unwrap_or(u64::MAX),
    )
}

fn provider_refused() -> Problem {
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "identity_provider_refused",
        "Identity provider refused",
        "The identity provider did not accept this service's request. Its operator has been told.",
    )
}

fn consent_required(
    failure: &TokenFailure,
    caller: &Caller,
    identity: &IdentityConfig,
    api: &DownstreamApi,
) -> Problem {
    let url = consent_url(identity, &caller.principal.tenant, api).map(String::from);
    let mut challenge =
        format!(r#"Bearer proposedAction="consent", scopes="{}""#, api.scopes.join(","));
    if let Some(url) = &url {
        let _ = write!(challenge, r#", consentUri="{url}""#);
    }
    if let Some(claims) = &failure.claims {
        let _ = write!(challenge, r#", claims="{}""#, BASE64_STANDARD.encode(claims));
    }
    Problem::new(
        StatusCode::FORBIDDEN,
        "consent_required",
        "Consent required",
        "Consent to these scopes is missing. Once it is given, submit again with a fresh token.",
    )
    .header(WWW_AUTHENTICATE, &challenge)
    .member("interaction_required", true)
    .member("consent_required", true)
    .member("claims", failure.claims.clone())
    .member("scopes", api.scopes.clone())
    .member("consent_url", url)
}

fn interaction_required(failure: &TokenFailure, api: &DownstreamApi) -> Problem {
    // Raw JSON has quotes, which end a header's value: Base64, as the platform's libraries read it.
    let challenge = match &failure.claims {
        Some(claims) => {
            let claims = BASE64_STANDARD.encode(claims);
            format!(r#"Bearer error="insufficient_claims", claims="{claims}""#)
        }
        None => r#"Bearer error="interaction_required""#.to_owned(),
    };
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "interaction_required",
        "Interaction required",
        "The user has to sign in again, with `claims` if there are any. Then submit again with the \
         fresh token.",
    )
    .header(WWW_AUTHENTICATE, &challenge)
    .member("interaction_required", true)
    .member("consent_required", false)
    .member("claims", failure.claims.clone())
    .member("scopes", api.scopes.clone())
    .member("consent_url", None::<String>)
}

fn invalid_token(detail: &str) -> Problem {
    let challenge = format!(r#"Bearer error="invalid_token", error_description="{detail}""#);
    unauthorized(detail).header(WWW_AUTHENTICATE, &challenge)
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
}
