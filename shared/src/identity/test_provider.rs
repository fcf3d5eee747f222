//! An identity provider for tests: keys, metadata and a scripted token endpoint on loopback.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use url::Url;

use crate::config::{
    ClientAuthentication, ClientCredential, Dialect, DownstreamApi, IdentityConfig, RefreshRequest,
    RetryConfig, Tenant,
};

pub(super) const TENANT: &str = "8f1c0000-0000-4000-8000-000000000001";
pub(super) const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";

pub(super) struct TestKey {
    pub(super) id: String,
    pem: String,
}

impl TestKey {
    pub(super) fn generate(id: &str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()));
        Self { id: id.to_owned(), pem }
    }

    pub(super) fn private_key_pem(&self) -> String {
        self.pem.clone()
    }

    fn encoding_key(&self) -> EncodingKey {
        EncodingKey::from_rsa_pem(self.pem.as_bytes()).unwrap()
    }

    pub(super) fn public_key(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.encoding_key(), Algorithm::RS256).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        jwk.common.key_algorithm = None;
        jwk
    }

    /// The published form, with `extra` members.
    pub(super) fn published(&self, extra: &Value) -> Value {
        let mut jwk = serde_json::to_value(self.public_key()).unwrap();
        for (name, value) in extra.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    pub(super) fn header(&self) -> Header {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.id.clone());
        header
    }

    pub(super) fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.encoding_key()).unwrap()
    }
}

/// One request that the token endpoint received.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) path: String,
    pub(super) headers: axum::http::HeaderMap,
    pub(super) form: BTreeMap<String, String>,
}

/// One answer that the token endpoint gives.
#[derive(Debug, Clone)]
pub(super) struct Scripted {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

#[derive(Debug, Default)]
struct Shared {
    documents: BTreeMap<String, Value>,
    fetched: BTreeMap<String, usize>,
    answers: Vec<Scripted>,
    received: Vec<Received>,
}

#[derive(Clone)]
pub(super) struct TestProvider {
    pub(super) instance: Url,
    shared: Arc<Mutex<Shared>>,
}

impl TestProvider {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { instance, shared }
    }

    /// Publishes a JSON document; `Value::Null` takes it away.
    pub(super) fn publish(&self, path: &str, document: Value) {
        self.shared.lock().unwrap().documents.insert(path.to_owned(), document);
    }

    /// Publishes metadata of both generations for the path segment `tenant`.
    pub(super) fn publish_metadata(&self, tenant: &str, issuer_tenant: &str) {
        let instance = &self.instance;
        self.publish(
            &format!("/{tenant}/v2.0/.well-known/openid-configuration"),
            json!({
                "issuer": format!("{instance}{issuer_tenant}/v2.0"),
                "jwks_uri": format!("{instance}keys"),
                "cloud_instance_name": "example.com",
            }),
        );
        self.publish(
            &format!("/{tenant}/.well-known/openid-configuration"),
            json!({
                "issuer": format!("https://sts.example.com/{issuer_tenant}/"),
                "jwks_uri": format!("{instance}keys"),
            }),
        );
    }

    /// Publishes the metadata of a provider that is not Entra, for the path segment `realm`.
    pub(super) fn publish_openid_metadata(&self, changes: &Value) {
        let instance = &self.instance;
        let mut document = json!({
            "issuer": format!("{instance}realm"),
            "jwks_uri": format!("{instance}keys"),
            "token_endpoint": format!("{instance}realm/token"),
            "revocation_endpoint": format!("{instance}realm/revoke"),
        });
        for (name, value) in changes.as_object().unwrap() {
            document[name] = value.clone();
        }
        self.publish("/realm/.well-known/openid-configuration", document);
    }

    pub(super) fn publish_keys(&self, keys: &[Value]) {
        self.publish("/keys", json!({ "keys": keys }));
    }

    pub(super) fn fetches(&self, path: &str) -> usize {
        self.shared.lock().unwrap().fetched.get(path).copied().unwrap_or_default()
    }

    /// Answers the next token requests, in this order; then with the last.
    pub(super) fn script(&self, answers: Vec<Scripted>) {
        self.shared.lock().unwrap().answers = answers;
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.shared.lock().unwrap().received.clone()
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if parts.method == "GET" {
        return document(&shared, &parts.uri);
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let form = url::form_urlencoded::parse(&body).into_owned().collect();
    let mut shared = shared.lock().unwrap();
    shared.received.push(Received { path, headers: parts.headers, form });
    let next =
        if shared.answers.len() > 1 { shared.answers.remove(0) } else { shared.answers[0].clone() };
    let mut response = Response::builder().status(next.status);
    for (name, value) in next.headers {
        response = response.header(name, value);
    }
    response.body(next.body.into()).unwrap()
}

fn document(shared: &Mutex<Shared>, uri: &Uri) -> Response {
    let mut shared = shared.lock().unwrap();
    *shared.fetched.entry(uri.path().to_owned()).or_default() += 1;
    match shared.documents.get(uri.path()) {
        Some(document) if !document.is_null() => Json(document.clone()).into_response(),
        Some(_) | None => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(super) fn configuration(instance: Url) -> IdentityConfig {
    IdentityConfig {
        dialect: Dialect::Entra { instance, tenant: Tenant::Single(TENANT.to_owned()) },
        client_id: CLIENT_ID.to_owned(),
        audiences: vec![CLIENT_ID.to_owned(), format!("api://{CLIENT_ID}")],
        required_scopes: vec!["Jobs.ReadWrite".to_owned()],
        allowed_clients: Vec::new(),
        client_authentication: ClientAuthentication::Post,
        client_credentials: vec![ClientCredential::Secret("s3cret~value".into())],
        extra_token_parameters: BTreeMap::new(),
        consent_redirect_uri: None,
        keep_alive: None,
    }
}

/// For any OpenID provider that publishes its metadata for the path segment `realm`.
pub(super) fn token_exchange(instance: &Url, refresh: RefreshRequest) -> IdentityConfig {
    IdentityConfig {
        dialect: Dialect::TokenExchange {
            authority: instance.join("realm/").unwrap(),
            subject_token_type: "urn:ietf:params:oauth:token-type:access_token".to_owned(),
            refresh,
        },
        audiences: vec![CLIENT_ID.to_owned()],
        ..configuration(instance.clone())
    }
}

pub(super) fn downstream_api() -> DownstreamApi {
    DownstreamApi {
        name: "PartnerAPI".to_owned(),
        base_url: "https://partnerapi.example.com/".parse().unwrap(),
        scopes: vec!["api://partner-api-id/read".to_owned()],
        required_scopes: Vec::new(),
        timeout: Duration::from_secs(30),
        methods: Vec::new(),
        paths: Vec::new(),
        max_response_bytes: 1 << 20,
        retry: RetryConfig {
            max_attempts: 5,
            initial: Duration::from_secs(1),
            max: Duration::from_mins(5),
        },
        honours_idempotency_key: false,
        max_concurrency: None,
        extra_token_parameters: BTreeMap::new(),
    }
}
