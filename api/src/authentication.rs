//! Who asks: every handler but the public ones takes one of these extractors.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use errand_shared::identity::Caller;

use crate::{problem::Problem, refusal, state::AppState};

/// The verified caller of a request.
#[derive(Debug)]
pub(crate) struct Authenticated(pub(crate) Caller);

impl FromRequestParts<Arc<AppState>> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<AppState>,
    ) -> Result<Self, Self::Rejection> {
        let authorization = authorization(&parts.headers);
        match state.verifier.verify(authorization.as_deref()).await {
            Ok(caller) => Ok(Self(caller)),
            Err(error) => Err(refusal::unverified(error, &state.identity)),
        }
    }
}

/// The tenant of a verified operator.
#[derive(Debug)]
pub(crate) struct Operator(pub(crate) String);

impl FromRequestParts<Arc<AppState>> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<AppState>,
    ) -> Result<Self, Self::Rejection> {
        let authorization = authorization(&parts.headers);
        match state.verifier.verify_operator(authorization.as_deref()).await {
            Ok(operator) => Ok(Self(operator.principal.tenant)),
            Err(error) => Err(refusal::unverified(error, &state.identity)),
        }
    }
}

/// Several lines are one value with commas (RFC 9110 5.3), which no single credential looks like.
fn authorization(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<&str> = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(|line| line.to_str().unwrap_or("?"))
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}
