use super::{Tenant, entra_error::EntraError};
use crate::{jwt::Jwt, user::User};

/// The user for whom `assertion` lets the client act, in `tenant_id`.
///
/// Source: Entra's On-Behalf-Of flow; the order of the checks is that of its answers.
pub(crate) fn verify(
    tenant: &Tenant,
    assertion: &str,
    tenant_id: &str,
) -> Result<User, EntraError> {
    let token = Jwt::parse(assertion).ok_or(50027)?;
    if !tenant.keys().signed(&token) {
        return Err(50013.into());
    }
    let tid = token.text("tid");
    let issuers = [tenant.issuer_v1(tid), tenant.issuer_v2(tid)];
    if tid != tenant_id || !issuers.iter().any(|issuer| issuer == token.text("iss")) {
        return Err(EntraError::about(50013, "The issuer is not this tenant."));
    }

    let client_id = &tenant.registration.client_id;
    let audience = token.text("aud");
    // A GUID in any case; an identifier URI only as it is registered.
    if !audience.eq_ignore_ascii_case(client_id) && audience != format!("api://{client_id}") {
        return Err(500_131.into());
    }
    if !token.is_in_time(tenant.clock.now(), 0) {
        return Err(500_133.into());
    }
    if token.text("scp").is_empty() {
        let is_app = token.text("idtyp") == "app" || token.claims["roles"].is_array();
        return Err(if is_app { 7_000_114 } else { 240_002 }.into());
    }
    Ok(User::of_token(&token))
}
