//! The ways in which Entra's token endpoint answers, one of each kind.

use errand_simulator::HttpAnswer;
use errand_tests::{Database, TestApp};
use serde_json::json;

use super::{
    Consequence::{Faults, FaultsAndRevokes, Recovers, Revoked, Suspends, Waits},
    Failure,
    Refusal::{Administrator, Caller, Claims, Consent, Operator, SignIn, Token, Unavailable},
    assert_consequence_in_worker, assert_refused_at_submission, settings, start_in_one_process,
};

on_both_databases! {
    every_answer_is_told_to_the_submitter_as_what_there_is_to_do
    every_answer_has_its_consequence_in_the_worker
}

/// What conditional access asks for.
const CLAIMS: &str = r#"{"access_token":{"capolids":{"essential":true,"values":["c-1"]}}}"#;

/// `error`, `suberror` (or empty), AADSTS number (or 0).
pub(super) fn error(error: &str, suberror: &str, code: u32) -> HttpAnswer {
    error_with(400, error, suberror, code, None)
}

fn challenge(error: &str, suberror: &str, code: u32) -> HttpAnswer {
    error_with(400, error, suberror, code, Some(CLAIMS))
}

fn error_with(
    status: u16,
    error: &str,
    suberror: &str,
    code: u32,
    claims: Option<&str>,
) -> HttpAnswer {
    let description = format!("AADSTS{code}: Not for clients.");
    let mut body = json!({ "error": error, "error_description": description });
    if code != 0 {
        body["error_codes"] = json!([code]);
    }
    if !suberror.is_empty() {
        body["suberror"] = suberror.into();
    }
    if let Some(claims) = claims {
        body["claims"] = claims.into();
    }
    HttpAnswer::json(status, &body)
}

/// By the kind's number, with a letter where it has several forms.
#[rustfmt::skip] // as a table
fn fixtures() -> Vec<Failure> {
    let client = |code| error_with(401, "invalid_client", "", code, None);
    let busy = error_with(503, "temporarily_unavailable", "", 90033, None).with_header("retry-after", "30");
    let throttled = HttpAnswer::text(429, "Too Many Requests").with_header("retry-after", "60");
    let row = |name: &str, answer, at_submission, in_worker| {
        Failure::new(format!("fixture-{name}"), answer, at_submission, in_worker)
    };
    vec![
        // The user's token. In a refresh there is none, and the number says nothing.
        row("1", error("invalid_grant", "", 500_133), Token, Waits(60)),
        row("2", error("invalid_grant", "", 50013), Token, Waits(60)),
        // The user must act.
        row("3", error("invalid_grant", "consent_required", 65001), Consent, Suspends("consent_required")),
        row("4", challenge("invalid_grant", "basic_action", 50076), Claims, Suspends("interaction_required")),
        row("5", challenge("interaction_required", "basic_action", 50079), Claims, Suspends("interaction_required")),
        row("6a", error("invalid_grant", "message_only", 53003), Administrator, Suspends("admin_action_required")),
        row("6b", challenge("invalid_grant", "message_only", 53003), Administrator, Suspends("admin_action_required")),
        // The refresh token.
        row("7a", error("invalid_grant", "bad_token", 700_082), Token, Revoked),
        row("7b", error("invalid_grant", "bad_token", 70008), Token, Revoked),
        row("7c", error("invalid_grant", "bad_token", 50173), Token, Revoked),
        row("8a", error("invalid_grant", "token_expired", 70043), SignIn, Suspends("interaction_required")),
        row("8b", error("interaction_required", "token_expired", 70043), SignIn, Suspends("interaction_required")),
        row("9", error("invalid_grant", "client_mismatch", 0), Caller, FaultsAndRevokes),
        row("10", error("invalid_grant", "", 50196), Unavailable { retry_after: 300 }, Waits(300)),
        // The operator's: the client, its scopes, its tenant.
        row("11a", client(7_000_215), Operator, Waits(60)),
        row("11b", client(7_000_222), Operator, Waits(60)),
        row("12a", client(700_027), Operator, Waits(60)),
        // Signed anew once: its time may have been over.
        row("12b", client(700_024), Operator, Waits(60)).asked(2, 2),
        row("13a", error("unauthorized_client", "", 700_016), Operator, Waits(60)),
        row("13b", error("unauthorized_client", "", 7_000_114), Caller, Waits(60)),
        row("14a", error("invalid_scope", "", 70011), Operator, Waits(60)),
        row("14b", error("invalid_scope", "", 28000), Operator, Waits(60)),
        row("14c", error("invalid_grant", "", 700_022), Operator, Waits(60)),
        row("15", error("invalid_resource", "", 500_011), Operator, Waits(60)),
        row("16a", error("invalid_request", "", 90002), Operator, Faults),
        row("16b", error("invalid_request", "", 900_144), Operator, Faults),
        row("16c", error("invalid_request", "", 240_002), Token, Faults),
        // The service.
        row("17", busy, Unavailable { retry_after: 30 }, Waits(30)),
        row("18", throttled, Unavailable { retry_after: 60 }, Waits(60)),
        row("19", HttpAnswer::text(502, "<html>Bad Gateway</html>"), Unavailable { retry_after: 5 }, Recovers).asked(2, 2),
        row("20a", HttpAnswer::text(200, ""), Unavailable { retry_after: 5 }, Waits(60)).asked(1, 2),
        row("20b", HttpAnswer::text(200, "<html>Welcome</html>"), Unavailable { retry_after: 5 }, Waits(60)).asked(1, 2),
    ]
}

async fn every_answer_is_told_to_the_submitter_as_what_there_is_to_do(database: Database) {
    let app = TestApp::start_with(database, settings()).await;
    assert_refused_at_submission(&app, &fixtures()).await;
    app.finish().await;
}

async fn every_answer_has_its_consequence_in_the_worker(database: Database) {
    let app = start_in_one_process(database, settings()).await;
    assert_consequence_in_worker(&app, &fixtures()).await;
    app.finish().await;
}
