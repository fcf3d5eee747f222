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
    (90083, 400, "invalid_request", "", "Request is unsupported: the caller is a service principal."),
    (7_000_114, 400, "unauthorized_client", "", "Application is not allowed to make application on-behalf-of calls."),
    // Consent.
    (65001, 400, "invalid_grant", "consent_required", "The user or administrator has not consented to use the application. Send an interactive authorization request for this user and resource."),
    (65004, 400, "access_denied", "", "User declined to consent to access the app."),
    (90093, 400, "invalid_grant", "consent_required", "The admin consent endpoint cannot show this request."),
    (90095, 400, "interaction_required", "consent_required", "Admin consent is required."),
    (90097, 400, "invalid_grant", "", "An error has occurred during admin consent processing."),
    (90099, 400, "invalid_grant", "", "The application has not been authorized in the tenant."),
    (90094, 400, "invalid_grant", "consent_required", "Admin consent is required for the permissions requested by this application."),
    (50105, 400, "invalid_grant", "", "The signed in user is not assigned to a role for the application."),
    // The user must act.
    (16000, 400, "interaction_required", "", "Several accounts are signed in: one has to be selected."),
    (50058, 400, "login_required", "", "A silent sign-in request was sent but no user is signed in."),
    (50072, 400, "interaction_required", "basic_action", "The user needs to enroll for second factor authentication."),
    (50078, 400, "interaction_required", "basic_action", "Presented multi-factor authentication has expired."),
    (50144, 400, "invalid_grant", "user_password_expired", "The user's password in the directory has expired."),
    (700_020, 400, "interaction_required", "", "The resource requires an interaction."),
    (50074, 400, "interaction_required", "basic_action", "Strong Authentication is required."),
    (50076, 400, "invalid_grant", "basic_action", "Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access the resource."),
    (50079, 400, "interaction_required", "basic_action", "You must enroll in multi-factor authentication to access the resource."),
    (50158, 400, "interaction_required", "basic_action", "External security challenge not satisfied."),
    (50055, 400, "invalid_grant", "user_password_expired", "The password is expired."),
    (53001, 400, "interaction_required", "", "Device is not in required device state: domain joined."),
    (530_003, 400, "interaction_required", "", "The device is required to be managed to access this resource."),
    (50131, 400, "invalid_grant", "device_authentication_failed", "A conditional access policy failed, for the state of the device or suspicious activity."),
    (700_003, 400, "invalid_grant", "device_authentication_failed", "Device object was not found in the tenant."),
    (53004, 400, "invalid_grant", "message_only", "The user needs to complete the registration for multi-factor authentication, and may not from here."),
    (53011, 400, "invalid_grant", "message_only", "User blocked due to risk on the home tenant."),
    (530_032, 400, "invalid_grant", "message_only", "Blocked by security policy."),
    (530_035, 400, "invalid_grant", "message_only", "Access has been blocked by security defaults."),
    (53000, 400, "interaction_required", "message_only", "Device is not in required device state: compliant."),
    (53003, 400, "invalid_grant", "message_only", "Access has been blocked by Conditional Access policies."),
    (50014, 400, "invalid_grant", "", "The user's redemption is in a pending state."),
    (50020, 400, "invalid_grant", "", "The user account from this identity provider does not exist in the tenant."),
    (50034, 400, "invalid_grant", "", "The user account does not exist in the directory."),
    (51004, 400, "invalid_grant", "", "The user account does not exist in the directory: no such object."),
    (90072, 400, "invalid_grant", "", "The account needs to be added as an external user in the tenant first."),
    (50057, 400, "invalid_grant", "", "The user account is disabled."),
    // The refresh token.
    (50089, 400, "invalid_grant", "", "Flow token expired."),
    (50132, 400, "invalid_grant", "bad_token", "The session is not valid: expired, revoked, or the password was changed."),
    (50133, 400, "invalid_grant", "bad_token", "The session is not valid due to password expiration or a recent password change."),
    (50173, 400, "invalid_grant", "bad_token", "The provided grant has expired due to it being revoked, a fresh auth token is needed."),
    (70000, 400, "invalid_grant", "", "The provided value for the input parameter 'refresh_token' is not valid."),
    (70008, 400, "invalid_grant", "bad_token", "The provided authorization code or refresh token has expired due to inactivity."),
    (70043, 400, "invalid_grant", "token_expired", "The refresh token has expired or is invalid due to sign-in frequency checks by conditional access."),
    (700_082, 400, "invalid_grant", "bad_token", "The refresh token has expired due to inactivity."),
    (700_084, 400, "invalid_grant", "bad_token", "The refresh token was issued to a single page app (SPA), and therefore has a fixed, limited lifetime."),
    // The client.
    (50012, 401, "invalid_client", "", "Authentication failed."),
    (70001, 400, "unauthorized_client", "", "The application is disabled."),
    (70002, 401, "invalid_client", "", "The client's credentials could not be validated."),
    (700_011, 400, "unauthorized_client", "", "Application with this identifier was not found in the directory of the request."),
    (7_000_112, 400, "unauthorized_client", "", "Application is disabled by its owner."),
    (700_016, 400, "unauthorized_client", "", "Application with this identifier was not found in the directory."),
    (700_021, 401, "invalid_client", "", "Client assertion application identifier doesn't match 'client_id' parameter."),
    (700_023, 401, "invalid_client", "", "Client assertion audience claim does not match Realm issuer."),
    (700_024, 401, "invalid_client", "", "Client assertion is not within its valid time range."),
    (700_025, 401, "invalid_client", "", "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."),
    (700_211, 401, "invalid_client", "", "No matching federated identity record found for the presented assertion's issuer."),
    (700_212, 401, "invalid_client", "", "No matching federated identity record found for the presented assertion's audience."),
    (700_213, 401, "invalid_client", "", "No matching federated identity record found for the presented assertion's subject."),
    (1_000_502, 401, "invalid_client", "", "The provided certificate is not within its specified validity period."),
    (7_000_214, 401, "invalid_client", "", "The certificate has been revoked or cannot be used."),
    (7_000_274, 401, "invalid_client", "", "The certificate of the client assertion is not trusted."),
    (7_000_277, 401, "invalid_client", "", "The certificate's chain does not lead to a registered authority."),
    (700_027, 401, "invalid_client", "", "The certificate with identifier used to sign the client assertion is not registered on application, or the signature is wrong."),
    (7_000_215, 401, "invalid_client", "", "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID."),
    (7_000_218, 401, "invalid_client", "", "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."),
    (7_000_222, 401, "invalid_client", "", "The provided client secret keys are expired."),
    // Scopes, resources, tenants, requests.
    (28002, 400, "invalid_scope", "", "Provided value for the input parameter scope is not valid when requesting an access token."),
    (28003, 400, "invalid_scope", "", "Provided value for the input parameter scope cannot be empty when requesting an access token."),
    (28000, 400, "invalid_scope", "", "Provided value for the input parameter scope is not valid because it contains more than one resource."),
    (70011, 400, "invalid_scope", "", "The provided value for the input parameter 'scope' is not valid."),
    (700_022, 400, "invalid_scope", "", "The provided value for the input parameter scope is not valid because it contains more than one resource."),
    (500_011, 400, "invalid_resource", "", "The resource principal was not found in the tenant."),
    (65005, 400, "invalid_resource", "", "The application's required resource access list does not contain applications discoverable by the resource."),
    (650_052, 400, "invalid_resource", "", "The app needs access to a service that your organization has not subscribed to or enabled."),
    (650_053, 400, "invalid_resource", "", "The application asked for a scope that does not exist on the resource."),
    (650_054, 400, "invalid_resource", "", "The application asked for permissions to a resource that has been removed or is no longer available."),
    (650_055, 400, "invalid_resource", "", "The resource is not available in this tenant."),
    (650_056, 400, "invalid_resource", "", "Misconfigured application: its required permissions list nothing of the resource."),
    (650_057, 400, "invalid_resource", "", "Invalid resource. The client has requested access to a resource which is not listed in the requested permissions in the client's application registration."),
    (50059, 400, "invalid_request", "", "No tenant-identifying information found in either the request or implied by any provided credentials."),
    (90014, 400, "invalid_request", "", "The required field is missing from the credential."),
    (900_023, 400, "invalid_request", "", "Specified tenant identifier is neither a valid DNS name, nor a valid external domain."),
    (500_207, 400, "invalid_request", "", "The account type cannot be used for the resource you are trying to access."),
    (90002, 400, "invalid_request", "", "Tenant not found."),
    (90038, 400, "invalid_request", "", "The tenant is in another national cloud: its endpoint is to be used."),
    (90086, 400, "unsupported_grant_type", "", "The supplied grant type is not supported."),
    (90124, 400, "invalid_request", "", "The resource is not supported over the /common or /consumers endpoints."),
    (900_382, 400, "invalid_request", "", "Confidential clients are not supported in cross cloud requests."),
    (900_432, 400, "invalid_request", "", "Confidential clients are not supported in requests to another cloud."),
    (9_001_023, 400, "invalid_request", "", "The grant type is not supported over the /common or /consumers endpoints."),
    (50194, 400, "invalid_request", "", "Application is not configured as a multi-tenant application. Usage of the /common endpoint is not supported for such applications."),
    (70003, 400, "unsupported_grant_type", "", "The app requested an unsupported grant type."),
    (900_144, 400, "invalid_request", "", "The request body must contain all required parameters."),
    (9_002_313, 400, "invalid_request", "", "Invalid request. Request is malformed or invalid."),
    // The service.
    (50196, 400, "invalid_grant", "", "The server terminated an operation because it encountered a client request loop."),
    (50033, 503, "temporarily_unavailable", "", "A transient sign-in error occurred."),
    (50087, 400, "server_error", "", "A transient error has occurred during strong authentication."),
    (51005, 503, "temporarily_unavailable", "", "A temporary redirect of the tenant."),
    (90006, 400, "server_error", "", "The service is temporarily unavailable."),
    (90012, 400, "request_timeout", "", "The request has timed out."),
    (90024, 503, "temporarily_unavailable", "", "The request budget is exceeded. A transient error has occurred."),
    (90055, 503, "temporarily_unavailable", "", "Too many requests: the tenant is throttled."),
    (90090, 400, "server_error", "", "A transient error has occurred in the graph."),
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
    matches!(code, 50072 | 50074 | 50076 | 50078 | 50079 | 50158 | 53003).then(|| {
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
