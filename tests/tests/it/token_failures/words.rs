//! Every `error` and `suberror`, with no number to refine it.

use errand_tests::{Database, TestApp};

use super::{
    Consequence::{Faults, FaultsAndRevokes, Revoked, Suspends, Waits},
    Failure,
    Refusal::{Administrator, Caller, Consent, Operator, SignIn, Token, Unavailable},
    assert_consequence_in_worker, assert_refused_at_submission,
    fixtures::error,
    settings, start_in_one_process,
};

on_both_databases! {
    every_word_is_told_to_the_submitter_as_what_there_is_to_do
    every_word_has_its_consequence_in_the_worker
}

#[rustfmt::skip] // as a table
fn words() -> Vec<Failure> {
    let word = |word: &str, at_submission, in_worker| {
        Failure::new(format!("error-{word}"), error(word, "", 0), at_submission, in_worker)
    };
    let suberror = |word: &str, at_submission, in_worker| {
        Failure::new(format!("suberror-{word}"), error("invalid_grant", word, 0), at_submission, in_worker)
    };
    let busy = Unavailable { retry_after: 5 };
    vec![
        // Believed when it comes a second time, a minute later.
        word("invalid_grant", Token, Waits(60)),
        word("interaction_required", SignIn, Suspends("interaction_required")),
        word("login_required", SignIn, Suspends("interaction_required")),
        word("consent_required", Consent, Suspends("consent_required")),
        word("access_denied", Consent, Suspends("consent_required")),
        word("invalid_client", Operator, Waits(60)),
        word("unauthorized_client", Operator, Waits(60)),
        word("invalid_scope", Operator, Waits(60)),
        word("invalid_resource", Operator, Waits(60)),
        word("invalid_target", Operator, Waits(60)),
        word("invalid_request", Caller, Faults),
        word("unsupported_grant_type", Caller, Faults),
        word("temporarily_unavailable", busy, Waits(2)),
        word("server_error", busy, Waits(2)),
        word("request_timeout", busy, Waits(2)),
        word("slow_down", busy, Waits(2)),
        word("request_throttled", busy, Waits(2)),
        word("from_the_future", busy, Waits(60)),
        suberror("basic_action", SignIn, Suspends("interaction_required")),
        suberror("additional_action", SignIn, Suspends("interaction_required")),
        suberror("consent_required", Consent, Suspends("consent_required")),
        suberror("message_only", Administrator, Suspends("admin_action_required")),
        suberror("user_password_expired", SignIn, Suspends("interaction_required")),
        suberror("bad_token", Token, Revoked),
        suberror("token_expired", SignIn, Suspends("interaction_required")),
        suberror("client_mismatch", Caller, FaultsAndRevokes),
        suberror("protection_policy_required", Caller, Faults),
        suberror("device_authentication_failed", Administrator, Suspends("admin_action_required")),
        suberror("from_the_future", Token, Waits(60)),
    ]
}

async fn every_word_is_told_to_the_submitter_as_what_there_is_to_do(database: Database) {
    let app = TestApp::start_with(database, settings()).await;
    assert_refused_at_submission(&app, &words()).await;
    app.finish().await;
}

async fn every_word_has_its_consequence_in_the_worker(database: Database) {
    let app = start_in_one_process(database, settings()).await;
    assert_consequence_in_worker(&app, &words()).await;
    app.finish().await;
}
