//! A good answer of the token endpoint (RFC 6749 5.1), read with suspicion.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    grant::GrantKind,
    principal::Principal,
    secret::{AccessToken, RefreshToken},
};
use crate::time::Timestamp;

/// A token that lives longer is corrupt (MSAL's bound).
const MAX_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// What a token is taken to live whose life is not said. Only RECOMMENDED by RFC 6749 5.1, and Entra
/// always says it.
const ASSUMED_LIFETIME: Duration = Duration::from_mins(5);

/// What an exchange must not have brought in place of an access token (RFC 8693 3).
const USELESS_TYPES: [&str; 3] = [
    "urn:ietf:params:oauth:token-type:id_token",
    "urn:ietf:params:oauth:token-type:saml1",
    "urn:ietf:params:oauth:token-type:saml2",
];
const REFRESH_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:refresh_token";

/// A token for an API, got for a user.
#[derive(Debug, Clone)]
pub struct TokenResponse {
    /// To be sent to the API; opaque.
    pub access_token: AccessToken,
    /// When it ends, counted from the moment that the request was sent.
    pub expires_at: Timestamp,
    /// From when the provider suggests a renewal (`refresh_in`); only for long-lived tokens.
    pub refresh_at: Option<Timestamp>,
    /// Replaces the one before. `None` after an exchange: nothing can be done later in the user's
    /// name. `None` after a refresh: the old one stays.
    pub refresh_token: Option<RefreshToken>,
    /// For display. What was requested, where the provider says nothing (RFC 6749 5.1).
    pub granted_scopes: Vec<String>,
}

/// Why a good status is no good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResponseError {
    #[error("the answer is not a token response")]
    Malformed,
    #[error("the answer's token_type is not Bearer")]
    TokenType,
    #[error("the answer's issued_token_type is no access token's")]
    IssuedTokenType,
    #[error("the answer's expires_in is missing or absurd")]
    Lifetime,
    #[error("the answer is about another user")]
    AnotherUser,
}

#[derive(Deserialize)]
struct Wire {
    issued_token_type: Option<String>,
    token_type: Option<String>,
    access_token: String,
    expires_in: Option<Seconds>,
    refresh_in: Option<Seconds>,
    refresh_token: Option<String>,
    scope: Option<String>,
    id_token: Option<String>,
    client_info: Option<String>,
}

/// A number, or (older endpoints, ADFS) a number in a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    /// Between one second and [`MAX_LIFETIME`].
    fn length(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(seconds) => *seconds,
            Self::Text(text) => text.parse().ok()?,
        };
        (1..=MAX_LIFETIME.as_secs()).contains(&seconds).then(|| Duration::from_secs(seconds))
    }
}

/// Entra's `client_info`: the user's home account, for a guest not the tenant of the token.
#[derive(Deserialize)]
struct ClientInfo {
    uid: String,
    utid: String,
}

#[derive(Deserialize)]
struct IdTokenClaims {
    oid: String,
    tid: String,
}

impl TokenResponse {
    /// Reads an answer to a request that was sent at `requested_at`, for `principal` and the scopes
    /// of `requested`.
    pub(super) fn parse(
        body: &[u8],
        kind: GrantKind,
        principal: &Principal,
        requested: &str,
        requested_at: Timestamp,
    ) -> Result<Self, ResponseError> {
        let wire: Wire = serde_json::from_slice(body).map_err(|_| ResponseError::Malformed)?;
        if wire.access_token.is_empty() {
            return Err(ResponseError::Malformed);
        }
        if !wire.token_type.as_deref().is_some_and(|word| word.eq_ignore_ascii_case("bearer")) {
            return Err(ResponseError::TokenType);
        }
        let lifetime = match &wire.expires_in {
            None if !kind.is_entra() => ASSUMED_LIFETIME,
            seconds => {
                let length = seconds.as_ref().and_then(Seconds::length);
                length.ok_or(ResponseError::Lifetime)?
            }
        };
        if kind == GrantKind::TokenExchange && !wire.is_access_token() {
            return Err(ResponseError::IssuedTokenType);
        }
        // Elsewhere an id_token proves nothing: `sub` may be another one for each client (OpenID
        // Connect Core 8.1), and the caller's token was issued to a client of the caller's own.
        if kind.is_entra() && !wire.is_about(principal) {
            return Err(ResponseError::AnotherUser);
        }
        let refresh_in = wire.refresh_in.as_ref().and_then(Seconds::length);
        let granted = wire.scope.as_deref().unwrap_or(requested);
        Ok(Self {
            access_token: AccessToken::new(wire.access_token),
            expires_at: requested_at + lifetime,
            refresh_at: refresh_in.filter(|length| *length < lifetime).map(|it| requested_at + it),
            granted_scopes: granted.split_whitespace().map(str::to_owned).collect(),
            refresh_token: wire
                .refresh_token
                .filter(|token| !token.is_empty())
                .map(RefreshToken::new),
        })
    }
}

impl Wire {
    /// Whether what an exchange issued can be sent to an API. A refresh token was asked for by type
    /// at some providers: then it stands beside the access token, and not in its place.
    fn is_access_token(&self) -> bool {
        let has_refresh_token = self.refresh_token.as_ref().is_some_and(|token| !token.is_empty());
        self.issued_token_type.as_deref().is_none_or(|issued| {
            !USELESS_TYPES.contains(&issued) && (issued != REFRESH_TOKEN_TYPE || has_refresh_token)
        })
    }

    /// Whether nothing in the answer names somebody else.
    ///
    /// The id_token, if there is one, names the user as seen from the tenant that was asked (it came
    /// straight from the token endpoint: OpenID Connect Core 3.1.3.7, 6). `client_info` names the
    /// home account: next to an id_token it may be of another tenant, a guest's, and alone it may
    /// not.
    fn is_about(&self, principal: &Principal) -> bool {
        let is = |tenant: &str, subject: &str| {
            tenant.eq_ignore_ascii_case(&principal.tenant)
                && subject.eq_ignore_ascii_case(&principal.subject)
        };
        let id_token = self.id_token.as_deref().and_then(|token| token.split('.').nth(1));
        let id_token = id_token.and_then(decode::<IdTokenClaims>);
        let home = self.client_info.as_deref().and_then(decode::<ClientInfo>);
        let home_is = |home: &ClientInfo| is(&home.utid, &home.uid);
        match (id_token, home) {
            (Some(user), home) => {
                let is_guest = |home: &ClientInfo| !home.utid.eq_ignore_ascii_case(&user.tid);
                is(&user.tid, &user.oid)
                    && home.is_none_or(|home| is_guest(&home) || home_is(&home))
            }
            (None, Some(home)) => home_is(&home),
            (None, None) => true,
        }
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TENANT: &str = "8f1c0000-0000-4000-8000-000000000001";

    fn parse(changes: &Value) -> Result<TokenResponse, ResponseError> {
        parse_after(GrantKind::JwtBearer, changes)
    }

    fn parse_after(kind: GrantKind, changes: &Value) -> Result<TokenResponse, ResponseError> {
        let mut body = json!({
            "token_type": "Bearer", "expires_in": 4217, "ext_expires_in": 4217,
            "scope": "https://graph.microsoft.com/User.Read profile openid",
            "access_token": "at", "refresh_token": "rt", "foci": "1",
        });
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        let principal = Principal { tenant: TENANT.to_owned(), subject: "user-1".to_owned() };
        let start = Timestamp::from_seconds(1_700_000_000).unwrap();
        let body = body.to_string();
        TokenResponse::parse(body.as_bytes(), kind, &principal, "a b", start)
    }

    fn lifetime(response: &TokenResponse) -> i64 {
        response.expires_at.seconds() - 1_700_000_000
    }

    #[test]
    fn an_answer_is_read_in_every_form_that_providers_use() {
        let plain = parse(&json!({})).unwrap();
        assert_eq!(lifetime(&plain), 4217);
        assert_eq!(plain.access_token.expose(), "at");
        assert_eq!(plain.refresh_token.unwrap().expose(), "rt");
        assert_eq!(plain.refresh_at, None);
        assert_eq!(plain.granted_scopes.len(), 3);

        assert_eq!(lifetime(&parse(&json!({"expires_in": "3599"})).unwrap()), 3599);
        assert!(parse(&json!({"token_type": "bearer"})).is_ok());
        assert!(parse(&json!({"refresh_token": null})).unwrap().refresh_token.is_none());
        assert!(parse(&json!({"refresh_token": ""})).unwrap().refresh_token.is_none());
        assert_eq!(parse(&json!({"scope": null})).unwrap().granted_scopes, ["a", "b"]);

        let long = parse(&json!({"expires_in": 86399, "refresh_in": 43200})).unwrap();
        assert_eq!(long.refresh_at.unwrap().seconds(), 1_700_043_200);
        assert_eq!(parse(&json!({"refresh_in": 9999})).unwrap().refresh_at, None);
    }

    #[test]
    fn an_answer_that_cannot_be_right_is_refused() {
        for (changes, error) in [
            (json!({"access_token": ""}), ResponseError::Malformed),
            (json!({"access_token": null}), ResponseError::Malformed),
            (json!({"token_type": null}), ResponseError::TokenType),
            (json!({"token_type": "pop"}), ResponseError::TokenType),
            (json!({"expires_in": null}), ResponseError::Lifetime),
            (json!({"expires_in": 0}), ResponseError::Lifetime),
            (json!({"expires_in": "soon"}), ResponseError::Lifetime),
            (json!({"expires_in": 315_360_001}), ResponseError::Lifetime),
        ] {
            assert_eq!(parse(&changes).unwrap_err(), error, "{changes}");
        }
    }

    #[test]
    fn a_token_of_somebody_else_is_refused() {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let home = |uid: &str, utid: &str| part(json!({"uid": uid, "utid": utid}));
        let id = |oid: &str, tid: &str| format!("e30.{}.", part(json!({"oid": oid, "tid": tid})));
        for (changes, is_accepted) in [
            (json!({"client_info": home("user-1", TENANT)}), true),
            (json!({"client_info": home("USER-1", TENANT)}), true),
            (json!({"client_info": home("user-2", TENANT)}), false),
            (json!({"client_info": home("user-1", "elsewhere")}), false),
            (json!({"client_info": "not readable"}), true),
            (json!({"id_token": id("user-1", TENANT)}), true),
            (json!({"id_token": id("user-2", TENANT)}), false),
            // A guest: another account at home.
            (json!({"id_token": id("user-1", TENANT), "client_info": home("x", "home")}), true),
            (json!({"id_token": id("user-1", TENANT), "client_info": home("x", TENANT)}), false),
        ] {
            let result = parse(&changes).map(drop);
            let expected = if is_accepted { Ok(()) } else { Err(ResponseError::AnotherUser) };
            assert_eq!(result, expected, "{changes}");
        }
    }

    #[test]
    fn an_exchange_at_any_provider_brings_an_access_token_and_nothing_else() {
        let exchanged = |changes: &Value| parse_after(GrantKind::TokenExchange, changes);
        let uri = |name: &str| json!(format!("urn:ietf:params:oauth:token-type:{name}"));
        for (name, is_accepted) in [
            ("access_token", true),
            ("jwt", true),
            // Beside an access token, as asked for by `requested_token_type`.
            ("refresh_token", true),
            ("id_token", false),
            ("saml2", false),
        ] {
            let result = exchanged(&json!({ "issued_token_type": uri(name) }));
            let expected = if is_accepted { Ok(()) } else { Err(ResponseError::IssuedTokenType) };
            assert_eq!(result.map(drop), expected, "{name}");
        }
        let alone = json!({"issued_token_type": uri("refresh_token"), "refresh_token": null});
        assert_eq!(exchanged(&alone).unwrap_err(), ResponseError::IssuedTokenType);
        for word in ["N_A", "DPoP"] {
            let error = exchanged(&json!({ "token_type": word })).unwrap_err();
            assert_eq!(error, ResponseError::TokenType);
        }
        let silent = exchanged(&json!({"expires_in": null})).unwrap();
        assert_eq!(lifetime(&silent), 300);
        // Another `sub` is no other user there.
        let info = URL_SAFE_NO_PAD.encode(json!({"uid": "x", "utid": "y"}).to_string());
        assert!(exchanged(&json!({ "client_info": info })).is_ok());
    }
}
