//! Addresses in a configuration: which are plain enough to be told wrong before anything is sent.

use url::{Host, Url};

use super::section::Section;

/// An address without user, query and fragment.
const EXPECTED: &str = "an https URL without user, query and fragment";

impl Section<'_> {
    /// Returns the address `key`: https, or http where it cannot leave the machine or
    /// `allow_insecure_http` is set.
    pub(super) fn url(&self, key: &str, allow_insecure_http: bool) -> Option<Url> {
        let url = self.parsed(key, EXPECTED, parse)?;
        if url.scheme() == "http" && !is_loopback(&url) && !allow_insecure_http {
            self.problem(
                key,
                "expected https: plain http is for loopback only, or with `allow_insecure_http`",
            );
            return None;
        }
        Some(url)
    }
}

fn parse(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "https" | "http")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then_some(url)
}

/// Does `url` name this machine itself (RFC 6761 6.3 for `localhost`)?
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// Returns `url` with a path that ends in `/`, so that joining appends to it.
pub(super) fn with_trailing_slash(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_only() {
        for url in ["http://localhost:1/", "http://a.localhost", "http://127.9.9.9", "http://[::1]"]
        {
            assert!(is_loopback(&Url::parse(url).unwrap()), "{url}");
        }
        for url in ["http://localhost.example", "http://10.0.0.1", "http://[::2]", "http://0.0.0.0"]
        {
            assert!(!is_loopback(&Url::parse(url).unwrap()), "{url}");
        }
    }
}
