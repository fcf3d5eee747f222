use super::{Realm, error::Refusal};
use crate::{jwt::Jwt, user::User};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// The user for whom `token` lets the client act. A bad one is an `invalid_request` (RFC 8693 2.2.2).
pub(crate) fn verify(realm: &Realm, token: &str, token_type: &str) -> Result<User, Refusal> {
    const INVALID: &str = "invalid_request";
    if token_type != ACCESS_TOKEN {
        return Err(Refusal::of(INVALID, "subject_token_type is not supported"));
    }
    let token = Jwt::parse(token).ok_or(Refusal::of(INVALID, "invalid subject_token"))?;
    let is_own = realm.tenant.keys().signed(&token) && token.text("iss") == realm.issuer();
    if !is_own || !token.is_in_time(realm.tenant.clock.now(), 0) {
        return Err(Refusal::of(INVALID, "invalid subject_token"));
    }
    if token.text("aud") != realm.tenant.registration.client_id {
        return Err(Refusal::of("access_denied", "the client is not in the token's audience"));
    }
    Ok(User::of_token(&token))
}
