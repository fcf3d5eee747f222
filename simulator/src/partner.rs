//! The downstream APIs: they check whom they are called for, and remember each call.

mod bearer;
mod call;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, Uri, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

pub use call::PartnerCall;

use crate::{
    answer::{HttpAnswer, Reply, ScriptedAnswer, Withheld},
    apis::Api,
    tenant::Tenant,
};

/// All downstream APIs of one listener.
pub(crate) struct Partner {
    tenant: Arc<Tenant>,
    state: Mutex<PartnerState>,
}

#[derive(Default)]
struct PartnerState {
    calls: Vec<PartnerCall>,
    under_way: usize,
    most_under_way: usize,
    scripts: Vec<Script>,
    /// Answers of calls that had an effect, to be given again for the same key.
    answers: HashMap<CallKey, HttpAnswer>,
}

struct Script {
    method: String,
    path: String,
    answer: ScriptedAnswer,
}

/// A key means something to its user and endpoint only.
#[derive(PartialEq, Eq, Hash)]
struct CallKey {
    user_id: String,
    method: String,
    path: String,
    idempotency_key: String,
}

impl Partner {
    pub(crate) fn new(tenant: Arc<Tenant>) -> Self {
        Self { tenant, state: Mutex::default() }
    }

    pub(crate) fn calls(&self) -> Vec<PartnerCall> {
        self.state().calls.clone()
    }

    pub(crate) fn script(&self, method: &str, path: &str, answer: ScriptedAnswer) {
        let script = Script { method: method.to_owned(), path: path.to_owned(), answer };
        self.state().scripts.push(script);
    }

    pub(crate) fn most_calls_at_once(&self) -> usize {
        self.state().most_under_way
    }

    fn state(&self) -> MutexGuard<'_, PartnerState> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

/// A call until it is answered, or its caller has gone.
struct UnderWay<'a>(&'a Partner);

impl<'a> UnderWay<'a> {
    fn begin(partner: &'a Partner) -> Self {
        let mut state = partner.state();
        state.under_way += 1;
        state.most_under_way = state.most_under_way.max(state.under_way);
        Self(partner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

impl PartnerState {
    /// The next answer in store for this endpoint; the usual one if there is none.
    fn next_script(&mut self, call: &PartnerCall) -> ScriptedAnswer {
        let fits = |script: &Script| script.method == call.method && script.path == call.path;
        let next = self.scripts.iter().position(fits);
        next.map_or_else(|| Reply::Usual.into(), |index| self.scripts.remove(index).answer)
    }

    /// The answer as it would be without a script, and whether giving it is an effect: a key that was
    /// seen before gets the answer it got then.
    fn process(&mut self, call: &PartnerCall, reply: Option<&HttpAnswer>) -> (HttpAnswer, bool) {
        let key = call.idempotency_key.clone().map(|idempotency_key| CallKey {
            user_id: call.user_id.clone(),
            method: call.method.clone(),
            path: call.path.clone(),
            idempotency_key,
        });
        if let Some(answer) = key.as_ref().and_then(|key| self.answers.get(key)) {
            return (answer.clone(), false);
        }
        let answer = reply.cloned().unwrap_or_else(|| usual_answer(call));
        let effect = changes_something(&call.method) && (200..300).contains(&answer.status);
        if effect && let Some(key) = key {
            self.answers.insert(key, answer.clone());
        }
        (answer, effect)
    }
}

/// Every request to a downstream API.
pub(crate) async fn call(
    State(partner): State<Arc<Partner>>,
    api: &'static Api,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let _under_way = UnderWay::begin(&partner);
    let mut call = PartnerCall::received(&method, &uri, &headers, &body);
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match bearer::verify(&partner.tenant, api, authorization) {
        Ok(caller) => {
            call.user = caller.user.name;
            call.user_id = caller.user.oid;
            call.token_id = caller.token_id;
        }
        Err(refusal) => {
            call.status = Some(refusal.status);
            partner.state().calls.push(call);
            return refusal.into_response();
        }
    }

    let (answer, delay) = partner.answer(call);
    tokio::time::sleep(delay).await;
    answer.map_or_else(Withheld::response, IntoResponse::into_response)
}

impl Partner {
    /// Records the call with all its effects, before anybody can give up waiting for the answer.
    fn answer(&self, mut call: PartnerCall) -> (Option<HttpAnswer>, std::time::Duration) {
        let mut state = self.state();
        let script = state.next_script(&call);
        let answer = match &script.reply {
            // A scripted success does what it says.
            Reply::Answer(reply)
                if !script.after_processing && (200..300).contains(&reply.status) =>
            {
                let (answer, effect) = state.process(&call, Some(reply));
                call.effect = effect;
                Some(answer)
            }
            reply => {
                let mut usual = None;
                if script.processes() {
                    let (answer, effect) = state.process(&call, None);
                    call.effect = effect;
                    usual = Some(answer);
                }
                reply.in_place_of(usual)
            }
        };
        call.status = answer.as_ref().map(|answer| answer.status);
        state.calls.push(call);
        (answer, script.delay)
    }
}

/// The two endpoints of the quickstart; any other path echoes.
fn usual_answer(call: &PartnerCall) -> HttpAnswer {
    let endpoint = call.path.strip_prefix("/partner").unwrap_or_default();
    let body = match (call.method.as_str(), endpoint) {
        ("GET", "/api/process/data") => json!({
            "user": call.user,
            "items": [{ "id": 1, "amount": 120 }, { "id": 2, "amount": 80 }],
        }),
        ("POST", "/api/process/complete") => {
            json!({ "status": "completed", "user": call.user, "received": call.body })
        }
        _ => json!({
            "method": call.method, "path": call.path, "query": call.query,
            "headers": call.headers, "user": call.user, "body": call.body,
        }),
    };
    HttpAnswer::json(200, &body)
}

fn changes_something(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS")
}

/// `GET /partner-log`.
pub(crate) async fn partner_log(State(partner): State<Arc<Partner>>) -> Json<Value> {
    let calls = partner.calls();
    let effects = calls.iter().filter(|call| call.effect).count();
    Json(json!({ "effects": effects, "calls": calls }))
}
