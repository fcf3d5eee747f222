use serde_json::{Value, json};

use crate::{answer::HttpAnswer, user::random_id};

/// Number, status, `error`, `suberror` (or empty), text.
type Row = (u32, u16, &'static str, &'static str, &'static str);

/// The errors by number. Source: Microsoft Entra authentication and authorization error codes.
#[rustfmt::skip] // one line per error, as a table
static ERRORS: &[Row] = &[
    // The user's token.
    (50013, 400, "invalid_grant", "", "Assertion failed signature validation."),
    (50027, 400, "invalid_grant", "", "JWT token is invalid or malformed."),
    (500_131, 400, "invalid_grant", "", "Assertion audience does not match the Client app presenting the assertion."),
    (500_133, 400, "invalid_grant", "", "Assertion is not within its valid time range."),
    (240_002, 400, "invalid_request", "", "Input id_token cannot be used as 'urn:ietf:params:oauth:grant-type:jwt-bearer' grant."),
    (7_000_114, 400, "unauthorized_client", "", "Application is not allowed to make application on-behalf-of calls."),
    // Consent.
    (65001, 400, "invalid_grant", "consent_required", "The user or administrator has not consented to use the application. Send an interactive authorization request for this user and resource."),
    (65004, 400, "access_denied", "", "User declined to consent to access the app."),
    (90094, 400, "invalid_grant", "consent_required", "Admin consent is required for the permissions requested by this application."),
    (50105, 400, "invalid_grant", "", "The signed in user is not assigned to a role for the application."),
    // The user must act.
    (50074, 400, "interaction_required", "basic_action", "Strong Authentication is required."),
    (50076, 400, "invalid_grant", "basic_action", "Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access the resource."),
    (50079, 400, "interaction_required", "basic_action", "You must enroll in multi-factor authentication to access the resource."),
    (50158, 400, "interaction_required", "basic_action", "External security challenge not satisfied."),
    (50055, 400, "invalid_grant", "user_password_expired", "The password is expired."),
    (53000, 400, "interaction_required", "message_only", "Device is not in required device state: compliant."),
    (53003, 400, "invalid_grant", "message_only", "Access has been blocked by Conditional Access policies."),
    (50057, 400, "invalid_grant", "", "The user account is disabled."),
    // The refresh token.
    (50173, 400, "invalid_grant", "bad_token", "The provided grant has expired due to it being revoked, a fresh auth token is needed."),
    (70000, 400, "invalid_grant", "", "The provided value for the input parameter 'refresh_token' is not valid."),
    (70008, 400, "invalid_grant", "bad_token", "The provided authorization code or refresh token has expired due to inactivity."),
    (70043, 400, "invalid_grant", "token_expired", "The refresh token has expired or is invalid due to sign-in frequency checks by conditional access."),
    (700_082, 400, "invalid_grant", "bad_token", "The refresh token has expired due to inactivity."),
    (700_084, 400, "invalid_grant", "bad_token", "The refresh token was issued to a single page app (SPA), and therefore has a fixed, limited lifetime."),
    // The client.
    (700_016, 400, "unauthorized_client", "", "Application with this identifier was not found in the directory."),
    (700_021, 401, "invalid_client", "", "Client assertion application identifier doesn't match 'client_id' parameter."),
    (700_023, 401, "invalid_client", "", "Client assertion audience claim does not match Realm issuer."),
    (700_024, 401, "invalid_client", "", "Client assertion is not within its valid time range."),
    (700_027, 401, "invalid_client", "", "The certificate with identifier used to sign the client assertion is not registered on application, or the signature is wrong."),
    (7_000_215, 401, "invalid_client", "", "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID."),
    (7_000_218, 401, "invalid_client", "", "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."),
    (7_000_222, 401, "invalid_client", "", "The provided client secret keys are expired."),
    // Scopes, resources, tenants, requests.
    (28000, 400, "invalid_scope", "", "Provided value for the input parameter scope is not valid because it contains more than one resource."),
    (70011, 400, "invalid_scope", "", "The provided value for the input parameter 'scope' is not valid."),
    (700_022, 400, "invalid_scope", "", "The provided value for the input parameter scope is not valid because it contains more than one resource."),
    (500_011, 400, "invalid_resource", "", "The resource principal was not found in the tenant."),
    (650_057, 400, "invalid_resource", "", "Invalid resource. The client has requested access to a resource which is not listed in the requested permissions in the client's application registration."),
    (90002, 400, "invalid_request", "", "Tenant not found."),
    (50194, 400, "invalid_request", "", "Application is not configured as a multi-tenant application. Usage of the /common endpoint is not supported for such applications."),
    (70003, 400, "unsupported_grant_type", "", "The app requested an unsupported grant type."),
    (900_144, 400, "invalid_request", "", "The request body must contain all required parameters."),
    (9_002_313, 400, "invalid_request", "", "Invalid request. Request is malformed or invalid."),
    // The service.
    (50196, 400, "invalid_grant", "", "The server terminated an operation because it encountered a client request loop."),
    (90033, 503, "temporarily_unavailable", "", "A transient error has occurred. Please try again."),
];

/// A refusal of the token endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EntraError {
    pub(crate) code: u32,
    /// In place of the table's.
    suberror: Option<&'static str>,
    /// What is special about this case, for the description.
    detail: String,
}

impl From<u32> for EntraError {
    fn from(code: u32) -> Self {
        Self { code, suberror: None, detail: String::new() }
    }
}

impl EntraError {
    pub(crate) fn about(code: u32, detail: impl Into<String>) -> Self {
        Self { code, suberror: None, detail: detail.into() }
    }

    /// A refresh token of another client, the one refusal without a number of its own.
    pub(crate) fn client_mismatch() -> Self {
        Self { suberror: Some("client_mismatch"), ..70000.into() }
    }

    /// The answer at `time` (seconds since 1970). A number that the table does not have becomes a bare
    /// `invalid_grant`.
    pub(crate) fn answer(&self, time: i64, correlation_id: &str) -> HttpAnswer {
        let unknown = (self.code, 400, "invalid_grant", "", "An error has occurred.");
        let row = ERRORS.iter().find(|row| row.0 == self.code).unwrap_or(&unknown);
        let &(code, status, error, suberror, text) = row;
        let suberror = self.suberror.unwrap_or(suberror);

        let trace_id = random_id();
        let timestamp = chrono::DateTime::from_timestamp(time, 0).unwrap_or_default();
        let timestamp = timestamp.format("%Y-%m-%d %H:%M:%SZ").to_string();
        let detail =
            if self.detail.is_empty() { String::new() } else { format!(" {}", self.detail) };
        let mut body = json!({
            "error": error,
            "error_description": format!(
                "AADSTS{code}: {text}{detail} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
            ),
            "error_codes": [code],
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
            "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
        });
        if !suberror.is_empty() {
            body["suberror"] = suberror.into();
        }
        if let Some(claims) = claims(code) {
            body["claims"] = claims.to_string().into();
        }
        let answer = HttpAnswer::json(status, &body);
        if status == 503 { answer.with_header("retry-after", "30") } else { answer }
    }
}

/// The claims challenge that Entra sends along with conditional access.
fn claims(code: u32) -> Option<Value> {
    matches!(code, 50074 | 50076 | 50079 | 50158 | 53003).then(|| {
        let policy = "f3ab1c2d-0001-4f00-8000-00000000c001";
        json!({ "access_token": { "capolids": { "essential": true, "values": [policy] } } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shaped_as_entra_shapes_it() {
        let answer = EntraError::from(50076).answer(1_700_000_000, "c-1");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.status, 400);
        assert_eq!(body["error_codes"], json!([50076]));
        assert_eq!(body["timestamp"], "2023-11-14 22:13:20Z");
        assert!(body["error_description"].as_str().unwrap().starts_with("AADSTS50076: "));
        // A string that holds JSON, not an object.
        let claims: Value = serde_json::from_str(body["claims"].as_str().unwrap()).unwrap();
        assert!(claims["access_token"]["capolids"]["essential"].as_bool().unwrap());
    }
}
