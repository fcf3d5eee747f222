use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    body::Body,
    http::StatusCode,
    response::{AppendHeaders, IntoResponse, Response},
};
use serde_json::Value;

/// A whole HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// HTTP status.
    pub status: u16,
    /// Names and values; `content-type` included.
    pub headers: Vec<(String, String)>,
    /// The body as it is sent.
    pub body: String,
}

impl HttpAnswer {
    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::typed(status, "application/json; charset=utf-8", body.to_string())
    }

    /// A plain text answer, as gateways and throttled services give.
    pub fn text(status: u16, body: &str) -> Self {
        Self::typed(status, "text/plain; charset=utf-8", body.to_owned())
    }

    fn typed(status: u16, content_type: &str, body: String) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with members of its JSON body replaced by those of `changes`; `null` removes one.
    pub(crate) fn changed(mut self, changes: &Value) -> Self {
        if let Ok(Value::Object(mut body)) = serde_json::from_str(&self.body) {
            for (name, value) in changes.as_object().into_iter().flatten() {
                if value.is_null() {
                    body.remove(name);
                } else {
                    body.insert(name.clone(), value.clone());
                }
            }
            self.body = Value::Object(body).to_string();
        }
        self
    }
}

impl IntoResponse for HttpAnswer {
    fn into_response(self) -> Response {
        // A script may ask for a status that HTTP does not have.
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A bare body: a string would bring a `content-type` of its own.
        (status, AppendHeaders(self.headers), Body::from(self.body)).into_response()
    }
}

/// An answer that a test has put in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptedAnswer {
    /// What is answered.
    pub reply: Reply,
    /// How long the answer is held back. The request has had its effect by then.
    pub delay: Duration,
    /// The request has its usual effect first (tokens rotated, call done), whatever is answered.
    pub after_processing: bool,
}

impl From<Reply> for ScriptedAnswer {
    /// At once, and instead of processing.
    fn from(reply: Reply) -> Self {
        Self { reply, delay: Duration::ZERO, after_processing: false }
    }
}

impl From<HttpAnswer> for ScriptedAnswer {
    /// At once, and instead of processing.
    fn from(answer: HttpAnswer) -> Self {
        Reply::Answer(answer).into()
    }
}

/// What a scripted request is answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// What it would be without a script.
    Usual,
    /// The usual answer with top-level members of its JSON replaced; `null` removes a member.
    Changed(Value),
    /// This one.
    Answer(HttpAnswer),
    /// None: the connection is closed.
    Dropped,
}

impl ScriptedAnswer {
    /// Whether the request is processed at all.
    pub(crate) fn processes(&self) -> bool {
        self.after_processing || matches!(self.reply, Reply::Usual | Reply::Changed(_))
    }
}

impl Reply {
    /// The answer to give for a request whose usual one is `usual`; `None`: drop the connection.
    pub(crate) fn in_place_of(&self, usual: Option<HttpAnswer>) -> Option<HttpAnswer> {
        match self {
            Self::Usual => usual,
            Self::Changed(changes) => usual.map(|answer| answer.changed(changes)),
            Self::Answer(answer) => Some(answer.clone()),
            Self::Dropped => None,
        }
    }
}

/// Marks a response that is not sent: the server closes the connection instead.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the answer is withheld")]
pub(crate) struct Withheld;

impl Withheld {
    pub(crate) fn response() -> Response {
        let mut response = Json(Value::Null).into_response();
        response.extensions_mut().insert(Self);
        response
    }
}

impl From<Infallible> for Withheld {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_replaces_and_removes_members() {
        let usual = HttpAnswer::json(200, &json!({ "expires_in": 3600, "scope": "a" }));
        let changes = Reply::Changed(json!({ "expires_in": "3599", "scope": null }));
        let answer = changes.in_place_of(Some(usual)).unwrap();
        assert_eq!(answer.body, r#"{"expires_in":"3599"}"#);
    }

    #[test]
    fn an_answer_has_the_headers_it_says_and_no_others() {
        let response = HttpAnswer::json(200, &json!({})).into_response();
        let values = response.headers().get_all("content-type").iter().collect::<Vec<_>>();
        assert_eq!(values, ["application/json; charset=utf-8"]);
    }
}
