use std::sync::{Arc, Mutex as StdMutex};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use serde_json::{Value, json};

use super::*;
use crate::time::ManualClock;

const NO_PAUSES: [Duration; 3] = [Duration::ZERO; 3];
const NOW: i64 = 1_700_000_000;

/// What gives tokens where Errand runs: the next of its answers to each request, then the last.
#[derive(Clone)]
struct Service {
    url: Url,
    shared: Arc<StdMutex<Shared>>,
}

struct Shared {
    answers: Vec<(u16, Value)>,
    received: Vec<(Uri, HeaderMap)>,
}

impl Service {
    async fn answering(answers: Vec<(u16, Value)>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/msi/token", listener.local_addr().unwrap()).parse().unwrap();
        let shared = Arc::new(StdMutex::new(Shared { answers, received: Vec::new() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    fn instance_metadata(&self, clock: Arc<ManualClock>) -> ManagedIdentity {
        let endpoint = Endpoint::InstanceMetadata { url: self.url.clone() };
        ManagedIdentity::at(endpoint, Some("identity-1".to_owned()), clock, NO_PAUSES)
    }

    fn received(&self) -> Vec<(Uri, HeaderMap)> {
        self.shared.lock().unwrap().received.clone()
    }
}

async fn answer(State(shared): State<Arc<StdMutex<Shared>>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let mut shared = shared.lock().unwrap();
    shared.received.push((parts.uri, parts.headers));
    let (status, body) =
        if shared.answers.len() > 1 { shared.answers.remove(0) } else { shared.answers[0].clone() };
    Response::builder().status(status).body(body.to_string().into()).unwrap()
}

fn token(name: &str, expires_on: impl Into<Value>) -> (u16, Value) {
    (200, json!({"access_token": name, "expires_on": expires_on.into(), "token_type": "Bearer"}))
}

fn clock() -> Arc<ManualClock> {
    ManualClock::at(Timestamp::from_seconds(NOW).unwrap())
}

async fn exposed(identity: &ManagedIdentity) -> String {
    identity.token().await.unwrap().expose_secret().to_owned()
}

#[tokio::test]
async fn the_metadata_service_is_asked_for_a_token_that_entra_exchanges() {
    let service = Service::answering(vec![token("t", (NOW + 3600).to_string())]).await;
    assert_eq!(exposed(&service.instance_metadata(clock())).await, "t");

    let [(uri, headers)] = &service.received()[..] else { panic!("one request") };
    assert_eq!(
        uri.query().unwrap(),
        "api-version=2018-02-01&resource=api%3A%2F%2FAzureADTokenExchange&client_id=identity-1"
    );
    assert_eq!(headers["metadata"], "true");
}

#[tokio::test]
async fn app_service_is_shown_its_header() {
    let service = Service::answering(vec![token("t", NOW + 3600)]).await;
    let source = ManagedIdentitySource::AppService {
        endpoint: service.url.clone(),
        header: "canary-3f1c".into(),
    };
    let config = config::ManagedIdentity { client_id: None, source };
    let identity = ManagedIdentity::new(config, clock());
    assert_eq!(exposed(&identity).await, "t");

    let [(uri, headers)] = &service.received()[..] else { panic!("one request") };
    assert_eq!(
        uri.to_string(),
        "/msi/token?api-version=2019-08-01&resource=api%3A%2F%2FAzureADTokenExchange"
    );
    assert_eq!(headers["x-identity-header"], "canary-3f1c");
    assert!(!headers.contains_key("metadata"));
    assert!(!format!("{identity:?}").contains("canary"));
}

#[tokio::test]
async fn a_token_serves_all_until_shortly_before_it_expires() {
    let clock = clock();
    let answers = vec![token("first", NOW + 3600), token("second", NOW + 7200)];
    let service = Service::answering(answers).await;
    let identity = service.instance_metadata(Arc::clone(&clock));
    let both = tokio::join!(exposed(&identity), exposed(&identity));
    assert_eq!(both, ("first".to_owned(), "first".to_owned()));

    clock.advance(Duration::from_secs(3299));
    assert_eq!(exposed(&identity).await, "first");
    assert_eq!(service.received().len(), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(exposed(&identity).await, "second");
    assert_eq!(service.received().len(), 2);
}

#[tokio::test]
async fn what_passes_is_asked_again_three_times() {
    for status in [404, 410, 429, 500, 503] {
        let busy = (status, json!({}));
        let answers = vec![busy.clone(), busy.clone(), busy.clone(), token("t", NOW + 3600)];
        let service = Service::answering(answers).await;
        assert_eq!(exposed(&service.instance_metadata(clock())).await, "t", "{status}");

        let service = Service::answering(vec![busy]).await;
        let error = service.instance_metadata(clock()).token().await.unwrap_err().to_string();
        assert!(error.ends_with(&format!("has no answer now (status {status})")), "{error}");
        assert_eq!(service.received().len(), 4);
    }
}

#[tokio::test]
async fn a_failure_serves_all_for_a_moment() {
    let clock = clock();
    let service = Service::answering(vec![(400, json!({})), token("t", NOW + 3600)]).await;
    let identity = service.instance_metadata(Arc::clone(&clock));
    for _ in 0..2 {
        assert!(identity.token().await.is_err());
    }
    assert_eq!(service.received().len(), 1);
    clock.advance(FAILURE_PAUSE);
    assert_eq!(exposed(&identity).await, "t");
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_never_the_token() {
    for (status, body, expected) in [
        (
            400,
            json!({"error": "invalid_request", "error_description": "Identity not found"}),
            "managed identity identity-1: the instance metadata service (169.254.169.254) refuses it \
             (status 400: Identity not found): assign the identity to where Errand runs, or correct \
             `managed_identity_client_id`",
        ),
        (403, json!({"statusCode": 403, "message": "eyJjYW5hcnk.x.y"}), "403: [redacted])"),
        (302, json!("moved"), "302: no reason given)"),
        (200, json!({"access_token": "canary"}), "answered with no token"),
        (200, json!({"access_token": "canary", "expires_on": "soon"}), "answered with no token"),
        (200, json!({"access_token": "", "expires_on": 1}), "answered with no token"),
    ] {
        let service = Service::answering(vec![(status, body)]).await;
        let error = service.instance_metadata(clock()).token().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("canary"), "{error}");
        assert_eq!(service.received().len(), 1);
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_not_asked_again() {
    let mut service = Service::answering(Vec::new()).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    service.url = format!("http://{unused}/").parse().unwrap();
    let error = service.instance_metadata(clock()).token().await.unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
}
