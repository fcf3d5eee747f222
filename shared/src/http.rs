//! The one way to build an HTTP client.

use std::time::Duration;

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
