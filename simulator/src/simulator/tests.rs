//! Both parties as a client sees them, over HTTP.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::{answer::Reply, tenant::ClientAuthentication};

struct Client {
    http: reqwest::Client,
    simulator: Simulator,
}

impl Client {
    async fn of(options: Options) -> Self {
        #[expect(clippy::disallowed_methods, reason = "loopback only, and knows no other crate")]
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, simulator: Simulator::start(options).await.unwrap() }
    }

    async fn token(&self, fields: &[(&str, &str)]) -> reqwest::Result<Response> {
        let description = self.simulator.description();
        let url = format!("{}/oauth2/v2.0/token", description.authority);
        let mut form = vec![
            ("client_id", description.client_id.as_str()),
            ("client_secret", &description.client_secret),
            ("scope", "api://partner-api-id/read openid offline_access"),
            ("client_info", "1"),
        ];
        // A later value replaces an earlier one.
        form.retain(|(name, _)| !fields.iter().any(|(other, _)| other == name));
        form.extend(fields);
        self.http.post(url).form(&form).send().await
    }

    async fn exchange(&self, assertion: &str) -> reqwest::Result<Response> {
        self.token(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("requested_token_use", "on_behalf_of"),
            ("assertion", assertion),
        ])
        .await
    }

    async fn refresh(&self, token: &str) -> reqwest::Result<Response> {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    /// The answer to a good exchange for alice.
    async fn exchanged(&self) -> Value {
        let answer = self.exchange(&self.simulator.user_token("alice")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json().await.unwrap()
    }

    async fn complete(&self, token: &str, key: &str) -> reqwest::Result<Response> {
        let url = format!("{}/api/process/complete", self.simulator.description().downstream);
        let request = self.http.post(url).bearer_auth(token).header("idempotency-key", key);
        request.json(&json!({ "total": 200 })).send().await
    }
}

async fn error_code(answer: Response) -> u64 {
    let body: Value = answer.json().await.unwrap();
    body["error_codes"][0].as_u64().unwrap()
}

#[tokio::test]
async fn a_user_token_is_exchanged_refreshed_and_taken_by_the_partner() {
    let client = Client::of(Options::default()).await;
    let url = format!("{}?user=alice", client.simulator.description().token_url);
    let assertion = client.http.get(url).send().await.unwrap().text().await.unwrap();

    let first: Value = client.exchange(&assertion).await.unwrap().json().await.unwrap();
    assert_eq!(first["scope"], "api://partner-api-id/read openid");
    assert_eq!(first["expires_in"], 3600);
    let info = BASE64_URL_SAFE_NO_PAD.decode(first["client_info"].as_str().unwrap()).unwrap();
    let info: Value = serde_json::from_slice(&info).unwrap();

    let second = client.refresh(first["refresh_token"].as_str().unwrap()).await.unwrap();
    let second: Value = second.json().await.unwrap();
    assert_ne!(second["refresh_token"], first["refresh_token"]);

    let url = format!("{}/api/process/data", client.simulator.description().downstream);
    let token = second["access_token"].as_str().unwrap();
    let data = client.http.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(data.json::<Value>().await.unwrap()["user"], "alice");
    assert_eq!(client.simulator.calls()[0].user_id, info["uid"]);
}

#[tokio::test]
async fn a_bad_assertion_is_refused_with_its_number() {
    let client = Client::of(Options::default()).await;
    let simulator = &client.simulator;
    let request = || UserTokenRequest::named("alice");
    let signed = |request: UserTokenRequest| {
        simulator.sign(&simulator.token_header(), &simulator.user_claims(&request))
    };
    let mut id_token = simulator.user_claims(&request());
    id_token.as_object_mut().unwrap().remove("scp");
    let mut foreign_key = simulator.token_header();
    foreign_key["kid"] = "another".into();

    let cases = [
        (50027, "not-a-jwt".to_owned()),
        (50013, simulator.sign(&foreign_key, &simulator.user_claims(&request()))),
        (50013, signed(UserTokenRequest { tenant: Some(random_id()), ..request() })),
        (500_131, signed(UserTokenRequest { audience: Some("api://other".into()), ..request() })),
        (500_133, signed(UserTokenRequest { expires_in: Some(-60), ..request() })),
        (7_000_114, signed(UserTokenRequest { app: true, ..request() })),
        (240_002, simulator.sign(&simulator.token_header(), &id_token)),
    ];
    for (code, assertion) in cases {
        assert_eq!(error_code(client.exchange(&assertion).await.unwrap()).await, code);
    }
    let v1 = signed(UserTokenRequest { version: Some(1), ..request() });
    assert_eq!(client.exchange(&v1).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn the_client_proves_itself_in_the_body_or_the_header() {
    let client = Client::of(Options::default()).await;
    let wrong = client.token(&[("grant_type", "refresh_token"), ("client_secret", "wrong")]);
    let wrong = wrong.await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(wrong).await, 7_000_215);

    let description = client.simulator.description();
    let answer = client
        .http
        .post(format!("{}/oauth2/v2.0/token", description.authority))
        // Form-encoded by the standard; `~` is the only character that needs it.
        .basic_auth(&description.client_id, Some(description.client_secret.replace('~', "%7E")))
        .form(&[
            ("grant_type", "refresh_token"),
            ("scope", "api://partner-api-id/read"),
            ("refresh_token", "bad"),
        ])
        .send()
        .await
        .unwrap();
    assert_eq!(error_code(answer).await, 70000);
    let request = client.simulator.token_requests().pop().unwrap();
    assert_eq!(request.client_authentication, Some(ClientAuthentication::ClientSecretBasic));
}

#[tokio::test]
async fn an_answer_lost_after_rotation_makes_the_next_presentation_a_reuse() {
    let client = Client::of(Options { reuse_detection: true, ..Options::default() }).await;
    let grant = client.exchanged().await;
    let token = grant["refresh_token"].as_str().unwrap();
    client
        .simulator
        .script_token_answer(ScriptedAnswer { after_processing: true, ..Reply::Dropped.into() });
    assert!(client.refresh(token).await.is_err());
    assert_eq!(error_code(client.refresh(token).await.unwrap()).await, 50173);

    let requests = client.simulator.token_requests();
    assert_eq!(
        requests.iter().map(|request| request.status).collect::<Vec<_>>(),
        [Some(200), None, Some(400)]
    );
    assert_eq!(
        requests.iter().map(|request| request.reuse).collect::<Vec<_>>(),
        [false, false, true]
    );
}

#[tokio::test]
async fn a_hostile_tenant_loses_answers_of_refreshes_and_says_when_each_ended() {
    let options = Options {
        reuse_detection: true,
        reuse_leeway: Duration::from_mins(1),
        ..Options::default()
    };
    let client = Client::of(options).await;
    client.simulator.set_hostility(Some(Hostility {
        seed: 1,
        lost_requests: 0,
        lost_answers: 100,
        unavailable: 0,
        max_delay: Duration::from_millis(50),
    }));
    let grant = client.exchanged().await;
    let token = grant["refresh_token"].as_str().unwrap();
    assert!(client.refresh(token).await.is_err());
    client.simulator.set_hostility(None);
    assert_eq!(client.refresh(token).await.unwrap().status(), StatusCode::OK);

    // A client that does not wait for its answer.
    let slow = ScriptedAnswer { delay: Duration::from_mins(1), ..Reply::Usual.into() };
    client.simulator.script_token_answer(slow);
    let waited = tokio::time::timeout(Duration::from_millis(300), client.refresh(token)).await;
    assert!(waited.is_err());
    while client.simulator.token_requests()[3].ended_at.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let requests = client.simulator.token_requests();
    let seen: Vec<_> = requests.iter().map(|request| (request.status, request.reuse)).collect();
    assert_eq!(seen, [(Some(200), false), (None, false), (Some(200), true), (None, true)]);
    for (earlier, later) in requests.iter().zip(&requests[1..]) {
        assert!(earlier.ended_at.unwrap() <= later.received_at, "{requests:#?}");
    }
}

#[tokio::test]
async fn scripted_answers_come_in_order_and_then_the_usual_ones() {
    let client = Client::of(Options::default()).await;
    let simulator = &client.simulator;
    simulator.script_token_answer(simulator.entra_error(90033));
    simulator.script_token_answer(Reply::Changed(json!({ "refresh_token": null })));
    let assertion = simulator.user_token("alice");

    let busy = client.exchange(&assertion).await.unwrap();
    assert_eq!(
        (busy.status().as_u16(), &busy.headers()["retry-after"]),
        (503, &"30".parse().unwrap())
    );
    assert_eq!(client.exchanged().await.get("refresh_token"), None);
    assert!(client.exchanged().await["refresh_token"].is_string());
}

#[tokio::test]
async fn a_repeated_key_gets_the_recorded_answer_and_has_no_second_effect() {
    let client = Client::of(Options::default()).await;
    let grant = client.exchanged().await;
    let token = grant["access_token"].as_str().unwrap();
    let path = "/partner/api/process/complete";
    let lost = ScriptedAnswer { after_processing: true, ..Reply::Dropped.into() };
    client.simulator.script_call_answer("POST", path, lost);

    assert!(client.complete(token, "k").await.is_err());
    let answer: Value = client.complete(token, "k").await.unwrap().json().await.unwrap();
    assert_eq!(answer["received"], json!({ "total": 200 }));
    let effects = client.simulator.calls().iter().map(|call| call.effect).collect::<Vec<_>>();
    assert_eq!(effects, [true, false]);
}

#[tokio::test]
async fn the_partner_refuses_tokens_that_are_not_for_it() {
    let client = Client::of(Options::default()).await;
    let user_token = client.simulator.user_token("alice");
    let answer = client.complete(&user_token, "k").await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(answer.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));

    let grant = client.exchanged().await;
    client.simulator.advance_clock(Duration::from_hours(2));
    let expired = client.complete(grant["access_token"].as_str().unwrap(), "k").await.unwrap();
    assert_eq!(expired.status(), StatusCode::UNAUTHORIZED);
    assert!(client.simulator.calls().iter().all(|call| !call.effect));
}

#[tokio::test]
async fn the_key_set_is_found_by_discovery_unless_the_tenant_is_unreachable() {
    let client = Client::of(Options::default()).await;
    let authority = &client.simulator.description().authority;
    let url = format!("{authority}/v2.0/.well-known/openid-configuration");
    let document: Value = client.http.get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["issuer"], format!("{authority}/v2.0"));
    client.simulator.rotate_signing_key();
    let keys = document["jwks_uri"].as_str().unwrap();
    let keys: Value = client.http.get(keys).send().await.unwrap().json().await.unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert_eq!(keys["keys"][0]["issuer"], document["issuer"]);

    client.simulator.set_unreachable(true);
    assert!(client.http.get(&url).send().await.is_err());
}

#[tokio::test]
async fn tokens_of_a_killed_process_are_good_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = Some(folder.path().to_owned());
    let first = Client::of(Options { state_dir: state_dir.clone(), ..Options::default() }).await;
    let grant = first.exchanged().await;
    let authority = first.simulator.description().authority.clone();
    let port = authority.split([':', '/']).nth(4).unwrap().parse().unwrap();
    first.simulator.stop().await;

    let second = Client::of(Options { port, state_dir, ..Options::default() }).await;
    assert_eq!(second.simulator.description().authority, authority);
    let refreshed = second.refresh(grant["refresh_token"].as_str().unwrap()).await.unwrap();
    assert_eq!(refreshed.status(), StatusCode::OK);
    let token = grant["access_token"].as_str().unwrap();
    assert_eq!(second.complete(token, "k").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = Simulator::start(Options { port, ..Options::default() }).await.unwrap_err();
    assert_eq!(error.to_string(), format!("port {port} is taken"));
}

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TOKEN_TYPES: &str = "urn:ietf:params:oauth:token-type:";

impl Client {
    async fn realm(&self, endpoint: &str, fields: &[(&str, &str)]) -> Response {
        let description = self.simulator.description();
        let mut form = vec![
            ("client_id", description.client_id.as_str()),
            ("client_secret", &description.client_secret),
        ];
        form.extend(fields);
        let url = format!("{}/{endpoint}", self.simulator.realm_authority());
        self.http.post(url).form(&form).send().await.unwrap()
    }

    async fn token_exchange(&self, token: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let token_type = format!("{TOKEN_TYPES}access_token");
        let mut form = vec![
            ("grant_type", EXCHANGE),
            ("subject_token", token),
            ("subject_token_type", &token_type),
        ];
        form.extend(fields);
        let answer = self.realm("token", &form).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

const PARTNER_AUDIENCE: (&str, &str) = ("audience", "api://partner-api-id");

#[tokio::test]
async fn the_realm_exchanges_for_one_api_and_rotates_strictly() {
    let client = Client::of(Options::default()).await;
    let token = client.simulator.realm_user_token("alice");
    let offline = [PARTNER_AUDIENCE, ("scope", "read offline_access")];
    let (status, first) = client.token_exchange(&token, &offline).await;
    assert_eq!(status, 200);
    let access_token = first["access_token"].as_str().unwrap();
    assert_eq!(client.complete(access_token, "k").await.unwrap().status(), StatusCode::OK);
    assert_eq!(client.simulator.calls()[0].user, "alice");

    let refresh = async |token: &Value| {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str().unwrap())];
        let answer = client.realm("token", &fields).await;
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, second) = refresh(&first["refresh_token"]).await;
    assert_eq!(status, 200);
    let (status, reused) = refresh(&first["refresh_token"]).await;
    assert_eq!((status, &reused["error"]), (400, &json!("invalid_grant")));
    assert_eq!(refresh(&second["refresh_token"]).await.0, 400);

    let by_type = format!("{TOKEN_TYPES}refresh_token");
    let by_type = [PARTNER_AUDIENCE, ("requested_token_type", &by_type)];
    let (_, third) = client.token_exchange(&token, &by_type).await;
    let revoked = [("token", third["refresh_token"].as_str().unwrap())];
    assert_eq!(client.realm("revoke", &revoked).await.status(), StatusCode::OK);
    assert_eq!(refresh(&third["refresh_token"]).await.0, 400);
}

#[tokio::test]
async fn the_realm_refuses_in_the_words_of_the_standard() {
    let client = Client::of(Options::default()).await;
    let simulator = &client.simulator;
    let good = simulator.realm_user_token("alice");
    let mut foreign = simulator.realm_user_claims("alice");
    foreign["aud"] = "other".into();
    let foreign = simulator.sign(&simulator.token_header(), &foreign);
    let entra = simulator.user_token("alice");
    let unknown = ("audience", "api://unknown");
    for (token, fields, error) in [
        ("not-a-jwt", vec![PARTNER_AUDIENCE], "invalid_request"),
        (&entra, vec![PARTNER_AUDIENCE], "invalid_request"),
        (&foreign, vec![PARTNER_AUDIENCE], "access_denied"),
        (&good, vec![unknown], "invalid_target"),
        (&good, vec![PARTNER_AUDIENCE, ("resource", "https://x")], "invalid_target"),
        (&good, vec![PARTNER_AUDIENCE, ("scope", "write")], "invalid_scope"),
    ] {
        let (status, body) = client.token_exchange(token, &fields).await;
        assert_eq!((status, &body["error"]), (400, &json!(error)));
    }
    let (_, plain) = client.token_exchange(&good, &[PARTNER_AUDIENCE]).await;
    assert_eq!(plain.get("refresh_token"), None);
}
