use std::sync::{Arc, Mutex};

use errand_simulator::Simulator;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Answer, PATIENCE, canaries, openapi::assert_documented};

/// How long one request for a job is held until the job changes, in seconds.
const WAIT_SECONDS: u32 = 5;

/// The way to Errand that all users of a story share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) http: reqwest::Client,
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    /// Every body that Errand has sent.
    pub(crate) received: Mutex<String>,
}

impl Connection {
    async fn send(&self, request: RequestBuilder) -> Answer {
        let request = request.build().expect("a story sends what can be sent");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let answer = self.http.execute(request).await.expect("Errand answers");
        let answer = Answer::read(answer).await;
        assert_documented(method.as_str(), &path, &answer);
        let mut received = self.received.lock().expect("nobody panics while holding it");
        received.push_str(&answer.text);
        received.push('\n');
        answer
    }
}

/// Somebody with a token for Errand.
#[derive(Debug, Clone)]
pub struct User {
    name: String,
    token: String,
    connection: Arc<Connection>,
}

impl User {
    pub(crate) fn with_token(name: &str, token: String, connection: Arc<Connection>) -> Self {
        Self { name: name.to_owned(), token, connection }
    }

    /// The same person with a fresh token.
    #[must_use]
    pub fn sign_in_again(&self, simulator: &Simulator) -> Self {
        Self { token: simulator.user_token(&self.name), ..self.clone() }
    }

    /// A request as this user; send it with [`User::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let Connection { http, address, .. } = &*self.connection;
        http.request(method, format!("{address}{path}")).bearer_auth(&self.token)
    }

    /// Sends any request to Errand.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.connection.send(request).await
    }

    /// GET
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `POST /v1/jobs` with `submission`, whatever becomes of it.
    pub async fn post_job(&self, submission: &Value) -> Answer {
        self.send(self.request(Method::POST, "/v1/jobs").json(submission)).await
    }

    /// Submits a job and returns it.
    pub async fn submit(&self, definition: &Value) -> Value {
        self.submit_with(definition, &json!({})).await
    }

    /// Submits a job with further members of the submission, such as `session_key`, and returns it.
    pub async fn submit_with(&self, definition: &Value, options: &Value) -> Value {
        let answer = self.post_job(&submission(definition, options)).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.body
    }

    /// The job as it is.
    pub async fn job(&self, job: &Value) -> Value {
        let answer = self.get(&path_of(job)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    }

    /// Waits until the job has `status`; fails if it ends in another one.
    pub async fn wait_until(&self, job: &Value, status: &str) -> Value {
        self.wait_for(job, status, |job| job["status"] == status).await
    }

    /// Waits until the job `is_so`; fails with `what` if it ends otherwise.
    pub async fn wait_for(&self, job: &Value, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let prefer = format!("wait={WAIT_SECONDS}");
        let mut seen = self.get(&path_of(job)).await;
        loop {
            assert_eq!(seen.status, 200, "{}", seen.text);
            if is_so(&seen.body) {
                return seen.body;
            }
            let ended = ["completed", "faulted", "cancelled"]
                .iter()
                .any(|status| seen.body["status"] == *status);
            assert!(!ended, "not {what}: {:#}", seen.body);
            assert!(Instant::now() < deadline, "still not {what}: {:#}", seen.body);
            let request = self.request(Method::GET, &path_of(job)).header("prefer", &prefer);
            let answer = self.send(request.header("if-none-match", seen.header("etag"))).await;
            if answer.status != 304 {
                seen = answer;
            }
        }
    }
}

/// The body of a submission. What its job is given as input must not show up anywhere else.
pub(crate) fn submission(definition: &Value, options: &Value) -> Value {
    let mut submission = json!({ "definition": definition, "input": { "text": canaries::INPUT } });
    for (name, value) in options.as_object().into_iter().flatten() {
        submission[name] = value.clone();
    }
    submission
}

fn path_of(job: &Value) -> String {
    format!("/v1/jobs/{}", job["id"].as_str().expect("a job has an id"))
}
