//! The words of an error answer: what the token endpoint can say (RFC 6749 5.2, with Entra's
//! additions), and what its numbers refine.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::requested_claims::MAX_CLAIMS_BYTES;

/// An error answer, as received. Only `error` has to be what the standard says; what is merely
/// informative must not make the answer unreadable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct OAuthError {
    pub(super) error: String,
    #[serde(default, deserialize_with = "lenient_text")]
    pub(super) suberror: Option<String>,
    #[serde(default, deserialize_with = "lenient_text")]
    pub(super) error_description: Option<String>,
    #[serde(default)]
    error_codes: Value,
    #[serde(default, deserialize_with = "lenient_text")]
    claims: Option<String>,
    #[serde(default, deserialize_with = "lenient_text")]
    pub(super) correlation_id: Option<String>,
}

fn lenient_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

/// `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorWord {
    InvalidGrant,
    InteractionRequired,
    LoginRequired,
    ConsentRequired,
    AccessDenied,
    InvalidClient,
    UnauthorizedClient,
    InvalidScope,
    InvalidResource,
    InvalidTarget,
    InvalidRequest,
    InvalidToken,
    UnsupportedGrantType,
    TemporarilyUnavailable,
    ServerError,
    RequestTimeout,
    SlowDown,
    RequestThrottled,
    Unknown,
}

/// `suberror`, Entra's refinement of `invalid_grant` and `interaction_required`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suberror {
    BasicAction,
    AdditionalAction,
    MessageOnly,
    ConsentRequired,
    UserPasswordExpired,
    BadToken,
    TokenExpired,
    ClientMismatch,
    ProtectionPolicyRequired,
    DeviceAuthenticationFailed,
    /// None, or one that is not known: it changes nothing.
    Unknown,
}

/// What an AADSTS number adds. They may change at any time, so they refine and never decide alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CodeMeaning {
    /// The user's token is not fit for an exchange.
    AssertionRefused,
    /// The user's token in an exchange, otherwise our own client assertion.
    MalformedToken,
    /// The caller is an application without a user.
    CallerIsApplication,
    /// The user has to consent, or declined to.
    ConsentNeeded,
    /// Only an administrator of the tenant can help.
    AdministratorNeeded,
    /// The user has to sign in again, differently, or for this API.
    InteractionNeeded,
    /// Scopes or resource of one API are configured wrongly.
    ApiConfiguration,
    /// Errand's registration, credential or authority is configured wrongly.
    Configuration,
    /// A request that no repetition makes good: tenant unknown or missing, malformed.
    BadRequest,
    /// The user does not exist in the tenant, or is of a kind that the API does not take.
    UserUnknown,
    /// The user is disabled, the grant gone.
    UserDisabled,
    /// The refresh token is revoked, expired or invalid.
    RefreshTokenGone,
    /// A fault of the provider that passes.
    Transient,
}

impl OAuthError {
    pub(super) fn word(&self) -> ErrorWord {
        match self.error.to_ascii_lowercase().as_str() {
            "invalid_grant" => ErrorWord::InvalidGrant,
            "interaction_required" => ErrorWord::InteractionRequired,
            "login_required" => ErrorWord::LoginRequired,
            "consent_required" => ErrorWord::ConsentRequired,
            "access_denied" => ErrorWord::AccessDenied,
            "invalid_client" => ErrorWord::InvalidClient,
            "unauthorized_client" => ErrorWord::UnauthorizedClient,
            "invalid_scope" => ErrorWord::InvalidScope,
            "invalid_resource" => ErrorWord::InvalidResource,
            "invalid_target" => ErrorWord::InvalidTarget,
            "invalid_request" => ErrorWord::InvalidRequest,
            "invalid_token" => ErrorWord::InvalidToken,
            "unsupported_grant_type" => ErrorWord::UnsupportedGrantType,
            "temporarily_unavailable" => ErrorWord::TemporarilyUnavailable,
            "server_error" => ErrorWord::ServerError,
            "request_timeout" => ErrorWord::RequestTimeout,
            "slow_down" => ErrorWord::SlowDown,
            "request_throttled" => ErrorWord::RequestThrottled,
            _ => ErrorWord::Unknown,
        }
    }

    pub(super) fn suberror_word(&self) -> Suberror {
        match self.suberror.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
            "basic_action" => Suberror::BasicAction,
            "additional_action" => Suberror::AdditionalAction,
            "message_only" => Suberror::MessageOnly,
            "consent_required" => Suberror::ConsentRequired,
            "user_password_expired" => Suberror::UserPasswordExpired,
            "bad_token" => Suberror::BadToken,
            "token_expired" => Suberror::TokenExpired,
            "client_mismatch" => Suberror::ClientMismatch,
            "protection_policy_required" => Suberror::ProtectionPolicyRequired,
            "device_authentication_failed" => Suberror::DeviceAuthenticationFailed,
            _ => Suberror::Unknown,
        }
    }

    /// `error_codes`; without them (B2C, proxies) the number that the description begins with.
    pub(super) fn codes(&self) -> Vec<u32> {
        let listed: Vec<u32> = self
            .error_codes
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|code| code.as_u64()?.try_into().ok())
            .collect();
        if !listed.is_empty() {
            return listed;
        }
        let description = self.error_description.as_deref().unwrap_or_default();
        let number = description
            .strip_prefix("AADSTS")
            .or_else(|| description.strip_prefix("AADB2C"))
            .and_then(|rest| rest.split(|character: char| !character.is_ascii_digit()).next())
            .and_then(|digits| digits.parse().ok());
        number.into_iter().collect()
    }

    /// 50196: comes as `invalid_grant`, but the user can do nothing about it.
    pub(super) fn is_request_loop(&self) -> bool {
        self.codes().contains(&50_196)
    }

    /// What the numbers add: of the first that is known.
    pub(super) fn code_meaning(&self) -> Option<CodeMeaning> {
        self.codes().into_iter().find_map(CodeMeaning::of)
    }

    /// The claims challenge, a JSON object as text, to be handed on as it is.
    pub(super) fn claims(&self) -> Option<&str> {
        let claims = self.claims.as_deref().filter(|claims| claims.len() <= MAX_CLAIMS_BYTES)?;
        let object: serde_json::Map<String, Value> = serde_json::from_str(claims).ok()?;
        (!object.is_empty()).then_some(claims)
    }

    /// Whether another certificate, or a newer assertion, may do better (Microsoft.Identity.Web's
    /// list). An unknown application or a wrong secret is not among them.
    pub(super) fn is_about_certificate(&self) -> bool {
        let codes = [700_027, 700_024, 7_000_214, 1_000_502, 7_000_274, 7_000_277];
        self.codes().iter().any(|code| codes.contains(code))
    }

    /// 700024: the client assertion is outside its window, so a fresh one may do.
    pub(super) fn is_about_assertion_window(&self) -> bool {
        self.codes().contains(&700_024)
    }
}

impl CodeMeaning {
    pub(super) fn of(code: u32) -> Option<Self> {
        Some(match code {
            50_013 | 500_133 | 500_131 | 240_002 => Self::AssertionRefused,
            50_027 => Self::MalformedToken,
            7_000_114 | 90_083 => Self::CallerIsApplication,
            65_001 | 65_004 => Self::ConsentNeeded,
            // Admin consent; no consent possible; user not assigned to the application.
            90_094 | 90_095 | 90_093 | 90_097 | 90_099 | 50_105 |
            // Conditional access: device state, block (53003), proof-up, risk, security policy.
            50_131 | 700_003 | 53_003 | 53_004 | 53_011 | 530_032 | 530_035 => {
                Self::AdministratorNeeded
            }
            // Multi-factor authentication, external challenge, password, account choice.
            50_076 | 50_079 | 50_072 | 50_074 | 50_078 | 50_158 | 50_055 | 50_144 | 50_058
            | 16_000 | 700_020 |
            // Device not compliant or not joined; sign-in frequency, which is a rule of the API
            // asked for, so the refresh token may still serve others.
            53_000 | 53_001 | 530_003 | 70_043 => Self::InteractionNeeded,
            // Permission not listed, resource not in the tenant; scope syntax; several resources.
            650_052..=650_057 | 65_005 | 500_011 | 70_011 | 28_002 | 28_003 | 700_023 | 28_000
            | 700_022 => Self::ApiConfiguration,
            // Client credential.
            50_012 | 7_000_215 | 7_000_222 | 7_000_218 | 70_002 | 700_025 | 700_027 | 7_000_214
            | 1_000_502 | 7_000_274 | 7_000_277 | 700_024 | 700_211 | 700_212 | 700_213 |
            // Application unknown or disabled; authority not possible; wrong cloud; grant not
            // supported (AADB2C90086).
            700_016 | 70_001 | 7_000_112 | 700_011 | 50_194 | 9_001_023 | 90_124 | 90_038
            | 900_382 | 900_432 | 90_086 => Self::Configuration,
            90_002 | 50_059 | 90_014 | 900_144 | 900_023 => Self::BadRequest,
            50_034 | 51_004 | 50_014 | 50_020 | 90_072 | 500_207 => Self::UserUnknown,
            50_057 => Self::UserDisabled,
            50_173 | 70_008 | 700_082 | 700_084 | 70_000 | 50_089 | 50_132 | 50_133 => {
                Self::RefreshTokenGone
            }
            50_033 | 90_006 | 90_012 | 90_024 | 90_033 | 90_090 | 50_087 | 90_055 | 51_005 => {
                Self::Transient
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_read_from_the_description_where_there_is_no_list() {
        let error = |description: &str| OAuthError {
            error_description: Some(description.to_owned()),
            ..OAuthError::default()
        };
        assert_eq!(error("AADSTS50196: The server detected a loop").codes(), [50_196]);
        assert_eq!(error("AADB2C90086: The grant_type is not supported").codes(), [90_086]);
        assert!(error("see AADSTS50196").codes().is_empty());
        assert!(error("AADSTS99999999999: too large").codes().is_empty());
    }

    #[test]
    fn claims_are_a_json_object_that_says_something() {
        let claims = |claims: &str| {
            let error = OAuthError { claims: Some(claims.to_owned()), ..OAuthError::default() };
            error.claims().map(str::to_owned)
        };
        let challenge = r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#;
        assert_eq!(claims(challenge).as_deref(), Some(challenge));
        for nothing in ["", "{}", "[1]", "not json"] {
            assert_eq!(claims(nothing), None, "{nothing}");
        }
        assert_eq!(claims(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CLAIMS_BYTES))), None);
    }
}
