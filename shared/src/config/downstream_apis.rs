//! `[downstream_apis.NAME]`, in JSON `DownstreamApis:NAME`

use std::{collections::BTreeMap, num::NonZero, time::Duration};

use super::{
    Dialect, DownstreamApi, DownstreamApis, RetryConfig, address::with_trailing_slash,
    identity::extra_token_parameters, section::Section,
};

/// Scopes that ask for sign-in or a refresh token, not for an API (OpenID Connect Core 5.4, 11).
const OPENID_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// Whose scopes may be written without their resource (Microsoft identity platform).
const MICROSOFT_GRAPH: &str = "https://graph.microsoft.com";

/// Without `dialect` by the rules of Entra's.
pub(super) fn read(
    root: &Section,
    allow_insecure_http: bool,
    dialect: Option<&Dialect>,
) -> DownstreamApis {
    let sections = root.named_sections("downstream_apis");
    let apis = sections.into_iter().filter_map(|(name, section)| {
        let is_name = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !is_name {
            let message = "expected a name of at most 64 letters, digits, `.`, `_` and `-`";
            section.problem_of_itself(message);
        }
        let api = read_one(&name, &section, allow_insecure_http, dialect)?;
        Some((name, api))
    });
    apis.collect()
}

fn read_one(
    name: &str,
    section: &Section,
    allow_insecure_http: bool,
    dialect: Option<&Dialect>,
) -> Option<DownstreamApi> {
    let base_url = section.url("base_url", allow_insecure_http).map(with_trailing_slash);
    let base_url = section.required("base_url", base_url, "the address that all calls go below");
    let extra_token_parameters = extra_token_parameters(section, dialect);
    let scopes = scopes(section, dialect, &extra_token_parameters);
    let required_scopes = section.texts("required_scopes").unwrap_or_default();
    let seconds =
        |key, default| section.seconds(key, 1..=3600).unwrap_or(Duration::from_secs(default));
    let timeout = seconds("timeout_seconds", 30);
    let methods =
        section.parsed_texts("methods", "an HTTP method such as `GET`", method).unwrap_or_default();
    let paths = section
        .parsed_texts("paths", "a pattern below `base_url` such as `api/**`", path_pattern)
        .unwrap_or_default();
    let max_response_bytes =
        section.number("max_response_bytes", 1..=1_073_741_824).unwrap_or(1_048_576);
    let retry = retry(&section.section("retry"));
    let honours_idempotency_key = section.boolean("honours_idempotency_key").unwrap_or(false);
    let max_concurrency = section.number("max_concurrency", 0..=10_000).and_then(NonZero::new);
    section.finish();
    Some(DownstreamApi {
        name: name.to_owned(),
        base_url: base_url?,
        scopes: scopes?,
        required_scopes,
        timeout,
        methods,
        paths,
        max_response_bytes,
        retry,
        honours_idempotency_key,
        max_concurrency,
        extra_token_parameters,
    })
}

fn retry(section: &Section) -> RetryConfig {
    let seconds =
        |key, default| section.seconds(key, 0..=86_400).unwrap_or(Duration::from_secs(default));
    let config = RetryConfig {
        max_attempts: section.number("max_attempts", 1..=1000).unwrap_or(5),
        initial: seconds("initial_seconds", 1),
        max: seconds("max_seconds", 300),
    };
    if config.max < config.initial {
        section.problem("max_seconds", "expected no less than `initial_seconds`");
    }
    section.finish();
    config
}

fn scopes(
    section: &Section,
    dialect: Option<&Dialect>,
    extra: &BTreeMap<String, String>,
) -> Option<Vec<String>> {
    let scopes = section.texts("scopes");
    let names_target = ["audience", "resource"].iter().any(|name| extra.contains_key(*name));
    match dialect {
        Some(Dialect::TokenExchange { .. }) if names_target => Some(scopes.unwrap_or_default()),
        Some(Dialect::TokenExchange { .. }) => {
            let what = "what a token for this API is asked with, unless `extra_token_parameters` \
                        has its `audience` or `resource`";
            section.required("scopes", scopes, what)
        }
        None | Some(Dialect::Entra { .. }) => {
            let what = "what a token for this API is asked with";
            let scopes = section.required("scopes", scopes, what);
            check_scopes(section, scopes.as_deref().unwrap_or_default());
            scopes
        }
    }
}

/// At Entra a token is for one resource: a request with scopes of two is refused (AADSTS28000), and so is
/// one with `.default` and other scopes (AADSTS70011).
fn check_scopes(section: &Section, scopes: &[String]) {
    let scopes: Vec<_> =
        scopes.iter().filter(|scope| !OPENID_SCOPES.contains(&scope.as_str())).collect();
    let Some(first) = scopes.first() else {
        if section.get("scopes").is_some() {
            section.problem("scopes", "expected at least one scope of the API itself");
        }
        return;
    };
    if !scopes.iter().all(|scope| resource(scope).eq_ignore_ascii_case(resource(first))) {
        section
            .problem("scopes", "expected scopes of one resource; another needs an API of its own");
    }
    if scopes.len() > 1 && scopes.iter().any(|scope| scope.ends_with("/.default")) {
        section.problem("scopes", "expected `.default` alone, without other scopes");
    }
}

/// `api://partner` of `api://partner/read`.
fn resource(scope: &str) -> &str {
    scope.rsplit_once('/').map_or(MICROSOFT_GRAPH, |(resource, _)| resource)
}

/// A method in upper case (RFC 9110 9.1: a token).
fn method(text: &str) -> Option<String> {
    http::Method::from_bytes(text.to_ascii_uppercase().as_bytes()).ok().map(|m| m.to_string())
}

/// A pattern without its leading slash.
fn path_pattern(text: &str) -> Option<String> {
    let pattern = text.strip_prefix('/').unwrap_or(text);
    let is_path = !pattern.is_empty()
        && !pattern.contains(['?', '#', '\\', ':'])
        && pattern.split('/').all(|segment| segment != "." && segment != "..");
    is_path.then(|| pattern.to_owned())
}
