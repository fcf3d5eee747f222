//! The one way to build an HTTP client, and what all answers may say.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER};

use crate::time::Timestamp;

/// What Errand calls itself towards identity providers and downstream APIs.
pub const USER_AGENT: &str = concat!("errand/", env!("CARGO_PKG_VERSION"));

/// Returns an HTTP client that never follows a redirect, never asks the environment for a proxy
/// and never waits longer than `timeout` for a whole answer.
///
/// A redirect could carry a token to a host that nobody configured, and so could a proxy.
#[expect(clippy::disallowed_methods, reason = "this is the one place that builds clients")]
pub fn client(timeout: Duration) -> reqwest::Client {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .timeout(timeout)
        .build()
        .expect("a client without files or proxies has nothing to fail on")
}

/// `Retry-After` is obeyed within these bounds: longer is a mistake or a lock-out (MSAL: 3600 s).
const RETRY_AFTER_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// Returns how long the answer asks to wait, from one second to one hour; none if it does not ask.
///
/// Seconds or a date, RFC 9110 10.2.3.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let length = if let Ok(seconds) = value.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(SystemTime::from(now.as_datetime())).unwrap_or_default()
    };
    Some(length.clamp(RETRY_AFTER_BOUNDS.0, RETRY_AFTER_BOUNDS.1))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_within_bounds() {
        let now = Timestamp::from_seconds(1_445_412_470).unwrap();
        for (value, expected) in [
            ("30", Some(30)),
            (" 30 ", Some(30)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(10)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(1)),
            ("soon", None),
            ("-5", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    proptest! {
        #[test]
        fn whatever_retry_after_says_the_wait_is_within_bounds(
            value in prop_oneof!["[ -~]*", "[0-9]{1,30}", "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4,9} [0-9:]{8} GMT"],
            bytes: Vec<u8>,
            now in -1_000_000_000_000_i64..1_000_000_000_000,
        ) {
            let now = Timestamp::from_seconds(now).unwrap();
            let values = [HeaderValue::from_str(&value).ok(), HeaderValue::from_bytes(&bytes).ok()];
            for value in values.into_iter().flatten() {
                let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
                if let Some(length) = retry_after(&headers, now) {
                    prop_assert!(length >= RETRY_AFTER_BOUNDS.0 && length <= RETRY_AFTER_BOUNDS.1);
                }
            }
        }
    }
}
