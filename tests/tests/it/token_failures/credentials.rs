//! Two client credentials, a certificate and the secret after it.

use errand_simulator::{ClientAuthentication, HttpAnswer};
use errand_tests::{Database, Settings, TestApp, workflows};
use serde_json::json;

use super::{
    Consequence::Waits, Failure, Refusal::Operator, assert_consequence_in_worker,
    assert_refused_at_submission, settings, start_in_one_process,
};

on_both_databases! {
    a_certificate_that_is_refused_makes_room_for_the_next_credential
    only_a_certificate_makes_room_and_only_once
}

/// A certificate and its key.
const PAIR: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/src/identity/testdata/client.pem");

fn two_credentials() -> Settings {
    let certificate = format!(
        r#"{{ source_type = "Path", certificate_path = "{PAIR}", private_key_path = "{PAIR}" }}"#
    );
    Settings { first_credential: Some(certificate), ..settings() }
}

async fn a_certificate_that_is_refused_makes_room_for_the_next_credential(database: Database) {
    // The tenant knows no certificate.
    let app = TestApp::start_with(database, two_credentials()).await;
    let alice = app.user("alice");
    let unauthorized = HttpAnswer::text(401, "");
    app.simulator.script_call_answer("GET", "/partner/api/read", unauthorized);
    let definition = workflows::document(&json!([workflows::get("read", "api/read")]));
    let job = alice.submit(&definition).await;
    alice.wait_until(&job, "completed").await;

    let requests = app.simulator.token_requests();
    let seen: Vec<_> = requests
        .iter()
        .map(|request| (request.client_authentication, request.error_code))
        .collect();
    let certificate = (Some(ClientAuthentication::PrivateKeyJwt), Some(700_027));
    let secret = (Some(ClientAuthentication::ClientSecretPost), None);
    assert_eq!(seen, [certificate, secret, certificate, secret], "an exchange, and a refresh");
    app.finish().await;
}

async fn only_a_certificate_makes_room_and_only_once(database: Database) {
    let failures = |app: &TestApp| {
        [700_027, 700_024, 7_000_214, 1_000_502, 7_000_274, 7_000_277]
            .map(|code| (code, 2))
            .into_iter()
            // A wrong secret, an unknown application: the next credential would change nothing.
            .chain([(7_000_215, 1), (7_000_222, 1), (700_016, 1)])
            .map(|(code, asked)| {
                let answer = app.simulator.entra_error(code);
                let failure =
                    Failure::new(format!("credential-{code}"), answer, Operator, Waits(60));
                failure.asked(asked, asked)
            })
            .collect::<Vec<_>>()
    };
    let mut settings = two_credentials();
    settings.simulator.client_certificate = Some(PAIR.into());
    let app = start_in_one_process(database, settings).await;
    let failures = failures(&app);
    assert_refused_at_submission(&app, &failures).await;
    assert_consequence_in_worker(&app, &failures).await;
    app.finish().await;
}
