use std::{collections::BTreeMap, fmt::Display, path::PathBuf, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{
    super::{
        failure::{Decision, LastResort, Presented, RefreshTokenState},
        test_provider::{self, Scripted, TENANT, TestProvider},
        token_request::MAX_RESPONSE_BYTES,
    },
    *,
};
use crate::{
    config::{
        self, AssertionAlgorithm, CertificateFile, ClientAuthentication, ClientCertificate, KeyId,
        ManagedIdentity, ManagedIdentitySource, RefreshRequest,
    },
    time::{ManualClock, Timestamp},
};

const ASSERTION: &str = "eyJhbGciOiJub25lIn0.e30.caller";
const CAPABILITIES: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;

struct Fixture {
    provider: TestProvider,
    config: IdentityConfig,
    api: DownstreamApi,
}

impl Fixture {
    async fn answering(answers: Vec<Scripted>) -> Self {
        let provider = TestProvider::start().await;
        provider.script(answers);
        let config = test_provider::configuration(provider.instance.clone());
        Self { provider, config, api: test_provider::downstream_api() }
    }

    fn move_to(&mut self, new: Url) {
        match &mut self.config.dialect {
            Dialect::Entra { instance, .. } => *instance = new,
            Dialect::TokenExchange { authority, .. } => *authority = new,
        }
    }

    fn endpoint(&self) -> TokenEndpoint {
        let clock: Arc<ManualClock> = ManualClock::at(now());
        TokenEndpoint::new(&self.config, clock)
    }

    async fn exchange(&self) -> Result<TokenResponse, TokenFailure> {
        let assertion = UserAssertion::new(ASSERTION);
        self.endpoint().exchange(&principal(), &assertion, &self.api).await
    }

    async fn refresh(&self) -> Result<TokenResponse, TokenFailure> {
        let token = RefreshToken::new("refresh-1");
        self.endpoint().refresh(&principal(), &token, &self.api, None).await
    }
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_700_000_000).unwrap()
}

fn principal() -> Principal {
    Principal { tenant: TENANT.to_owned(), subject: "user-1".to_owned() }
}

fn answer(status: u16, body: impl Display) -> Scripted {
    Scripted { status, headers: Vec::new(), body: body.to_string() }
}

fn token() -> Scripted {
    answer(
        200,
        json!({
            "token_type": "Bearer", "expires_in": 3600, "access_token": "downstream",
            "refresh_token": "refresh-2",
        }),
    )
}

fn certificate_refused(code: u32) -> Scripted {
    answer(401, json!({"error": "invalid_client", "error_codes": [code]}))
}

fn form(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn an_exchange_sends_the_callers_token_on_behalf_of_the_user() {
    let mut fixture = Fixture::answering(vec![token()]).await;
    fixture.config.extra_token_parameters = form(&[("audience", "x"), ("grant_type", "mine")]);
    fixture.api.extra_token_parameters = form(&[("audience", "y"), ("resource", " ")]);
    let response = fixture.exchange().await.unwrap();
    assert_eq!(response.access_token.expose(), "downstream");
    assert_eq!(response.expires_at, now() + Duration::from_hours(1));

    let [request] = &fixture.provider.received()[..] else { panic!("one request") };
    assert_eq!(request.path, format!("/{TENANT}/oauth2/v2.0/token"));
    assert_eq!(
        request.form,
        form(&[
            ("assertion", ASSERTION),
            ("audience", "y"),
            ("claims", CAPABILITIES),
            ("client_id", test_provider::CLIENT_ID),
            ("client_info", "1"),
            ("client_secret", "s3cret~value"),
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("requested_token_use", "on_behalf_of"),
            ("scope", "api://partner-api-id/read offline_access openid profile"),
        ])
    );
    assert_eq!(request.headers["accept"], "application/json");
    assert_eq!(request.headers["return-client-request-id"], "true");
    assert_eq!(request.headers["x-anchormailbox"], format!("oid:user-1@{TENANT}"));
    let id = request.headers["client-request-id"].to_str().unwrap();
    assert!(uuid::Uuid::try_parse(id).is_ok());
}

#[tokio::test]
async fn what_an_api_demands_of_its_token_is_added_to_the_capabilities() {
    let fixture = Fixture::answering(vec![token()]).await;
    let demanded = RequestedClaims::from_challenge(r#"{"access_token":{"acrs":{"value":"c1"}}}"#);
    let refresh_token = RefreshToken::new("refresh-1");
    let endpoint = fixture.endpoint();
    endpoint.refresh(&principal(), &refresh_token, &fixture.api, demanded.as_ref()).await.unwrap();
    let [request] = &fixture.provider.received()[..] else { panic!("one request") };
    let claims: serde_json::Value = serde_json::from_str(&request.form["claims"]).unwrap();
    assert_eq!(
        claims,
        json!({ "access_token": { "acrs": { "value": "c1" }, "xms_cc": { "values": ["cp1"] } } })
    );
}

#[tokio::test]
async fn a_refresh_sends_the_refresh_token_and_no_assertion() {
    let mut fixture = Fixture::answering(vec![token()]).await;
    fixture.config.client_authentication = ClientAuthentication::Basic;
    let response = fixture.refresh().await.unwrap();
    assert_eq!(response.refresh_token.unwrap().expose(), "refresh-2");

    let [request] = &fixture.provider.received()[..] else { panic!("one request") };
    assert_eq!(
        request.form,
        form(&[
            ("claims", CAPABILITIES),
            ("client_info", "1"),
            ("grant_type", "refresh_token"),
            ("refresh_token", "refresh-1"),
            ("scope", "api://partner-api-id/read offline_access openid profile"),
        ])
    );
    let basic = STANDARD.encode(format!("{}:s3cret%7Evalue", test_provider::CLIENT_ID));
    assert_eq!(request.headers["authorization"], format!("Basic {basic}"));
}

#[tokio::test]
async fn an_exchange_repeats_a_servers_fault_once_and_a_refresh_never() {
    let fixture = Fixture::answering(vec![answer(502, "<html>"), token()]).await;
    assert!(fixture.exchange().await.is_ok());
    let received = fixture.provider.received();
    let ids: Vec<_> = received.iter().map(|it| &it.headers["client-request-id"]).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);

    let fixture = Fixture::answering(vec![answer(502, "<html>")]).await;
    assert_eq!(fixture.exchange().await.unwrap_err().decision, Decision::Retry { after: None });
    assert_eq!(fixture.provider.received().len(), 2);

    let fixture = Fixture::answering(vec![answer(502, "<html>"), token()]).await;
    let failure = fixture.refresh().await.unwrap_err();
    assert_eq!(failure.presented, Presented::Unanswered);
    assert_eq!(fixture.provider.received().len(), 1);
}

#[tokio::test]
async fn retry_after_forbids_the_quick_repetition() {
    for (header, seconds) in [
        ("30", 30),
        ("0", 1),
        ("86400", 3600),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 1),
    ] {
        let mut busy = answer(503, json!({"error": "temporarily_unavailable"}));
        busy.headers = vec![("retry-after", header.to_owned())];
        let fixture = Fixture::answering(vec![busy, token()]).await;
        let failure = fixture.exchange().await.unwrap_err();
        let after = Some(Duration::from_secs(seconds));
        assert_eq!(failure.decision, Decision::Retry { after }, "{header}");
        assert_eq!(fixture.provider.received().len(), 1);
    }
}

#[tokio::test]
async fn a_refused_certificate_makes_way_for_the_next_credential_once() {
    let secrets = |names: &[&str]| {
        names
            .iter()
            .map(|name| config::ClientCredential::Secret((*name).into()))
            .collect::<Vec<_>>()
    };
    // Number of the answer, credentials, and the secrets that are sent.
    let cases: [(u32, &[&str], &[&str]); 4] = [
        (700_027, &["one", "two", "three"], &["one", "two"]),
        (700_027, &["one"], &["one"]),
        (700_024, &["one"], &["one", "one"]),
        (7_000_215, &["one", "two"], &["one"]),
    ];
    for (code, configured, sent) in cases {
        let mut fixture = Fixture::answering(vec![certificate_refused(code)]).await;
        fixture.config.client_credentials = secrets(configured);
        let failure = fixture.refresh().await.unwrap_err();
        assert_eq!(failure.decision, Decision::Operator);
        assert_eq!(failure.codes, [code]);
        let received = fixture.provider.received();
        let received: Vec<_> = received.iter().map(|it| &it.form["client_secret"]).collect();
        assert_eq!(received, sent);
    }
}

/// Credentials that cannot prove anything, and what names each in the log.
fn unusable() -> [(config::ClientCredential, &'static str); 4] {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = ManagedIdentitySource::AppService {
        endpoint: format!("http://{unused}/").parse().unwrap(),
        header: "canary-3f1c".into(),
    };
    let certificate = |file| {
        let algorithm = AssertionAlgorithm::Ps256;
        config::ClientCredential::Certificate(ClientCertificate {
            key_id: KeyId::Omitted,
            file,
            algorithm,
            send_x5c: false,
        })
    };
    let path = PathBuf::from;
    [
        (
            config::ClientCredential::SignedAssertionFile(path("/nowhere/token")),
            "cannot read /nowhere/token",
        ),
        (
            certificate(CertificateFile::Pem {
                certificate_path: path("/nowhere/client.pem"),
                private_key_path: path("/nowhere/client.pem"),
            }),
            "cannot read /nowhere/client.pem",
        ),
        (
            certificate(CertificateFile::Pkcs12 {
                path: path("/nowhere/client.pfx"),
                password: "canary-3f1c".into(),
            }),
            "cannot read /nowhere/client.pfx",
        ),
        (
            config::ClientCredential::ManagedIdentity(ManagedIdentity {
                client_id: Some("identity-1".to_owned()),
                source,
            }),
            "managed identity identity-1: App Service (IDENTITY_ENDPOINT) does not answer",
        ),
    ]
}

#[tokio::test]
async fn a_credential_that_cannot_be_used_is_the_operators_and_named() {
    for (credential, name) in unusable() {
        let mut fixture = Fixture::answering(vec![token()]).await;
        // The last one's problem is told.
        let missing = config::ClientCredential::SignedAssertionFile("/nowhere/else".into());
        fixture.config.client_credentials = vec![missing, credential];
        let failure = fixture.exchange().await.unwrap_err();
        assert_eq!(failure.decision, Decision::Operator);
        assert_eq!(failure.presented, Presented::NotProcessed);
        assert!(failure.description.contains(name), "{failure}");
        assert!(!failure.description.contains("canary"), "{failure}");
        assert!(fixture.provider.received().is_empty());
    }
}

#[tokio::test]
async fn a_credential_that_cannot_be_used_makes_way_for_the_next() {
    let mut fixture = Fixture::answering(vec![token()]).await;
    let secret = config::ClientCredential::Secret("last".into());
    let unusable = unusable().map(|(credential, _)| credential);
    fixture.config.client_credentials = unusable.into_iter().chain([secret]).collect();
    assert!(fixture.refresh().await.is_ok());
    let [request] = &fixture.provider.received()[..] else { panic!("one request") };
    assert_eq!(request.form["client_secret"], "last");
}

#[tokio::test]
async fn the_providers_refusal_counts_when_the_next_credential_cannot_be_used() {
    let mut fixture = Fixture::answering(vec![certificate_refused(700_027)]).await;
    let [(unusable, _), ..] = unusable();
    let secrets = ["one", "two"].map(|name| config::ClientCredential::Secret(name.into()));
    let [one, two] = secrets;

    fixture.config.client_credentials = vec![one.clone(), unusable.clone()];
    let failure = fixture.refresh().await.unwrap_err();
    assert_eq!(failure.codes, [700_027]);
    assert_eq!(failure.presented, Presented::Answered);

    // Passing over one is not the second attempt.
    fixture.config.client_credentials = vec![unusable.clone(), one, unusable, two];
    assert_eq!(fixture.refresh().await.unwrap_err().codes, [700_027]);
    let received = fixture.provider.received();
    let secrets: Vec<_> = received.iter().map(|it| &it.form["client_secret"]).collect();
    assert_eq!(secrets, ["one", "one", "two"]);
}

#[tokio::test]
async fn a_provider_that_is_not_there_has_processed_nothing() {
    let mut fixture = Fixture::answering(vec![token()]).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fixture.move_to(format!("http://{unused}/").parse().unwrap());
    let failure = fixture.refresh().await.unwrap_err();
    assert_eq!(failure.presented, Presented::NotProcessed);
    assert_eq!(failure.decision, Decision::Retry { after: None });
}

#[tokio::test]
async fn a_connection_that_breaks_after_sending_leaves_it_open() {
    let mut fixture = Fixture::answering(vec![token()]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // Once the request has begun to arrive, and then again when the body is promised.
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"] {
            let (stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            stream.writable().await.unwrap();
            let _ = stream.try_read(&mut [0; 4096]);
            let _ = stream.try_write(answer.as_bytes());
        }
    });
    fixture.move_to(format!("http://{address}/").parse().unwrap());
    for _ in 0..2 {
        let failure = fixture.refresh().await.unwrap_err();
        assert_eq!(failure.presented, Presented::Unanswered, "{failure}");
        assert_eq!(failure.decision, Decision::Retry { after: None });
    }
}

#[tokio::test]
async fn a_failure_carries_what_others_need_and_no_secret() {
    let challenge = r#"{"access_token":{"acrs":{"value":"c1"}}}"#;
    let description = format!("AADSTS50076: {ASSERTION} by s3cret~value {}", "x".repeat(1000));
    let refusal = json!({
        "error": "interaction_required", "suberror": "basic_action", "error_codes": [50076],
        "claims": challenge, "correlation_id": "c-1", "error_description": description,
    });
    let failure = Fixture::answering(vec![answer(400, refusal)]).await.exchange().await;
    let failure = failure.unwrap_err();
    assert_eq!(failure.error.as_deref(), Some("interaction_required"));
    assert_eq!(failure.suberror.as_deref(), Some("basic_action"));
    assert_eq!(failure.codes, [50_076]);
    assert_eq!(failure.claims.as_deref(), Some(challenge));
    assert_eq!(failure.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(failure.description.chars().count(), 500);
    assert!(failure.description.starts_with("AADSTS50076: [redacted] by [redacted] xxx"));

    let refusal = json!({"error": "invalid_grant", "error_description": "no refresh-1 here"});
    let failure = Fixture::answering(vec![answer(400, refusal)]).await.refresh().await;
    assert_eq!(failure.unwrap_err().description, "no [redacted] here");
}

#[tokio::test]
async fn an_answer_without_a_usable_token_is_not_a_success() {
    let few = Decision::RetryFew { then: LastResort::Operator };
    for body in [
        String::new(),
        "<html>".to_owned(),
        json!({"access_token": "at", "expires_in": 60}).to_string(),
        format!("{}{}", " ".repeat(MAX_RESPONSE_BYTES), token().body),
    ] {
        let failure = Fixture::answering(vec![answer(200, body)]).await.refresh().await;
        let failure = failure.unwrap_err();
        assert_eq!(failure.decision, few);
        assert_eq!(failure.presented, Presented::Unanswered);
        assert!(!failure.description.contains("at\""));
    }
}

#[tokio::test]
async fn a_token_of_another_user_ends_the_session() {
    let mut body: serde_json::Value = serde_json::from_str(&token().body).unwrap();
    // {"uid":"user-2","utid":"elsewhere"}
    body["client_info"] = json!("eyJ1aWQiOiJ1c2VyLTIiLCJ1dGlkIjoiZWxzZXdoZXJlIn0");
    let fixture = Fixture::answering(vec![answer(200, body)]).await;
    let failure = fixture.refresh().await.unwrap_err();
    assert_eq!(failure.decision, Decision::Permanent);
    assert_eq!(failure.refresh_token, RefreshTokenState::Dead);
}

#[tokio::test]
async fn reserved_scopes_alone_are_refused_before_anything_is_sent() {
    let mut fixture = Fixture::answering(vec![token()]).await;
    fixture.api.scopes = vec!["openid".to_owned()];
    assert_eq!(fixture.exchange().await.unwrap_err().decision, Decision::Operator);
    assert!(fixture.provider.received().is_empty());
}

/// An endpoint of a provider that is not Entra, which gives these answers.
async fn openid(refresh: RefreshRequest, answers: Vec<Scripted>) -> Fixture {
    let fixture = Fixture::answering(answers).await;
    fixture.provider.publish_openid_metadata(&json!({}));
    let config = test_provider::token_exchange(&fixture.provider.instance, refresh);
    let mut api = fixture.api.clone();
    api.scopes = vec!["read write".to_owned()];
    api.extra_token_parameters = form(&[("audience", "partner"), ("scope", "kept")]);
    Fixture { config, api, ..fixture }
}

#[tokio::test]
async fn a_token_exchange_says_what_rfc_8693_says_and_nothing_of_entras() {
    let access_token_type = "urn:ietf:params:oauth:token-type:access_token";
    let refresh_token_type = "urn:ietf:params:oauth:token-type:refresh_token";
    let common = [
        ("audience", "partner"),
        ("client_id", test_provider::CLIENT_ID),
        ("client_secret", "s3cret~value"),
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", ASSERTION),
        ("subject_token_type", access_token_type),
    ];
    for (refresh, differing) in [
        (RefreshRequest::OfflineAccess, vec![("scope", "offline_access read write")]),
        (
            RefreshRequest::RequestedType,
            vec![("requested_token_type", refresh_token_type), ("scope", "read write")],
        ),
        (RefreshRequest::None, vec![("scope", "read write")]),
    ] {
        let fixture = openid(refresh, vec![token()]).await;
        fixture.exchange().await.unwrap();
        let [request] = &fixture.provider.received()[..] else { panic!("one request") };
        assert_eq!(request.path, "/realm/token");
        assert_eq!(request.form, form(&[&common[..], &differing].concat()), "{refresh:?}");
        assert!(!request.headers.contains_key("x-anchormailbox"));
    }
}

#[tokio::test]
async fn a_bound_refresh_token_is_sent_with_no_scope_but_a_configured_one() {
    let mut fixture = openid(RefreshRequest::OfflineAccess, vec![token()]).await;
    let endpoint = fixture.endpoint();
    let refresh_token = RefreshToken::new("refresh-1");
    endpoint.refresh(&principal(), &refresh_token, &fixture.api, None).await.unwrap();
    fixture.api.extra_token_parameters.clear();
    endpoint.refresh(&principal(), &refresh_token, &fixture.api, None).await.unwrap();
    let received = fixture.provider.received();
    assert_eq!(received[0].form["scope"], "kept");
    assert_eq!(received[1].form["refresh_token"], "refresh-1");
    assert!(!received[1].form.contains_key("scope"));
    // The discovery document was asked for once.
    assert_eq!(fixture.provider.fetches("/realm/.well-known/openid-configuration"), 1);
}

#[tokio::test]
async fn a_refresh_token_is_revoked_where_the_provider_offers_it() {
    let refresh_token = RefreshToken::new("refresh-1");
    let fixture = openid(RefreshRequest::OfflineAccess, vec![answer(200, "")]).await;
    assert_eq!(fixture.endpoint().revoke(&principal(), &refresh_token).await, Ok(true));
    let [request] = &fixture.provider.received()[..] else { panic!("one request") };
    assert_eq!(request.path, "/realm/revoke");
    assert_eq!(request.form["token"], "refresh-1");
    assert_eq!(request.form["token_type_hint"], "refresh_token");
    assert_eq!(request.form["client_secret"], "s3cret~value");

    let refused = answer(503, json!({"error": "temporarily_unavailable"}));
    fixture.provider.script(vec![refused]);
    let failure = fixture.endpoint().revoke(&principal(), &refresh_token).await.unwrap_err();
    assert_eq!(failure.decision, Decision::Retry { after: None });

    fixture.provider.publish_openid_metadata(&json!({ "revocation_endpoint": null }));
    assert_eq!(fixture.endpoint().revoke(&principal(), &refresh_token).await, Ok(false));
    let entra = Fixture::answering(vec![answer(200, "")]).await;
    assert_eq!(entra.endpoint().revoke(&principal(), &refresh_token).await, Ok(false));
}

#[tokio::test]
async fn endpoints_that_discovery_cannot_tell_are_nobodys() {
    for (metadata, decision) in [
        (Some(json!({"token_endpoint": "https://evil.example/token"})), Decision::Operator),
        (Some(json!({"revocation_endpoint": "https://evil.example/"})), Decision::Operator),
        (Some(json!({"token_endpoint": null})), Decision::Operator),
        (None, Decision::Operator),
    ] {
        let fixture = openid(RefreshRequest::None, vec![token()]).await;
        match metadata {
            Some(changes) => fixture.provider.publish_openid_metadata(&changes),
            None => fixture
                .provider
                .publish("/realm/.well-known/openid-configuration", serde_json::Value::Null),
        }
        let failure = fixture.exchange().await.unwrap_err();
        assert_eq!((failure.decision, failure.presented), (decision, Presented::NotProcessed));
        assert!(fixture.provider.received().is_empty());
    }
    let mut fixture = openid(RefreshRequest::None, vec![token()]).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fixture.move_to(format!("http://{unused}/").parse().unwrap());
    let failure = fixture.refresh().await.unwrap_err();
    assert_eq!(failure.decision, Decision::Retry { after: None });
    assert_eq!(failure.presented, Presented::NotProcessed);
}

#[tokio::test]
async fn each_credential_is_checked_with_a_token_that_cannot_be_valid() {
    let mut fixture = Fixture::answering(vec![
        answer(400, json!({"error": "invalid_grant", "error_description": "AADSTS9002313: no"})),
        certificate_refused(7_000_215),
        answer(400, json!({"error": "invalid_grant", "error_codes": [700_016]})),
        answer(503, ""),
    ])
    .await;
    let secret = fixture.config.client_credentials[0].clone();
    let missing = config::ClientCredential::SignedAssertionFile("/nowhere/token".into());
    fixture.config.client_credentials =
        vec![secret.clone(), secret.clone(), secret.clone(), secret, missing];
    let checked = fixture.endpoint().check_credentials(&fixture.api.scopes).await;
    assert_eq!(checked[0], Ok(()));
    for (checked, expected) in
        checked[1..].iter().zip(["invalid_client", "invalid_grant", "503", "/nowhere/token"])
    {
        let problem = checked.as_ref().unwrap_err();
        assert!(problem.contains(expected) && !problem.contains("s3cret"), "{problem}");
    }
    let received = fixture.provider.received();
    assert!(received.iter().all(|request| request.form["grant_type"] == "refresh_token"));
    assert_eq!(received.len(), 4);
}
