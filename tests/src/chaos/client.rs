//! Users' programs: they try again until they have an answer, as they should.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use errand_simulator::Simulator;
use fastrand::Rng;
use reqwest::Method;
use serde_json::Value;

use crate::{TestApp, canaries::Canaries};

/// How long a program waits for an answer before it asks again.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) struct Client {
    http: reqwest::Client,
    apis: Vec<String>,
    canaries: Canaries,
    state: Mutex<State>,
}

struct State {
    random: Rng,
    /// Each user's present token.
    tokens: HashMap<String, String>,
    leaks: Vec<String>,
    /// Answers that nobody should get, such as a 500.
    oddities: Vec<String>,
}

/// An answer that arrived whole.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Client {
    pub(crate) fn new(app: &TestApp, apis: Vec<String>, seed: u64) -> Self {
        let state = State {
            random: Rng::with_seed(seed),
            tokens: HashMap::new(),
            leaks: Vec::new(),
            oddities: Vec::new(),
        };
        Self {
            http: errand_shared::http::client(TIMEOUT),
            apis,
            canaries: app.canaries(),
            state: Mutex::new(state),
        }
    }

    /// One request to any of the APIs; none if no answer came.
    pub(crate) async fn send(
        &self,
        simulator: &Simulator,
        user: &str,
        method: Method,
        path: &str,
        body: Option<(&Value, &str)>,
    ) -> Option<Received> {
        let (address, token) = {
            let mut state = self.state();
            let api = state.random.usize(..self.apis.len());
            let token = state.tokens.entry(user.to_owned());
            let token = token.or_insert_with(|| simulator.user_token(user)).clone();
            (&self.apis[api], token)
        };
        let mut request = self.http.request(method, format!("{address}{path}")).bearer_auth(token);
        if let Some((body, key)) = body {
            request = request.json(body).header("idempotency-key", key);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        let mut state = self.state();
        if let Some(leak) = self.canaries.find(text.as_bytes()) {
            state.leaks.push(format!("{leak} in an answer of status {status}"));
        }
        if status == 500 {
            state.oddities.push(text.clone());
        }
        Some(Received { status, body: serde_json::from_str(&text).unwrap_or_default() })
    }

    /// The same until there is an answer that means something: no 429, nothing from 500 on. Whoever
    /// has to, signs in again.
    pub(crate) async fn insist(
        &self,
        simulator: &Simulator,
        user: &str,
        method: Method,
        path: &str,
        body: Option<(&Value, &str)>,
    ) -> Received {
        loop {
            match self.send(simulator, user, method.clone(), path, body).await {
                Some(Received { status: 401 | 403, .. }) => self.sign_in_again(simulator, user),
                Some(received) if received.status < 429 => return received,
                Some(_) | None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(crate) fn sign_in_again(&self, simulator: &Simulator, user: &str) {
        self.state().tokens.insert(user.to_owned(), simulator.user_token(user));
    }

    /// Secrets in answers.
    pub(crate) fn leaks(&self) -> Vec<String> {
        self.state().leaks.clone()
    }

    /// Bodies of answers that nobody should get.
    pub(crate) fn oddities(&self) -> Vec<String> {
        self.state().oddities.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}
