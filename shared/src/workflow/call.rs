//! From a `call: http` task to a request, and from its answer to the task's output.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Workflow, WorkflowError,
    address::{self, AddressError},
    checkpoint::Json,
    document::{HttpCall, Output},
    headers,
};
use crate::{http::retry_after, time::Timestamp};

/// A request that a job wants sent as its user; fixed in the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Counts a job's calls from 1; with the job's id it is the idempotency key.
    pub id: u64,
    /// JSON Pointer of the task.
    pub task: String,
    /// Name of the downstream API; empty if the document was checked without configuration and names none.
    pub api: String,
    /// Upper case.
    pub method: String,
    /// Path and query below the API's base URL, with a leading slash: what [`address::url`] takes.
    /// If the document was checked without configuration, nothing is decided: an absolute address is
    /// here as the document has it.
    pub path: String,
    /// The document's own headers, as it spells them.
    pub headers: BTreeMap<String, String>,
    /// To be sent as JSON; a string as it is, if a `Content-Type` of the document is not JSON.
    #[serde(with = "optional_json")]
    pub body: Option<Value>,
    /// Whether a 3xx is an answer like any other. Redirects are never followed.
    pub redirect: bool,
}

/// What became of a [`Call`].
#[derive(Debug, Clone)]
pub struct Reply {
    /// [`Call::id`]; a reply to another call is ignored.
    pub call: u64,
    /// The answer, or why there is none. An error status is an answer.
    pub result: Result<Response, WorkflowError>,
}

/// An HTTP answer, complete.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names and values in the order they came.
    pub headers: Vec<(String, String)>,
    /// Without transfer coding and content coding.
    pub body: Vec<u8>,
}

impl Response {
    /// How long the API asks to wait, as [`retry_after`] reads it.
    pub(super) fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let is_asked = |name: &str| name.eq_ignore_ascii_case(RETRY_AFTER.as_str());
        let (_, value) = self.headers.iter().find(|(name, _)| is_asked(name))?;
        let value = HeaderValue::from_str(value).ok()?;
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]), now)
    }
}

/// What of a request depends on expressions, evaluated.
pub(super) struct Evaluated {
    pub(super) reference: String,
    pub(super) headers: Value,
    pub(super) query: Value,
    pub(super) body: Option<Value>,
}

/// Puts a request together and decides its address.
pub(super) fn request(
    call: &HttpCall,
    evaluated: Evaluated,
    id: u64,
    task: &str,
    workflow: &Workflow,
) -> Result<Call, WorkflowError> {
    let query: Vec<_> = pairs("query", &evaluated.query)?.into_iter().collect();
    let path = match &workflow.configuration {
        Some(apis) => {
            let api = apis.get(&call.api).ok_or_else(|| {
                let api = &call.api;
                WorkflowError::configuration(format!("`{api}` is not a configured downstream API."))
            })?;
            address::resolve(api, &call.method, &evaluated.reference, &query)
                .map_err(|error: AddressError| WorkflowError::authorization(error.to_string()))?
        }
        None => address::undecided(&evaluated.reference, &query),
    };
    let headers = pairs("headers", &evaluated.headers)?;
    for (name, value) in &headers {
        if headers::is_reserved(name) {
            let detail = format!("A workflow cannot set the header `{name}`.");
            return Err(WorkflowError::authorization(detail));
        }
        if !headers::is_name(name) || !headers::is_value(value) {
            let name: String = name.chars().take(100).collect();
            let detail = format!("`{name}` has a name or value that no header can have.");
            return Err(WorkflowError::expression(detail));
        }
    }
    Ok(Call {
        id,
        task: task.to_owned(),
        api: call.api.clone(),
        method: call.method.clone(),
        path,
        headers,
        body: evaluated.body,
        redirect: call.redirect,
    })
}

/// Reads an object of strings, numbers and booleans; what is null is left out.
fn pairs(what: &str, value: &Value) -> Result<BTreeMap<String, String>, WorkflowError> {
    let wrong = || {
        let detail = format!("`{what}` must be an object of strings, numbers and booleans.");
        WorkflowError::expression(detail)
    };
    let mut pairs = BTreeMap::new();
    for (name, value) in value.as_object().ok_or_else(wrong)? {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => return Err(wrong()),
        };
        pairs.insert(name.clone(), value);
    }
    Ok(pairs)
}

/// The output of a task, from the answer to its request.
///
/// # Errors
/// `communication` for an error status, and with status 502 for a body that is not what it is
/// announced as: never less than the whole.
pub(super) fn output(
    call: &HttpCall,
    request: &Call,
    response: &Response,
    workflow: &Workflow,
) -> Result<Value, WorkflowError> {
    let status = response.status;
    let is_error = match status {
        200..=299 => false,
        300..=399 => !request.redirect,
        _ => true,
    };
    if is_error {
        let path = request.path.split('?').next().unwrap_or_default();
        let detail = format!("{} {path} was answered with status {status}.", request.method);
        return Err(WorkflowError::communication(status, detail));
    }
    match call.output {
        Output::Raw => Ok(Value::String(BASE64_STANDARD.encode(&response.body))),
        Output::Content => content(response),
        Output::Response => {
            let mut headers = Map::new();
            for (name, value) in &response.headers {
                let name = name.to_ascii_lowercase();
                if name == "set-cookie" {
                    continue;
                }
                match headers.get_mut(&name) {
                    // RFC 9110 5.2: the same name again continues the list.
                    Some(Value::String(list)) => list.extend([", ", value]),
                    _ => {
                        headers.insert(name, Value::String(value.clone()));
                    }
                }
            }
            let url = workflow.configuration.as_ref().and_then(|apis| {
                address::url(apis.get(&request.api)?, &request.method, &request.path).ok()
            });
            Ok(json!({
                "request": {
                    "method": request.method,
                    "uri": url.map_or_else(|| request.path.clone(), String::from),
                    "headers": request.headers,
                },
                "statusCode": status,
                "headers": headers,
                "content": content(response)?,
            }))
        }
    }
}

/// The body: JSON if it is announced as such, else text, null if there is none.
fn content(response: &Response) -> Result<Value, WorkflowError> {
    if response.body.is_empty() {
        return Ok(Value::Null);
    }
    let announced = response
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .map_or("", |(_, value)| value);
    let wrong = |detail: String| WorkflowError::communication(502, detail);
    if is_json(announced) {
        // `serde_json` itself refuses what is nested deeper than 128 levels.
        return serde_json::from_slice(&response.body).map_err(|error| {
            wrong(format!("The answer is not the JSON it is announced as: {error}."))
        });
    }
    match std::str::from_utf8(&response.body) {
        Ok(text) => Ok(Value::String(text.to_owned())),
        Err(_) => Err(wrong("The answer is not text in UTF-8; write `output: raw`.".to_owned())),
    }
}

/// Whether a media type is JSON (RFC 8259 11, RFC 6839 3.1).
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type == "text/json" || media_type.ends_with("+json")
}

/// An optional [`Json`]; a body that is `null` is not the same as none.
mod optional_json {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    use super::Json;

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        body: &Option<Value>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        body.as_ref().map(Value::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Value>, D::Error> {
        Ok(Option::<Json>::deserialize(deserializer)?.map(|json| json.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(content_type: &str, body: &[u8]) -> Result<Value, WorkflowError> {
        content(&Response {
            status: 200,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: body.to_vec(),
        })
    }

    #[test]
    fn a_body_is_what_it_is_announced_as() {
        assert_eq!(
            answer("application/json; charset=utf-8", b"{\"a\":1}").unwrap(),
            json!({"a": 1})
        );
        assert_eq!(answer("application/problem+json", b"[]").unwrap(), json!([]));
        assert_eq!(answer("text/plain", b"{}").unwrap(), json!("{}"));
        assert_eq!(answer("application/json", b"").unwrap(), json!(null));
        assert_eq!(answer("application/json", b"{\"a\":").unwrap_err().status, 502);
        assert_eq!(answer("application/json", "[".repeat(200).as_bytes()).unwrap_err().status, 502);
        assert_eq!(answer("text/plain", b"\xff").unwrap_err().status, 502);
    }

    #[test]
    fn pairs_are_flat() {
        let pairs_of = |value: Value| pairs("query", &value);
        let read = pairs_of(json!({"a": 1, "b": true, "c": "x", "d": null})).unwrap();
        let expected = [("a", "1"), ("b", "true"), ("c", "x")];
        assert_eq!(read, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        assert!(pairs_of(json!({"a": [1]})).is_err());
        assert!(pairs_of(json!("a=b")).is_err());
    }
}
