use crate::{answer::HttpAnswer, apis::Api, jwt::Jwt, tenant::Tenant, user::User};

/// The user a call is made for.
pub(crate) struct Caller {
    pub(crate) user: User,
    /// `uti` or `jti` of the token.
    pub(crate) token_id: String,
}

/// Checks the access token of a call to `api`; the error is the answer (RFC 6750 section 3.1).
pub(crate) fn verify(
    tenant: &Tenant,
    api: &Api,
    authorization: Option<&str>,
) -> Result<Caller, HttpAnswer> {
    let Some(token) = authorization.and_then(|value| value.strip_prefix("Bearer ")) else {
        return Err(refusal(401, "Bearer"));
    };
    let invalid = |why: &str| {
        refusal(401, &format!(r#"Bearer error="invalid_token", error_description="{why}""#))
    };
    let Some(token) = Jwt::parse(token) else {
        return Err(invalid("malformed"));
    };
    if !tenant.keys().signed(&token) {
        return Err(invalid("signature"));
    }
    let issuer = token.text("iss");
    let (scope, token_id) = if issuer == tenant.realm_issuer() {
        ("scope", "jti")
    } else if issuer == tenant.issuer_v2(token.text("tid")) {
        ("scp", "uti")
    } else {
        return Err(invalid("issuer"));
    };
    if token.text("aud") != api.identifier_uri {
        return Err(invalid("audience"));
    }
    if !token.is_in_time(tenant.clock.now(), 0) {
        return Err(invalid("expired"));
    }
    if !token.text(scope).split(' ').any(|scope| scope == api.permission) {
        return Err(refusal(403, r#"Bearer error="insufficient_scope""#));
    }
    Ok(Caller { user: User::of_token(&token), token_id: token.text(token_id).to_owned() })
}

fn refusal(status: u16, challenge: &str) -> HttpAnswer {
    HttpAnswer::text(status, "").with_header("www-authenticate", challenge)
}
