use serde_json::{Value, json};

use super::{
    Decision::{
        ForbiddenCaller, Operator, Permanent, RejectAssertion, Retry, RetryFew, RetrySlow,
        SuspendForAdministrator, SuspendForUser,
    },
    FailedGrant::{JwtBearer, RefreshToken},
    Gate::{ClientAndTenant, Session, TenantAndApi},
    RefreshTokenState::{Dead, Doubtful, Usable},
    SuspensionReason::{ConsentRequired, InteractionRequired, SessionRevoked},
    *,
};

const CLAIMS: &str = r#"{"access_token":{"capolids":{"essential":true,"values":["c1"]}}}"#;
const NOW: Decision = Retry { after: None };
const INTERACTION: Decision = SuspendForUser {
    reason: InteractionRequired,
};
const CONSENT: Decision = SuspendForUser {
    reason: ConsentRequired,
};
const REVOKED: Decision = SuspendForUser {
    reason: SessionRevoked,
};

fn outcome(status: u16, retry_after: Option<u64>, body: Value) -> Outcome {
    Outcome::Answer {
        status,
        retry_after: retry_after.map(Duration::from_secs),
        error: serde_json::from_value(body).ok(),
    }
}

#[track_caller]
fn refused(grant: FailedGrant, body: Value) -> (Decision, Gate, RefreshTokenState) {
    let text = body.to_string();
    let verdict = decide(grant, &outcome(400, None, body));
    println!("{grant:?} {text} {verdict:?}");
    (verdict.decision, verdict.gate, verdict.refresh_token)
}

#[test]
fn every_error_has_its_decision() {
    for (error, on_refresh, at_submission) in [
        (
            "invalid_grant",
            (REVOKED, Session, Doubtful),
            RejectAssertion,
        ),
        (
            "interaction_required",
            (INTERACTION, Session, Usable),
            INTERACTION,
        ),
        (
            "login_required",
            (INTERACTION, Session, Usable),
            INTERACTION,
        ),
        ("consent_required", (CONSENT, Session, Usable), CONSENT),
        (
            "invalid_client",
            (Operator, ClientAndTenant, Usable),
            Operator,
        ),
        ("unauthorized_client", (Operator, Session, Usable), Operator),
        ("invalid_scope", (Operator, TenantAndApi, Usable), Operator),
        (
            "invalid_resource",
            (Operator, TenantAndApi, Usable),
            Operator,
        ),
        ("invalid_target", (Operator, TenantAndApi, Usable), Operator),
        ("invalid_request", (Permanent, Session, Usable), Permanent),
        (
            "unsupported_grant_type",
            (Permanent, Session, Usable),
            Permanent,
        ),
        ("access_denied", (CONSENT, Session, Usable), CONSENT),
        ("temporarily_unavailable", (NOW, Session, Usable), NOW),
        ("server_error", (NOW, Session, Usable), NOW),
        ("request_timeout", (NOW, Session, Usable), NOW),
        ("slow_down", (NOW, Session, Usable), NOW),
        ("request_throttled", (NOW, Session, Usable), NOW),
        (
            "Invalid_Client",
            (Operator, ClientAndTenant, Usable),
            Operator,
        ),
    ] {
        assert_eq!(
            refused(RefreshToken, json!({ "error": error })),
            on_refresh,
            "{error}"
        );
        let (decision, gate, state) = refused(JwtBearer, json!({ "error": error }));
        assert_eq!(
            (decision, gate, state),
            (at_submission, on_refresh.1, Usable),
            "{error}"
        );
    }
    let few = RetryFew {
        then: LastResort::Permanent,
    };
    assert_eq!(
        refused(RefreshToken, json!({"error": "brand_new"})),
        (few, Session, Usable)
    );
    assert_eq!(
        refused(
            RefreshToken,
            json!({"error": "interaction_required", "suberror": "message_only"})
        ),
        (SuspendForAdministrator, Session, Usable)
    );
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
        (
            "device_authentication_failed",
            SuspendForAdministrator,
            Usable,
        ),
        ("BASIC_Action", INTERACTION, Usable),
    ] {
        let body = json!({"error": "invalid_grant", "suberror": suberror});
        assert_eq!(
            refused(RefreshToken, body.clone()),
            (decision, Session, state),
            "{suberror}"
        );
        let at_submission = if decision == REVOKED {
            RejectAssertion
        } else {
            decision
        };
        assert_eq!(
            refused(JwtBearer, body),
            (at_submission, Session, Usable),
            "{suberror}"
        );
    }
    let body = json!({"error": "invalid_grant", "suberror": "from_the_future"});
    assert_eq!(refused(RefreshToken, body), (REVOKED, Session, Doubtful));
    let body = json!({
        "error": "invalid_grant", "suberror": "consent_required", "error_codes": [90094],
    });
    assert_eq!(refused(RefreshToken, body).0, SuspendForAdministrator);
}

#[test]
fn every_number_refines_as_written() {
    let by_grant: [(&[u32], Decision, (Decision, RefreshTokenState)); 4] = [
        (
            &[50_013, 500_133, 500_131, 240_002],
            RejectAssertion,
            (REVOKED, Doubtful),
        ),
        (&[50_027], RejectAssertion, (Operator, Usable)),
        (&[7_000_114, 90_083], ForbiddenCaller, (Operator, Usable)),
        // Refresh token gone.
        (
            &[
                50_173, 70_008, 700_082, 700_084, 70_000, 50_089, 50_132, 50_133,
            ],
            RejectAssertion,
            (REVOKED, Dead),
        ),
    ];
    for (codes, at_submission, on_refresh) in by_grant {
        for code in codes {
            let body = json!({"error": "invalid_grant", "error_codes": [code]});
            assert_eq!(
                refused(JwtBearer, body.clone()),
                (at_submission, Session, Usable)
            );
            let (decision, _, state) = refused(RefreshToken, body);
            assert_eq!((decision, state), on_refresh, "{code}");
        }
    }
    let alike: [(&[u32], Decision, Gate, RefreshTokenState); 11] = [
        (&[50_012], Operator, Session, Usable),
        (&[65_001, 65_004], CONSENT, Session, Usable),
        (
            &[90_094, 90_095, 90_093, 90_097, 90_099, 50_105],
            SuspendForAdministrator,
            Session,
            Usable,
        ),
        (
            &[
                650_052, 650_053, 650_054, 650_055, 650_056, 650_057, 65_005, 70_011, 28_002,
                28_003, 700_023, 28_000, 700_022, 500_011,
            ],
            Operator,
            TenantAndApi,
            Usable,
        ),
        (
            &[
                90_002, 50_059, 90_014, 900_144, 900_023, 500_207, 50_034, 51_004, 50_014, 50_020,
                90_072,
            ],
            Permanent,
            Session,
            Usable,
        ),
        (
            &[50_194, 9_001_023, 90_124, 90_038, 900_382, 900_432, 90_086],
            Operator,
            Session,
            Usable,
        ),
        (
            &[
                7_000_215, 7_000_222, 7_000_218, 70_002, 700_025, 700_016, 70_001, 7_000_112,
                700_011, 700_027, 7_000_214, 1_000_502, 7_000_274, 7_000_277, 700_024, 700_211,
                700_212, 700_213,
            ],
            Operator,
            Session,
            Usable,
        ),
        (
            &[
                50_076, 50_079, 50_072, 50_074, 50_078, 50_158, 50_055, 50_144, 50_058, 16_000,
                700_020, 53_000, 53_001, 530_003, 70_043,
            ],
            INTERACTION,
            Session,
            Usable,
        ),
        (
            &[50_131, 700_003, 53_003, 53_004, 53_011, 530_032, 530_035],
            SuspendForAdministrator,
            Session,
            Usable,
        ),
        (&[50_057], Permanent, Session, Dead),
        (
            &[
                50_033, 90_006, 90_012, 90_024, 90_033, 90_090, 50_087, 90_055, 51_005,
            ],
            NOW,
            Session,
            Usable,
        ),
    ];
    for (codes, decision, gate, state) in alike {
        for code in codes {
            let body = json!({"error": "invalid_grant", "error_codes": [code]});
            assert_eq!(
                refused(RefreshToken, body.clone()),
                (decision, gate, state),
                "{code}"
            );
            assert_eq!(refused(JwtBearer, body), (decision, gate, Usable), "{code}");
        }
    }
    let body = json!({"error": "invalid_grant", "error_codes": [1, 50196]});
    assert_eq!(refused(RefreshToken, body), (RetrySlow, Session, Usable));
    let body = json!({"error": "unsupported_grant_type", "error_description": "AADB2C90086: no"});
    assert_eq!(refused(RefreshToken, body).0, Operator);
}

#[test]
fn a_number_never_overrules_a_refused_client() {
    for code in [65_001, 50_173, 90_094, 7_000_215, 50_013] {
        let body = json!({"error": "invalid_client", "error_codes": [code]});
        assert_eq!(
            refused(RefreshToken, body),
            (Operator, ClientAndTenant, Usable),
            "{code}"
        );
    }
    let body = json!({"error": "invalid_client", "error_codes": [650_052]});
    assert_eq!(
        refused(RefreshToken, body),
        (Operator, TenantAndApi, Usable)
    );
}

#[test]
fn claims_ask_the_user_unless_only_an_administrator_can_help() {
    let with =
        |suberror: &str| json!({"error": "invalid_grant", "suberror": suberror, "claims": CLAIMS});
    assert_eq!(refused(JwtBearer, with("")), (INTERACTION, Session, Usable));
    assert_eq!(
        refused(RefreshToken, with("")),
        (INTERACTION, Session, Usable)
    );
    assert_eq!(
        refused(RefreshToken, with("device_authentication_failed")).0,
        INTERACTION
    );
    assert_eq!(
        refused(RefreshToken, with("message_only")).0,
        SuspendForAdministrator
    );
    assert_eq!(
        refused(RefreshToken, with("bad_token")),
        (REVOKED, Session, Dead)
    );
}

/// The bad answers of appendix A, in its order: at submission and on refresh.
#[test]
fn every_known_answer_is_decided_as_agreed() {
    let grant = |suberror: &str, code: u32| json!({"error": "invalid_grant", "suberror": suberror, "error_codes": [code]});
    let plain = |error: &str, code: u32| json!({"error": error, "error_codes": [code]});
    let challenge = |error: &str, code: u32| {
        json!({
            "error": error, "suberror": "basic_action", "error_codes": [code], "claims": CLAIMS,
        })
    };
    let r#in = |seconds| Retry {
        after: Some(Duration::from_secs(seconds)),
    };
    let few = RetryFew {
        then: LastResort::Operator,
    };
    let rows: Vec<(u8, Outcome, Decision, (Decision, Gate, RefreshTokenState))> = vec![
        (
            1,
            outcome(400, None, plain("invalid_grant", 500_133)),
            RejectAssertion,
            (REVOKED, Session, Doubtful),
        ),
        (
            2,
            outcome(400, None, plain("invalid_grant", 50_013)),
            RejectAssertion,
            (REVOKED, Session, Doubtful),
        ),
        (
            3,
            outcome(400, None, grant("consent_required", 65_001)),
            CONSENT,
            (CONSENT, Session, Usable),
        ),
        (
            4,
            outcome(400, None, challenge("invalid_grant", 50_076)),
            INTERACTION,
            (INTERACTION, Session, Usable),
        ),
        (
            5,
            outcome(400, None, challenge("interaction_required", 50_079)),
            INTERACTION,
            (INTERACTION, Session, Usable),
        ),
        (
            6,
            outcome(400, None, grant("message_only", 53_003)),
            SuspendForAdministrator,
            (SuspendForAdministrator, Session, Usable),
        ),
        (
            7,
            outcome(400, None, grant("bad_token", 700_082)),
            RejectAssertion,
            (REVOKED, Session, Dead),
        ),
        (
            7,
            outcome(400, None, grant("bad_token", 50_173)),
            RejectAssertion,
            (REVOKED, Session, Dead),
        ),
        (
            8,
            outcome(400, None, grant("token_expired", 70_043)),
            INTERACTION,
            (INTERACTION, Session, Usable),
        ),
        (
            8,
            outcome(
                400,
                None,
                json!({"error": "interaction_required", "suberror": "token_expired"}),
            ),
            INTERACTION,
            (INTERACTION, Session, Usable),
        ),
        (
            9,
            outcome(
                400,
                None,
                json!({"error": "invalid_grant", "suberror": "client_mismatch"}),
            ),
            Permanent,
            (Permanent, Session, Dead),
        ),
        (
            10,
            outcome(400, None, plain("invalid_grant", 50_196)),
            RetrySlow,
            (RetrySlow, Session, Usable),
        ),
        (
            11,
            outcome(401, None, plain("invalid_client", 7_000_215)),
            Operator,
            (Operator, ClientAndTenant, Usable),
        ),
        (
            12,
            outcome(401, None, plain("invalid_client", 700_027)),
            Operator,
            (Operator, ClientAndTenant, Usable),
        ),
        (
            13,
            outcome(400, None, plain("unauthorized_client", 700_016)),
            Operator,
            (Operator, Session, Usable),
        ),
        (
            13,
            outcome(400, None, plain("unauthorized_client", 7_000_114)),
            ForbiddenCaller,
            (Operator, Session, Usable),
        ),
        // Scopes and resources are the operator's, so these wait instead of failing.
        (
            14,
            outcome(400, None, plain("invalid_scope", 70_011)),
            Operator,
            (Operator, TenantAndApi, Usable),
        ),
        (
            14,
            outcome(400, None, plain("invalid_grant", 28_000)),
            Operator,
            (Operator, TenantAndApi, Usable),
        ),
        (
            15,
            outcome(400, None, plain("invalid_resource", 500_011)),
            Operator,
            (Operator, TenantAndApi, Usable),
        ),
        (
            16,
            outcome(400, None, plain("invalid_request", 90_002)),
            Permanent,
            (Permanent, Session, Usable),
        ),
        (
            16,
            outcome(400, None, plain("invalid_request", 900_144)),
            Permanent,
            (Permanent, Session, Usable),
        ),
        (
            16,
            outcome(400, None, plain("invalid_request", 240_002)),
            RejectAssertion,
            (Permanent, Session, Usable),
        ),
        (
            17,
            outcome(503, Some(30), plain("temporarily_unavailable", 90_033)),
            r#in(30),
            (r#in(30), Session, Usable),
        ),
        (
            18,
            outcome(429, Some(60), Value::Null),
            r#in(60),
            (r#in(60), ClientAndTenant, Usable),
        ),
        (
            19,
            outcome(502, None, Value::Null),
            NOW,
            (NOW, Session, Usable),
        ),
        (
            20,
            outcome(200, None, Value::Null),
            few,
            (few, Session, Usable),
        ),
    ];
    for (number, outcome, at_submission, on_refresh) in rows {
        let verdict = decide(RefreshToken, &outcome);
        let found = (verdict.decision, verdict.gate, verdict.refresh_token);
        assert_eq!(found, on_refresh, "row {number} on refresh");
        let verdict = decide(JwtBearer, &outcome);
        assert_eq!(
            verdict.decision, at_submission,
            "row {number} at submission"
        );
        assert_eq!(verdict.refresh_token, Usable, "row {number} at submission");
    }
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
        (
            302,
            RetryFew {
                then: LastResort::Operator,
            },
        ),
        (
            400,
            RetryFew {
                then: LastResort::Operator,
            },
        ),
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
