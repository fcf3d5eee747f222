//! From an endpoint to an address below the base of a configured API, or to a refusal.
//!
//! A base and a reference are joined as text, as Microsoft.Identity.Web does it
//! (`AuthorizationHeaderProviderOptions.GetApiUrl()`), not resolved as in RFC 3986, which would lose the
//! `v1.0` of `https://graph.microsoft.com/v1.0`. What decides is the final, parsed URL: it is the one a
//! token is sent to.

use percent_encoding::percent_decode_str;
use url::Url;

use super::uri_template::encode;
use crate::config::DownstreamApi;

/// Longest reference, query included: twice what most servers take.
const MAX_BYTES: usize = 16 * 1024;

/// How often anybody on the way might decode a path. What still changes after that is hiding something.
const MAX_DECODINGS: usize = 3;

/// Why an address is refused. `Display` is a sentence for the document's author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It leads elsewhere.
    #[error("`{0}` is not below the base URL of a configured downstream API.")]
    Outside(String),
    /// It is spelled so that somebody on the way may read it differently.
    #[error(
        "`{0}` has a `.` or `..` segment, a backslash, an encoded slash, a control character, a space or a fragment."
    )]
    Ambiguous(String),
    /// It is longer than any address that means something.
    #[error("An address is at most {MAX_BYTES} bytes long.")]
    TooLong,
    /// `methods` of the API leaves the method out.
    #[error("`{0}` is not an allowed method of this downstream API.")]
    Method(String),
    /// `paths` of the API leave the path out.
    #[error("`{0}` is not an allowed path of this downstream API.")]
    Path(String),
}

/// Decides where `reference` (relative or absolute) with `query` added leads.
///
/// Returns path and query below the base URL, with a leading slash and without a host, so that a base
/// URL that changes meanwhile takes effect. `method` is upper case.
pub fn resolve(
    api: &DownstreamApi,
    method: &str,
    reference: &str,
    query: &[(String, String)],
) -> Result<String, AddressError> {
    let reference = with_query(reference, query);
    let url = url(api, method, &reference)?;
    let below = below(api, &url).ok_or(AddressError::Outside(reference))?;
    Ok(match url.query() {
        Some(query) => format!("/{below}?{query}"),
        None => format!("/{below}"),
    })
}

/// What [`resolve`] would give if any address were allowed: absolute ones stay as they are.
pub(super) fn undecided(reference: &str, query: &[(String, String)]) -> String {
    let address = with_query(reference, query);
    if is_absolute(&address) || address.starts_with('/') { address } else { format!("/{address}") }
}

/// `reference` with `query` behind it.
fn with_query(reference: &str, query: &[(String, String)]) -> String {
    let mut reference = reference.to_owned();
    for (name, value) in query {
        reference.push(if reference.contains('?') { '&' } else { '?' });
        reference.extend([&encode(name), "=", &encode(value)]);
    }
    reference
}

/// The URL that `reference`, e.g. an answer of [`resolve`], means now. Ask just before sending.
pub fn url(api: &DownstreamApi, method: &str, reference: &str) -> Result<Url, AddressError> {
    let url = locate(api, reference)?;
    if !api.methods.is_empty() && !api.methods.iter().any(|allowed| allowed == method) {
        return Err(AddressError::Method(method.to_owned()));
    }
    let below = below(api, &url).unwrap_or_default();
    if !api.paths.is_empty() && !api.paths.iter().any(|pattern| matches(pattern, below)) {
        return Err(AddressError::Path(below.to_owned()));
    }
    Ok(url)
}

/// The URL that `reference` means, whatever its method and path; it is below the base of `api`.
pub(super) fn locate(api: &DownstreamApi, reference: &str) -> Result<Url, AddressError> {
    if reference.len() > MAX_BYTES {
        return Err(AddressError::TooLong);
    }
    let outside = || AddressError::Outside(reference.to_owned());
    let ambiguous = || AddressError::Ambiguous(reference.to_owned());
    let is_hidden = |c: char| c.is_control() || c.is_whitespace();
    if reference.chars().any(is_hidden) || reference.contains(['\\', '#']) {
        return Err(ambiguous());
    }
    if reference.starts_with("//") {
        return Err(outside());
    }
    let path = match authority_and_path(reference) {
        Some(("", _)) => return Err(outside()),
        Some((_, path)) => path,
        None if is_absolute(reference) => return Err(outside()),
        None => reference,
    };
    let path = path.split('?').next().unwrap_or_default();
    if path.split('/').any(is_ambiguous) {
        return Err(ambiguous());
    }
    let url = if is_absolute(reference) {
        Url::parse(reference)
    } else {
        let base = api.base_url.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{}", reference.strip_prefix('/').unwrap_or(reference)))
    };
    let url = url.map_err(|_| outside())?;
    match below(api, &url) {
        Some(below) if !below.starts_with('/') => Ok(url),
        _ => Err(outside()),
    }
}

/// Whether `reference` begins with a scheme (RFC 3986 3.1), and so is no path.
pub(super) fn is_absolute(reference: &str) -> bool {
    reference.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':'))
}

/// Splits an absolute URI behind `://`; `None` for everything else.
fn authority_and_path(reference: &str) -> Option<(&str, &str)> {
    if !is_absolute(reference) {
        return None;
    }
    let (_, rest) = reference.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// The path of `url` below the base of `api`; `None` if it is not below it at a segment boundary.
fn below<'u>(api: &DownstreamApi, url: &'u Url) -> Option<&'u str> {
    let base = &api.base_url;
    let same_origin = url.scheme() == base.scheme()
        && url.host() == base.host()
        && url.port_or_known_default() == base.port_or_known_default();
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if !(same_origin && plain && url.has_host()) {
        return None;
    }
    url.path().strip_prefix(base.path().trim_end_matches('/'))?.strip_prefix('/')
}

/// Whether a path segment, decoded as often as anybody on the way might, is more than a name.
///
/// `..;x` counts as `..`, because some servers cut parameters off first. What is not UTF-8 may be an
/// overlong dot or slash.
fn is_ambiguous(segment: &str) -> bool {
    let mut segment = segment.to_owned();
    for _ in 0..=MAX_DECODINGS {
        let name = segment.split(';').next().unwrap_or_default();
        if matches!(name, "." | "..")
            || segment.contains(['/', '\\', char::REPLACEMENT_CHARACTER])
            || segment.chars().any(char::is_control)
        {
            return true;
        }
        let decoded = percent_decode_str(&segment).decode_utf8_lossy().into_owned();
        if decoded == segment {
            return false;
        }
        segment = decoded;
    }
    true
}

/// Whether `path` fits `pattern`: `*` stands for one or more characters of a segment, `**` for
/// anything across segments.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern).as_bytes();
    let path = path.as_bytes();
    // `reached[i]`: the pattern so far fits `path[..i]`.
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some((&first, behind)) = rest.split_first() {
        let mut next = vec![false; path.len() + 1];
        if rest.starts_with(b"**") {
            let mut any = false;
            for (end, fits) in reached.iter().enumerate() {
                any |= fits;
                next[end] = any;
            }
            rest = &rest[2..];
        } else {
            for (end, &byte) in path.iter().enumerate() {
                next[end + 1] = if first == b'*' {
                    byte != b'/' && (reached[end] || next[end])
                } else {
                    byte == first && reached[end]
                };
            }
            rest = behind;
        }
        reached = next;
    }
    reached[path.len()]
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::RetryConfig;

    /// An API at `base_url`.
    pub(in crate::workflow) fn api(base_url: &str) -> DownstreamApi {
        let second = Duration::from_secs(1);
        DownstreamApi {
            name: "api".to_owned(),
            base_url: base_url.parse().unwrap(),
            scopes: vec!["api://partner/read".to_owned()],
            required_scopes: Vec::new(),
            timeout: second,
            methods: Vec::new(),
            paths: Vec::new(),
            max_response_bytes: 1_048_576,
            retry: RetryConfig { max_attempts: 5, initial: second, max: second },
            honours_idempotency_key: false,
            max_concurrency: None,
            extra_token_parameters: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn references_are_joined_to_the_base_as_text() {
        for (base, reference, path, whole) in [
            ("https://p.example", "api/data", "/api/data", "https://p.example/api/data"),
            ("https://p.example/", "/api/data", "/api/data", "https://p.example/api/data"),
            ("https://p.example/v1.0", "me", "/me", "https://p.example/v1.0/me"),
            (
                "https://p.example/v1.0/",
                "/me?a=b%2Fc",
                "/me?a=b%2Fc",
                "https://p.example/v1.0/me?a=b%2Fc",
            ),
            ("https://p.example/v1", "https://p.example/v1/me", "/me", "https://p.example/v1/me"),
            (
                "https://p.example/v1",
                "HTTPS://P.example:443/v1/me",
                "/me",
                "https://p.example/v1/me",
            ),
            ("http://localhost:81", "me:run", "", ""),
            ("http://localhost:81", "a/me:run", "/a/me:run", "http://localhost:81/a/me:run"),
            (
                "https://p.example",
                "a/50%25/ü",
                "/a/50%25/%C3%BC",
                "https://p.example/a/50%25/%C3%BC",
            ),
            ("https://p.example", "", "/", "https://p.example/"),
            ("https://p.example", "a/...", "/a/...", "https://p.example/a/..."),
        ] {
            let api = api(base);
            match resolve(&api, "GET", reference, &[]) {
                Ok(resolved) => {
                    assert_eq!(resolved, path, "{reference}");
                    assert_eq!(url(&api, "GET", &resolved).unwrap().as_str(), whole);
                }
                Err(error) => assert_eq!(path, "", "{error}"),
            }
        }
    }

    #[test]
    fn an_address_is_short_and_not_encoded_again_and_again() {
        let api = api("https://p.example");
        assert!(resolve(&api, "GET", "api/a%252520b", &[]).is_ok());
        for hidden in ["api/%25252e%25252e/x".to_owned(), format!("api/%{}2e", "25".repeat(2_000))]
        {
            let refused = resolve(&api, "GET", &hidden, &[]);
            assert!(matches!(refused, Err(AddressError::Ambiguous(_))), "{hidden}");
        }
        let long = format!("api/{}", "x".repeat(MAX_BYTES));
        assert_eq!(resolve(&api, "GET", &long, &[]), Err(AddressError::TooLong));
    }

    #[test]
    fn hostile_spellings_are_refused() {
        let api = api("https://p.example/api");
        for hostile in [
            "..",
            "../admin",
            "a/../../admin",
            "a/..",
            "./a",
            "a/./b",
            "%2e%2e/admin",
            "%2E%2e/admin",
            ".%2e/admin",
            "%2e",
            "%252e%252e/admin",
            "%25252e%25252e/admin",
            "..;/../admin/..",
            "..\\admin",
            "a\\..\\b",
            "\\\\evil.example",
            "a%5cb",
            "a%5Cb",
            "a%255cb",
            "a%2fb",
            "a%2Fb",
            "a%252fb",
            "//evil.example/api/a",
            "///evil.example",
            "/\\evil.example",
            "https:evil.example",
            "https:/evil.example",
            "https:///evil.example/api/a",
            "https://evil.example/api/a",
            "https://p.example.evil.example/api/a",
            "https://evilp.example/api/a",
            "https://p.example@evil.example/api/a",
            "https://evil.example@p.example/api/a",
            "https://user:password@p.example/api/a",
            "https://p.example:8443/api/a",
            "http://p.example/api/a",
            "https://p.example./api/a",
            "https://p.example/apix",
            "https://p.example/apix/a",
            "https://p.example/api",
            "https://p.example/",
            "https://p.example",
            "https://p.example/api/../admin",
            "https://p.example/api/%2e%2e/admin",
            "https://p.example/api//a",
            "https://p.example/API/a",
            "https://p.example/%61pi/a",
            "https://p.example?/api/a",
            "https://p.example\\api/a",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:,x",
            "a#b",
            "a%00b",
            "a%2500b",
            "a%0d%0aHost:evil",
            "a\0b",
            "a\nb",
            "a\tb",
            "\thttps://evil.example",
            "ht\ntps://evil.example/",
            ".\t./admin",
            "a b",
            " a",
            "a\u{a0}b",
            "a\u{202e}b/..",
            "a%ffb",
            "%c0%ae%c0%ae/b",
            "..;a=b/c",
            "%2e%2e%3b/c",
            "a\u{7f}b",
            "a\u{85}b",
            "blob:https://p.example/api/a",
            "https://p.example/api/a#b",
            "https://[::1]/api/a",
            "//",
            "https://",
            "::",
        ] {
            let resolved = resolve(&api, "GET", hostile, &[]);
            assert!(resolved.is_err(), "{hostile:?} became {resolved:?}");
        }
    }

    #[test]
    fn query_names_and_values_are_encoded() {
        let query = [("q".to_owned(), "a&b=c d#/..".to_owned()), ("é".to_owned(), "\n".to_owned())];
        let api = api("https://p.example");
        let path = resolve(&api, "GET", "find?x=1", &query).unwrap();
        assert_eq!(path, "/find?x=1&q=a%26b%3Dc%20d%23%2F..&%C3%A9=%0A");
    }

    #[test]
    fn methods_and_paths_of_the_api_are_kept() {
        let mut api = api("https://p.example/v1");
        api.methods = vec!["GET".to_owned()];
        api.paths = vec!["api/**".to_owned(), "/pets/*/name".to_owned()];
        assert!(resolve(&api, "GET", "api/a/b", &[]).is_ok());
        assert!(resolve(&api, "GET", "pets/1/name?x=1", &[]).is_ok());
        let post = resolve(&api, "POST", "api/a", &[]);
        assert_eq!(post, Err(AddressError::Method("POST".to_owned())));
        for path in ["apix/a", "api", "pets/name", "pets//name", "pets/1/2/name", "admin/api/a"] {
            let path = resolve(&api, "GET", path, &[]);
            assert!(matches!(path, Err(AddressError::Path(_))), "{path:?}");
        }
        assert!(matches("**", "") && matches("a*c", "abc") && matches("**/z", "a/b/z"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_leads_out_of_the_base(
            pieces in proptest::collection::vec(proptest::sample::select(&[
                "a", "b", "/", "//", "..", ".", "%2e", "%2f", "%5c", "%25", "2e", "\\", "@", ":", "?", "#",
                ";", "p.example", "https://", "https:", "http://", "/api/", "api", "x", "\t", "\0", "%00",
                "ü", "&", "=", "*", "%", "[", "]", "443", "{", "}", "|", "^", "'", "\"", "<",
            ][..]), 0..12)
        ) {
            let api = api("https://p.example/api");
            if let Ok(path) = resolve(&api, "GET", &pieces.concat(), &[]) {
                let url = url(&api, "GET", &path).unwrap();
                proptest::prop_assert!(url.as_str().starts_with("https://p.example/api/"));
                proptest::prop_assert_eq!(resolve(&api, "GET", &path, &[]), Ok(path));
            }
        }
    }
}
