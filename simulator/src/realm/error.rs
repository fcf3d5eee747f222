use serde_json::json;

use crate::answer::HttpAnswer;

/// A refusal of the token endpoint (RFC 6749 5.2, RFC 8693 2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: u16,
    pub(crate) error: &'static str,
    description: &'static str,
}

impl Refusal {
    pub(crate) const fn of(error: &'static str, description: &'static str) -> Self {
        Self { status: 400, error, description }
    }

    pub(crate) const fn client(description: &'static str) -> Self {
        Self { status: 401, ..Self::of("invalid_client", description) }
    }

    pub(crate) fn answer(self) -> HttpAnswer {
        let body = json!({ "error": self.error, "error_description": self.description });
        HttpAnswer::json(self.status, &body)
    }
}
