//! Entra's errors by number, in the shape in which it sends them.

use errand_simulator::Simulator;
use errand_tests::{Database, TestApp};

use super::{
    Consequence::{self, Faults, FaultsAndRevokes, Revoked, Suspends, Waits},
    Failure,
    Refusal::{self, Administrator, Caller, Claims, Consent, Operator, SignIn, Token, Unavailable},
    assert_consequence_in_worker, assert_refused_at_submission, settings, start_in_one_process,
};

on_both_databases! {
    every_number_is_told_to_the_submitter_as_what_there_is_to_do
    every_number_has_its_consequence_in_the_worker
}

/// Numbers that mean the same.
type Row = (&'static [u32], Refusal, Consequence);

#[rustfmt::skip] // as a table
static CODES: &[Row] = &[
    // The user's token. Without one in the request only an operator can make sense of it.
    (&[50013, 500_131, 500_133], Token, Waits(60)),
    (&[50027], Token, Waits(60)),
    (&[240_002], Token, Faults),
    (&[7_000_114, 90083], Caller, Waits(60)),
    // Consent.
    (&[65001, 65004], Consent, Suspends("consent_required")),
    (&[90093, 90094, 90095, 90097, 90099, 50105], Administrator, Suspends("admin_action_required")),
    // The user must act.
    (&[50072, 50074, 50076, 50078, 50079, 50158], Claims, Suspends("interaction_required")),
    (&[50055, 50144, 50058, 16000, 700_020, 53001, 530_003, 70043], SignIn, Suspends("interaction_required")),
    (&[53000, 53003, 53004, 53011, 530_032, 530_035], Administrator, Suspends("admin_action_required")),
    (&[50131, 700_003], Administrator, Suspends("admin_action_required")),
    (&[50057], Caller, FaultsAndRevokes),
    (&[50014, 50020, 50034, 51004, 90072], Caller, Faults),
    // The refresh token.
    (&[50173, 70000, 70008, 700_082, 700_084, 50089, 50132, 50133], Token, Revoked),
    // The client.
    (&[700_016, 700_021, 700_023, 700_027, 7_000_215, 7_000_218, 7_000_222], Operator, Waits(60)),
    (&[50012, 70001, 70002, 700_011, 700_025, 7_000_112], Operator, Waits(60)),
    (&[700_211, 700_212, 700_213, 1_000_502, 7_000_214, 7_000_274, 7_000_277], Operator, Waits(60)),
    // Scopes, resources, tenants, requests.
    (&[28000, 28002, 28003, 70011, 700_022, 500_011], Operator, Waits(60)),
    (&[65005, 650_052, 650_053, 650_054, 650_055, 650_056, 650_057], Operator, Waits(60)),
    (&[50194, 90038, 90086, 90124, 900_382, 900_432, 9_001_023], Operator, Waits(60)),
    // Nothing that a caller chose.
    (&[70003, 50059, 90002, 90014, 900_023, 900_144, 9_002_313], Operator, Faults),
    (&[500_207], Caller, Faults),
    // The service.
    (&[50196], Unavailable { retry_after: 300 }, Waits(300)),
    (&[50033, 51005, 90024, 90033, 90055], Unavailable { retry_after: 30 }, Waits(30)),
    (&[50087, 90006, 90012, 90090], Unavailable { retry_after: 5 }, Waits(2)),
    // One that nobody knows.
    (&[99999], Token, Waits(60)),
];

fn failures(simulator: &Simulator) -> Vec<Failure> {
    let rows = CODES.iter().flat_map(|row| row.0.iter().map(move |code| (code, row.1, row.2)));
    // Signed anew once: its time may have been over.
    let window =
        Failure::new("code-700024".into(), simulator.entra_error(700_024), Operator, Waits(60));
    let rows = rows.map(|(code, at_submission, in_worker)| {
        let answer = simulator.entra_error(*code);
        Failure::new(format!("code-{code}"), answer, at_submission, in_worker)
    });
    rows.chain([window.asked(2, 2)]).collect()
}

async fn every_number_is_told_to_the_submitter_as_what_there_is_to_do(database: Database) {
    let app = TestApp::start_with(database, settings()).await;
    assert_refused_at_submission(&app, &failures(&app.simulator)).await;
    app.finish().await;
}

async fn every_number_has_its_consequence_in_the_worker(database: Database) {
    let app = start_in_one_process(database, settings()).await;
    assert_consequence_in_worker(&app, &failures(&app.simulator)).await;
    app.finish().await;
}
