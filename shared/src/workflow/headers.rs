//! Headers that only Errand may set.

/// Names, lower case.
const RESERVED: [&str; 19] = [
    "authorization",
    "cookie",
    "host",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "user-agent",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "keep-alive",
    "forwarded",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

/// Beginnings of names, lower case.
const RESERVED_BEGINNINGS: [&str; 3] = ["proxy-", "x-forwarded-", "x-http-method"];

/// Whether a document must not set header `name`, because it would change who is asked for what by whom.
pub(super) fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    RESERVED.contains(&name.as_str())
        || RESERVED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Whether `name` can be the name of a header (RFC 9110 5.1).
pub(super) fn is_name(name: &str) -> bool {
    http::HeaderName::from_bytes(name.as_bytes()).is_ok()
}

/// Whether `value` can be the value of a header: no line break, no control character.
pub(super) fn is_value(value: &str) -> bool {
    http::HeaderValue::from_str(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_found_in_any_case() {
        for name in ["Authorization", "HOST", "Proxy-Anything", "x-forwarded-for", "TE"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["X-HTTP-Method-Override", "x-http-method", "X-Rewrite-URL", "Trailer"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["Accept", "Content-Type", "If-Match", "X-Request-Id", "Prefer"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn a_value_cannot_smuggle_another_header() {
        assert!(is_value("plain"));
        assert!(!is_value("a\r\nAuthorization: b"));
        assert!(!is_name("a b") && !is_name("") && !is_name("a:") && is_name("a-b"));
    }
}
