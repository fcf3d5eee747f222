//! Entra's errors by number, in the shape in which it sends them.

use errand_simulator::Simulator;
use errand_tests::Database;

use super::{
    Consequence::{self, Faults, FaultsAndRevokes, Revoked, Suspends, Waits},
    Failure,
    Refusal::{self, Administrator, Caller, Claims, Consent, Operator, SignIn, Token, Unavailable},
    assert_consequence_in_worker, assert_refused_at_submission, start_api, start_in_one_process,
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
    (&[7_000_114], Caller, Waits(60)),
    // Consent.
    (&[65001, 65004], Consent, Suspends("consent_required")),
    (&[90094, 50105], Administrator, Suspends("admin_action_required")),
    // The user must act.
    (&[50074, 50076, 50079, 50158], Claims, Suspends("interaction_required")),
    (&[50055, 70043], SignIn, Suspends("interaction_required")),
    (&[53000, 53003], Administrator, Suspends("admin_action_required")),
    (&[50057], Caller, FaultsAndRevokes),
    // The refresh token.
    (&[50173, 70000, 70008, 700_082, 700_084], Token, Revoked),
    // The client.
    (&[700_016, 700_021, 700_023, 700_027, 7_000_215, 7_000_218, 7_000_222], Operator, Waits(60)),
    // Scopes, resources, authorities.
    (&[28000, 70011, 700_022, 500_011, 650_057, 50194], Operator, Waits(60)),
    // Requests and tenants: nothing that a caller chose.
    (&[70003, 90002, 900_144, 9_002_313], Operator, Faults),
    // The service.
    (&[50196], Unavailable { retry_after: 300 }, Waits(300)),
    (&[90033], Unavailable { retry_after: 30 }, Waits(30)),
    // One that nobody knows.
    (&[99999], Token, Waits(60)),
];

fn failures(simulator: &Simulator) -> Vec<Failure> {
    let rows = CODES.iter().flat_map(|row| row.0.iter().map(move |code| (code, row.1, row.2)));
    rows.map(|(code, at_submission, in_worker)| {
        let answer = simulator.entra_error(*code);
        Failure::new(format!("code-{code}"), answer, at_submission, in_worker)
    })
    .collect()
}

async fn every_number_is_told_to_the_submitter_as_what_there_is_to_do(database: Database) {
    let app = start_api(database).await;
    assert_refused_at_submission(&app, &failures(&app.simulator)).await;
    app.finish().await;
}

async fn every_number_has_its_consequence_in_the_worker(database: Database) {
    let app = start_in_one_process(database).await;
    assert_consequence_in_worker(&app, &failures(&app.simulator)).await;
    app.finish().await;
}
