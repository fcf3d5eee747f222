use reqwest::header::HeaderMap;
use serde_json::Value;

/// A whole HTTP answer of Errand.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body; null if it is not JSON.
    pub body: Value,
    /// The body as it was sent.
    pub text: String,
}

impl Answer {
    /// Reads the whole answer.
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.expect("the answer is text and arrives whole");
        let body = serde_json::from_str(&text).unwrap_or_default();
        Self { status, headers, body, text }
    }

    /// A header's value; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are ASCII"))
    }

    /// Fails unless this is a problem (RFC 9457) with `status` and of type `/problems/NAME`.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, name: &str) {
        self.assert_some_problem(status);
        let kind = self.body["type"].as_str().unwrap_or_default();
        assert!(kind.ends_with(&format!("/problems/{name}")), "{status} {}", self.text);
    }

    /// Fails unless this is a problem with `status`, of whatever type.
    #[track_caller]
    pub fn assert_some_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        assert_eq!(self.body["status"], status, "{}", self.text);
        for member in ["type", "title"] {
            assert!(self.body[member].is_string(), "no `{member}`: {}", self.text);
        }
    }
}
