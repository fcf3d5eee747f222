use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Decision::{
        ForbiddenCaller, Operator, Permanent, RejectAssertion, Retry, RetryFew, RetrySlow,
        SuspendForAdministrator, SuspendForUser,
    },
    Gate::{ClientAndTenant, Session, TenantAndApi},
    GrantKind::{BoundRefreshToken, JwtBearer, RefreshToken, TokenExchange},
    RefreshTokenState::{Dead, Doubtful, Usable},
    SuspensionReason::{ConsentRequired, InteractionRequired, SessionRevoked},
    *,
};

const CLAIMS: &str = r#"{"access_token":{"capolids":{"essential":true,"values":["c1"]}}}"#;
const NOW: Decision = Retry { after: None };
const INTERACTION: Decision = SuspendForUser { reason: InteractionRequired };
const CONSENT: Decision = SuspendForUser { reason: ConsentRequired };
const REVOKED: Decision = SuspendForUser { reason: SessionRevoked };

fn outcome(status: u16, retry_after: Option<u64>, body: Value) -> Outcome {
    Outcome::Answer {
        status,
        retry_after: retry_after.map(Duration::from_secs),
        error: serde_json::from_value(body).ok(),
    }
}

#[track_caller]
fn refused(grant: GrantKind, body: &Value) -> (Decision, Gate, RefreshTokenState) {
    let verdict = decide(grant, &outcome(400, None, body.clone()));
    (verdict.decision, verdict.gate, verdict.refresh_token)
}

#[test]
fn every_error_has_its_decision() {
    for (error, on_refresh, at_submission) in [
        ("invalid_grant", (REVOKED, Session, Doubtful), RejectAssertion),
        ("interaction_required", (INTERACTION, Session, Usable), INTERACTION),
        ("login_required", (INTERACTION, Session, Usable), INTERACTION),
        ("consent_required", (CONSENT, Session, Usable), CONSENT),
        ("invalid_client", (Operator, ClientAndTenant, Usable), Operator),
        ("unauthorized_client", (Operator, Session, Usable), Operator),
        ("invalid_scope", (Operator, TenantAndApi, Usable), Operator),
        ("invalid_resource", (Operator, TenantAndApi, Usable), Operator),
        ("invalid_target", (Operator, TenantAndApi, Usable), Operator),
        ("invalid_request", (Permanent, Session, Usable), Operator),
        ("unsupported_grant_type", (Permanent, Session, Usable), Operator),
        ("access_denied", (CONSENT, Session, Usable), CONSENT),
        ("temporarily_unavailable", (NOW, Session, Usable), NOW),
        ("server_error", (NOW, Session, Usable), NOW),
        ("request_timeout", (NOW, Session, Usable), NOW),
        ("slow_down", (NOW, Session, Usable), NOW),
        ("request_throttled", (NOW, Session, Usable), NOW),
        ("Invalid_Client", (Operator, ClientAndTenant, Usable), Operator),
    ] {
        assert_eq!(refused(RefreshToken, &json!({ "error": error })), on_refresh, "{error}");
        let (decision, gate, state) = refused(JwtBearer, &json!({ "error": error }));
        assert_eq!((decision, gate, state), (at_submission, on_refresh.1, Usable), "{error}");
    }
    let few = RetryFew { then: LastResort::Permanent };
    assert_eq!(refused(RefreshToken, &json!({"error": "brand_new"})), (few, Session, Usable));
    assert_eq!(
        refused(
            RefreshToken,
            &json!({"error": "interaction_required", "suberror": "message_only"})
        ),
        (SuspendForAdministrator, Session, Usable)
    );
}

#[test]
fn every_error_of_any_provider_has_its_decision() {
    let few = RetryFew { then: LastResort::Permanent };
    for (error, on_refresh, at_submission) in [
        // No slow second try: with strict rotation the family is revoked.
        ("invalid_grant", (REVOKED, Session, Dead), RejectAssertion),
        ("invalid_request", (Permanent, Session, Usable), RejectAssertion),
        ("invalid_token", (few, Session, Usable), RejectAssertion),
        ("unauthorized_client", (Operator, Session, Usable), RejectAssertion),
        ("access_denied", (INTERACTION, Session, Usable), RejectAssertion),
        ("interaction_required", (INTERACTION, Session, Usable), INTERACTION),
        ("login_required", (INTERACTION, Session, Usable), INTERACTION),
        ("consent_required", (CONSENT, Session, Usable), CONSENT),
        ("invalid_client", (Operator, ClientAndTenant, Usable), Operator),
        ("unsupported_grant_type", (Operator, Session, Usable), Operator),
        ("invalid_scope", (Operator, TenantAndApi, Usable), Operator),
        ("invalid_resource", (Operator, TenantAndApi, Usable), Operator),
        ("invalid_target", (Operator, TenantAndApi, Usable), Operator),
        ("temporarily_unavailable", (NOW, Session, Usable), NOW),
        ("slow_down", (NOW, Session, Usable), NOW),
        ("brand_new", (few, Session, Usable), few),
    ] {
        let body = json!({ "error": error });
        assert_eq!(refused(BoundRefreshToken, &body), on_refresh, "{error}");
        let (decision, _, state) = refused(TokenExchange, &body);
        assert_eq!((decision, state), (at_submission, Usable), "{error}");
    }
    // Entra's words mean nothing elsewhere, and Auth0 answers 403.
    let body = json!({"error": "invalid_grant", "suberror": "consent_required", "claims": CLAIMS});
    let verdict = decide(BoundRefreshToken, &outcome(403, None, body));
    assert_eq!((verdict.decision, verdict.refresh_token), (REVOKED, Dead));
}

#[test]
fn every_suberror_has_its_decision() {
    for (suberror, decision, state) in [
        ("basic_action", INTERACTION, Usable),
        ("additional_action", INTERACTION, Usable),
        ("consent_required", CONSENT, Usable),
        ("message_only", SuspendForAdministrator, Usable),
        ("user_password_expired", INTERACTION, Usable),
        ("bad_token", REVOKED, Dead),
        ("token_expired", INTERACTION, Usable),
        ("client_mismatch", Permanent, Dead),
        ("protection_policy_required", Permanent, Usable),
        ("device_authentication_failed", SuspendForAdministrator, Usable),
        ("BASIC_Action", INTERACTION, Usable),
    ] {
        let body = json!({"error": "invalid_grant", "suberror": suberror});
        assert_eq!(refused(RefreshToken, &body), (decision, Session, state), "{suberror}");
        let at_submission = if decision == REVOKED { RejectAssertion } else { decision };
        assert_eq!(refused(JwtBearer, &body), (at_submission, Session, Usable), "{suberror}");
    }
    let body = json!({"error": "invalid_grant", "suberror": "from_the_future"});
    assert_eq!(refused(RefreshToken, &body), (REVOKED, Session, Doubtful));
    let body = json!({
        "error": "invalid_grant", "suberror": "consent_required", "error_codes": [90094],
    });
    assert_eq!(refused(RefreshToken, &body).0, SuspendForAdministrator);
}

#[test]
fn numbers_about_tokens_refine_by_grant() {
    let gone = [50_173, 70_008, 700_082, 700_084, 70_000, 50_089, 50_132, 50_133];
    let rows: [(&[u32], Decision, (Decision, RefreshTokenState)); 4] = [
        (&[50_013, 500_133, 500_131, 240_002], RejectAssertion, (REVOKED, Doubtful)),
        (&[50_027], RejectAssertion, (Operator, Usable)),
        (&[7_000_114, 90_083], ForbiddenCaller, (Operator, Usable)),
        (&gone, RejectAssertion, (REVOKED, Dead)),
    ];
    for (codes, at_submission, on_refresh) in rows {
        for code in codes {
            let body = json!({"error": "invalid_grant", "error_codes": [code]});
            assert_eq!(refused(JwtBearer, &body), (at_submission, Session, Usable));
            let (decision, _, state) = refused(RefreshToken, &body);
            assert_eq!((decision, state), on_refresh, "{code}");
        }
    }
}

#[track_caller]
fn refine(codes: &[u32], expected: (Decision, Gate, RefreshTokenState)) {
    for code in codes {
        let body = json!({"error": "invalid_grant", "error_codes": [code]});
        assert_eq!(refused(RefreshToken, &body), expected, "{code}");
        assert_eq!(refused(JwtBearer, &body), (expected.0, expected.1, Usable), "{code}");
    }
}

#[test]
fn numbers_about_the_user_refine_alike() {
    refine(&[65_001, 65_004], (CONSENT, Session, Usable));
    let administrator = [
        90_094, 90_095, 90_093, 90_097, 90_099, 50_105, 50_131, 700_003, 53_003, 53_004, 53_011,
        530_032, 530_035,
    ];
    refine(&administrator, (SuspendForAdministrator, Session, Usable));
    let interaction = [
        50_076, 50_079, 50_072, 50_074, 50_078, 50_158, 50_055, 50_144, 50_058, 16_000, 700_020,
        53_000, 53_001, 530_003, 70_043,
    ];
    refine(&interaction, (INTERACTION, Session, Usable));
    let unknown = [50_034, 51_004, 50_014, 50_020, 90_072, 500_207];
    refine(&unknown, (Permanent, Session, Usable));
    refine(&[50_057], (Permanent, Session, Dead));
}

#[test]
fn numbers_about_configuration_and_provider_refine_alike() {
    let api = [
        650_052, 650_053, 650_054, 650_055, 650_056, 650_057, 65_005, 70_011, 28_002, 28_003,
        700_023, 28_000, 700_022, 500_011,
    ];
    refine(&api, (Operator, TenantAndApi, Usable));
    let authority = [50_194, 9_001_023, 90_124, 90_038, 900_382, 900_432, 90_086];
    refine(&authority, (Operator, Session, Usable));
    let credential = [
        50_012, 7_000_215, 7_000_222, 7_000_218, 70_002, 700_025, 700_016, 70_001, 7_000_112,
        700_011, 700_027, 7_000_214, 1_000_502, 7_000_274, 7_000_277, 700_024, 700_211, 700_212,
        700_213,
    ];
    refine(&credential, (Operator, Session, Usable));
    let transient = [50_033, 90_006, 90_012, 90_024, 90_033, 90_090, 50_087, 90_055, 51_005];
    refine(&transient, (NOW, Session, Usable));

    let body = json!({"error": "invalid_grant", "error_codes": [1, 50196]});
    assert_eq!(refused(RefreshToken, &body), (RetrySlow, Session, Usable));
    let body = json!({"error": "unsupported_grant_type", "error_description": "AADB2C90086: no"});
    assert_eq!(refused(RefreshToken, &body).0, Operator);
}

#[test]
fn a_number_never_overrules_a_refused_client() {
    for code in [65_001, 50_173, 90_094, 7_000_215, 50_013] {
        let body = json!({"error": "invalid_client", "error_codes": [code]});
        assert_eq!(refused(RefreshToken, &body), (Operator, ClientAndTenant, Usable), "{code}");
    }
    let body = json!({"error": "invalid_client", "error_codes": [650_052]});
    assert_eq!(refused(RefreshToken, &body), (Operator, TenantAndApi, Usable));
}

#[test]
fn claims_ask_the_user_unless_only_an_administrator_can_help() {
    let with =
        |suberror: &str| json!({"error": "invalid_grant", "suberror": suberror, "claims": CLAIMS});
    assert_eq!(refused(JwtBearer, &with("")), (INTERACTION, Session, Usable));
    assert_eq!(refused(RefreshToken, &with("")), (INTERACTION, Session, Usable));
    assert_eq!(refused(RefreshToken, &with("device_authentication_failed")).0, INTERACTION);
    assert_eq!(refused(RefreshToken, &with("message_only")).0, SuspendForAdministrator);
    assert_eq!(refused(RefreshToken, &with("bad_token")), (REVOKED, Session, Dead));
}

/// What an answer is taken for: at submission, and on refresh.
#[track_caller]
fn taken_for(
    answer: &Outcome,
    at_submission: Decision,
    on_refresh: (Decision, Gate, RefreshTokenState),
) {
    let verdict = decide(RefreshToken, answer);
    assert_eq!((verdict.decision, verdict.gate, verdict.refresh_token), on_refresh);
    let verdict = decide(JwtBearer, answer);
    assert_eq!((verdict.decision, verdict.refresh_token), (at_submission, Usable));
}

fn bad(error: &str, suberror: &str, code: u32) -> Outcome {
    outcome(400, None, json!({"error": error, "suberror": suberror, "error_codes": [code]}))
}

#[test]
fn known_answers_about_the_user_are_decided_as_agreed() {
    let challenge = |error: &str, code: u32| {
        let suberror = "basic_action";
        let codes = [code];
        json!({"error": error, "suberror": suberror, "error_codes": codes, "claims": CLAIMS})
    };
    let multi_factor = outcome(400, None, challenge("invalid_grant", 50_076));
    let enrolment = outcome(400, None, challenge("interaction_required", 50_079));
    let interaction = (INTERACTION, Session, Usable);
    let administrator = (SuspendForAdministrator, Session, Usable);
    let grant = |suberror, code| bad("invalid_grant", suberror, code);

    taken_for(&grant("", 500_133), RejectAssertion, (REVOKED, Session, Doubtful));
    taken_for(&grant("", 50_013), RejectAssertion, (REVOKED, Session, Doubtful));
    taken_for(&grant("consent_required", 65_001), CONSENT, (CONSENT, Session, Usable));
    taken_for(&multi_factor, INTERACTION, interaction);
    taken_for(&enrolment, INTERACTION, interaction);
    taken_for(&grant("message_only", 53_003), SuspendForAdministrator, administrator);
    for code in [700_082, 70_008, 50_173] {
        taken_for(&grant("bad_token", code), RejectAssertion, (REVOKED, Session, Dead));
    }
    taken_for(&grant("token_expired", 70_043), INTERACTION, interaction);
    let sign_in_frequency = bad("interaction_required", "token_expired", 70_043);
    taken_for(&sign_in_frequency, INTERACTION, interaction);
    taken_for(&grant("client_mismatch", 0), Permanent, (Permanent, Session, Dead));
    taken_for(&grant("", 50_196), RetrySlow, (RetrySlow, Session, Usable));
}

#[test]
fn known_answers_about_configuration_and_provider_are_decided_as_agreed() {
    let permanent = (Permanent, Session, Usable);
    for code in [7_000_215, 7_000_222, 700_027, 700_024] {
        let client = bad("invalid_client", "", code);
        taken_for(&client, Operator, (Operator, ClientAndTenant, Usable));
    }
    let application = bad("unauthorized_client", "", 7_000_114);
    taken_for(&application, ForbiddenCaller, (Operator, Session, Usable));
    let client = bad("unauthorized_client", "", 700_016);
    taken_for(&client, Operator, (Operator, Session, Usable));
    // Scopes and resources are the operator's, so these wait instead of failing.
    for (error, code) in [
        ("invalid_scope", 70_011),
        ("invalid_grant", 70_011),
        ("invalid_scope", 28_000),
        ("invalid_scope", 700_022),
        ("invalid_resource", 500_011),
    ] {
        taken_for(&bad(error, "", code), Operator, (Operator, TenantAndApi, Usable));
    }
    // No caller chooses the tenant or the form of the request.
    for code in [90_002, 50_059, 90_014, 900_144, 900_023] {
        taken_for(&bad("invalid_request", "", code), Operator, permanent);
        taken_for(&bad("invalid_grant", "", code), Operator, permanent);
    }
    taken_for(&bad("invalid_request", "", 240_002), RejectAssertion, permanent);

    let after = |seconds| Retry { after: Some(Duration::from_secs(seconds)) };
    let busy = outcome(503, Some(30), json!({"error": "temporarily_unavailable"}));
    taken_for(&busy, after(30), (after(30), Session, Usable));
    let throttled = outcome(429, Some(60), Value::Null);
    taken_for(&throttled, after(60), (after(60), ClientAndTenant, Usable));
    taken_for(&outcome(502, None, Value::Null), NOW, (NOW, Session, Usable));
    let few = RetryFew { then: LastResort::Operator };
    taken_for(&outcome(200, None, Value::Null), few, (few, Session, Usable));
}

#[test]
fn what_never_answered_is_tried_again_and_a_missing_endpoint_is_the_operators() {
    for outcome in [Outcome::NotSent, Outcome::NoAnswer] {
        assert_eq!(decide(RefreshToken, &outcome), Verdict::of(NOW));
    }
    for (status, decision) in [
        (404, Operator),
        (408, NOW),
        (500, NOW),
        (302, RetryFew { then: LastResort::Operator }),
        (400, RetryFew { then: LastResort::Operator }),
    ] {
        let verdict = decide(RefreshToken, &outcome(status, None, Value::Null));
        assert_eq!(verdict.decision, decision, "{status}");
    }
}

#[test]
fn a_refresh_token_counts_as_presented_unless_it_surely_was_not() {
    let error = json!({"error": "server_error"});
    for (outcome, presented) in [
        (Outcome::NotSent, Presented::NotProcessed),
        (Outcome::NoAnswer, Presented::Unanswered),
        (outcome(429, None, Value::Null), Presented::NotProcessed),
        (outcome(503, None, error.clone()), Presented::NotProcessed),
        (outcome(500, None, error.clone()), Presented::Unanswered),
        (outcome(502, None, Value::Null), Presented::Unanswered),
        (outcome(200, None, Value::Null), Presented::Unanswered),
        (outcome(400, None, error), Presented::Answered),
        (outcome(404, None, Value::Null), Presented::Answered),
    ] {
        assert_eq!(outcome.presented(), presented, "{outcome:?}");
    }
}

#[test]
fn troubleshooting_knows_every_number_and_no_other() {
    let page = include_str!("../../../../docs/troubleshooting.md");
    let section = page.split("\n## ").find(|section| section.starts_with("AADSTS codes")).unwrap();
    let mut explained = BTreeSet::new();
    for row in
        section.lines().filter(|line| line.starts_with("| ") && line.contains(char::is_numeric))
    {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [codes, means, does, remedy] = cells[..] else { panic!("four cells: {row}") };
        assert!(![means, does, remedy].contains(&""), "{row}");
        let codes: Vec<u32> = codes.split(", ").map(|code| code.parse().unwrap()).collect();
        let verdicts = |code: &u32| {
            let body = json!({"error": "invalid_grant", "error_codes": [code]});
            [refused(JwtBearer, &body), refused(RefreshToken, &body)]
        };
        for code in &codes {
            assert_eq!(verdicts(code), verdicts(&codes[0]), "in one row, and not alike: {row}");
            assert!(explained.insert(*code), "{code} is explained twice");
        }
    }
    // No number of Entra's has more digits.
    let known = (0..10_000_000).filter(|code| CodeMeaning::of(*code).is_some());
    assert_eq!(explained, known.chain([50_196]).collect());
}

#[test]
fn troubleshooting_knows_every_reason_and_every_problem() {
    let page = include_str!("../../../../docs/troubleshooting.md");
    let problems = include_str!("../../../../docs/problems.md");
    let reasons = [
        ConsentRequired,
        InteractionRequired,
        SessionRevoked,
        SuspensionReason::AdminActionRequired,
    ];
    let (answers, suspensions) = page.split_once("## A job is suspended").unwrap();
    for reason in reasons {
        assert!(suspensions.contains(&format!("| `{}` |", reason.as_str())), "{reason:?}");
    }
    for name in problems.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(answers.contains(&format!("`{name}`")), "{name}");
    }
}
