//! `[webhooks]`

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use url::Url;

use super::{
    WebhooksConfig, address::is_loopback, node::Content, secret::SecretForm, section::Section,
};

/// Bytes of a secret (Standard Webhooks, "Signature scheme").
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

pub(super) fn read(section: &Section, allow_insecure_http: bool) -> WebhooksConfig {
    let hosts = section
        .parsed_texts("hosts", "a host such as `hooks.example.com` or `localhost:9000`", host)
        .unwrap_or_default();
    let secrets = secrets(section).unwrap_or_default();
    if !hosts.is_empty() && section.get("secret").is_none() && section.get("secret_file").is_none()
    {
        section.problem("secret", "is required where there are `hosts`: `whsec_` and Base64");
    }
    section.finish();
    WebhooksConfig { hosts, secrets, allow_insecure_http }
}

fn secrets(section: &Section) -> Option<Vec<secrecy::SecretString>> {
    let (key, texts) = match section.secret_form("secret")? {
        SecretForm::File => ("secret_file", split(&section.secret_in_file("secret")?)),
        SecretForm::Value => match &section.get("secret")?.content {
            Content::Scalar(Value::String(text)) => ("secret", split(text)),
            _ => ("secret", section.texts("secret")?),
        },
    };
    if !texts.iter().all(|text| is_secret(text)) {
        section.problem(key, "expected `whsec_` and the Base64 of 24 to 64 random bytes");
        return None;
    }
    Some(texts.into_iter().map(Into::into).collect())
}

/// One a line, or as in a variable.
fn split(text: &str) -> Vec<String> {
    let words = text.split([',', ' ', '\n', '\r']);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn is_secret(text: &str) -> bool {
    let bytes = text.strip_prefix("whsec_").and_then(|text| BASE64_STANDARD.decode(text).ok());
    bytes.is_some_and(|bytes| SECRET_BYTES.contains(&bytes.len()))
}

/// `host` or `host:port`, as a URL spells it.
fn host(text: &str) -> Option<String> {
    let url = Url::parse(&format!("https://{text}/")).ok()?;
    let is_host = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && !text.contains(['/', '?', '#', '\\', '@']);
    is_host.then(|| authority(&url)).flatten()
}

/// The port is left out where it is the scheme's own.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

impl WebhooksConfig {
    /// Whether `url` may be told of jobs: https, or http where that cannot leave the machine or
    /// `allow_insecure_http` is set, at a configured host, and without credentials in it.
    pub fn allows(&self, url: &Url) -> bool {
        let is_safe = match url.scheme() {
            "https" => true,
            "http" => self.allow_insecure_http || is_loopback(url),
            _ => false,
        };
        is_safe
            && url.username().is_empty()
            && url.password().is_none()
            && authority(url).is_some_and(|authority| self.hosts.contains(&authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_hosts_are_told() {
        let hosts = ["Hooks.Example.com", "other.example:8443", "localhost:9000", "plain.example"];
        let mut config = WebhooksConfig {
            hosts: hosts.into_iter().map(|text| host(text).unwrap()).collect(),
            secrets: Vec::new(),
            allow_insecure_http: false,
        };
        let allows = |config: &WebhooksConfig, url: &str| config.allows(&Url::parse(url).unwrap());
        for url in [
            "https://hooks.example.com/a?b=c",
            "https://HOOKS.example.com:443/",
            "https://other.example:8443",
            "http://localhost:9000/x",
        ] {
            assert!(allows(&config, url), "{url}");
        }
        for url in [
            "http://hooks.example.com/",
            "https://hooks.example.com:8443/",
            "https://other.example/",
            "https://evil.example/?hooks.example.com",
            "https://hooks.example.com.evil.example/",
            "https://hooks.example.com@evil.example/",
            "https://user@hooks.example.com/",
            "https://a.hooks.example.com/",
            "ftp://hooks.example.com/",
            "http://localhost/",
        ] {
            assert!(!allows(&config, url), "{url}");
        }
        config.allow_insecure_http = true;
        assert!(allows(&config, "http://plain.example/"));
    }

    #[test]
    fn a_host_is_nothing_but_a_host() {
        for wrong in ["", "https://a", "a/b", "a?b", "u@a", "a:b", "*.example.com/"] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
        assert_eq!(host("a.example:443").as_deref(), Some("a.example"));
    }

    #[test]
    fn a_secret_is_of_standard_webhooks() {
        assert!(is_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
        for wrong in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_ä"] {
            assert!(!is_secret(wrong), "{wrong}");
        }
    }
}
