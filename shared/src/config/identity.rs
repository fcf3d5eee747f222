//! `[identity]`, in JSON `AzureAd`

use std::{collections::BTreeMap, time::Duration};

use url::Url;
use uuid::Uuid;

use super::{
    ClientAuthentication, Dialect, IdentityConfig, RefreshRequest, Tenant,
    address::{is_loopback, with_trailing_slash},
    client_credentials,
    environment::Platform,
    section::Section,
};

const DEFAULT_INSTANCE: &str = "https://login.microsoftonline.com/";

/// What a user's token is by default (RFC 8693 3).
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Form fields of a token request that Errand sets itself, in any dialect.
const OWN_PARAMETERS: [&str; 11] = [
    "assertion",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "grant_type",
    "claims",
    "refresh_token",
    "requested_token_use",
    "subject_token",
    "subject_token_type",
];

/// `None`, reported, without what has no default.
pub(super) fn read(
    section: &Section,
    platform: &Platform,
    allow_insecure_http: bool,
    api_beyond_loopback: bool,
) -> Option<IdentityConfig> {
    let dialect = dialect(section, allow_insecure_http, api_beyond_loopback);
    let client_id = section.parsed("client_id", "the id of Errand's app registration", |text| {
        text.chars()
            .all(|c| c.is_ascii_graphic() && !"[]<>{}\"".contains(c))
            .then(|| text.to_owned())
    });
    let client_id = section.required("client_id", client_id, "the id of Errand's app registration");
    let audiences = section.texts("audiences").filter(|audiences| !audiences.is_empty());
    let required_scopes =
        section.texts("required_scopes").unwrap_or_else(|| vec!["Jobs.ReadWrite".to_owned()]);
    if required_scopes.is_empty() {
        section.problem("required_scopes", "expected at least one scope");
    }
    let client_authentication = section
        .parsed("client_authentication", "`\"post\"` or `\"basic\"`", |text| match text {
            "post" => Some(ClientAuthentication::Post),
            "basic" => Some(ClientAuthentication::Basic),
            _ => None,
        })
        .unwrap_or(ClientAuthentication::Post);
    let allowed_clients = section.texts("allowed_clients").unwrap_or_default();
    let client_credentials = client_credentials::read(section, platform, dialect.as_ref());
    let extra_token_parameters = extra_token_parameters(section, dialect.as_ref());
    let consent_redirect_uri = section.url("consent_redirect_uri", allow_insecure_http);
    let keep_alive = section.number("keep_alive_days", 0..=365).unwrap_or(30_u64);
    section.finish();

    let (client_id, dialect) = (client_id?, dialect?);
    let own_audiences = || match &dialect {
        Dialect::Entra { .. } => vec![client_id.clone(), format!("api://{client_id}")],
        Dialect::TokenExchange { .. } => vec![client_id.clone()],
    };
    Some(IdentityConfig {
        audiences: audiences.unwrap_or_else(own_audiences),
        dialect,
        client_id,
        required_scopes,
        allowed_clients,
        client_authentication,
        client_credentials,
        extra_token_parameters,
        consent_redirect_uri,
        keep_alive: (keep_alive > 0).then(|| Duration::from_hours(24 * keep_alive)),
    })
}

fn dialect(
    section: &Section,
    allow_insecure_http: bool,
    api_beyond_loopback: bool,
) -> Option<Dialect> {
    let not_on_loopback = |key: &str, url: &Url| {
        if api_beyond_loopback && is_loopback(url) {
            let message = "an API that listens beyond loopback takes no authority on loopback, \
                           such as the simulator";
            section.problem(key, message);
        }
    };
    if section.text("dialect") == Some("token-exchange") {
        for key in ["instance", "tenant_id", "allowed_tenants"] {
            section.only_of_dialect(key, "entra");
        }
        let authority = section.url("authority", allow_insecure_http).map(with_trailing_slash);
        let what = "the issuer, below which `.well-known/openid-configuration` is found";
        let authority = section.required("authority", authority, what)?;
        not_on_loopback("authority", &authority);
        return Some(Dialect::TokenExchange {
            authority,
            subject_token_type: section
                .text("subject_token_type")
                .unwrap_or(ACCESS_TOKEN_TYPE)
                .to_owned(),
            refresh: refresh_request(section),
        });
    }
    if section.text("dialect").is_some_and(|word| word != "entra") {
        section.problem("dialect", "expected `\"entra\"` or `\"token-exchange\"`");
    }
    for key in ["authority", "subject_token_type", "refresh"] {
        section.only_of_dialect(key, "token-exchange");
    }
    let instance = section.url("instance", allow_insecure_http).map_or_else(
        || Url::parse(DEFAULT_INSTANCE).expect("the constant is a URL"),
        with_trailing_slash,
    );
    not_on_loopback("instance", &instance);
    Some(Dialect::Entra { instance, tenant: tenant(section)? })
}

fn refresh_request(section: &Section) -> RefreshRequest {
    let expected = "`\"offline_access\"`, `\"requested_type\"` or `\"none\"`";
    let request = section.parsed("refresh", expected, |text| match text {
        "offline_access" => Some(RefreshRequest::OfflineAccess),
        "requested_type" => Some(RefreshRequest::RequestedType),
        "none" => Some(RefreshRequest::None),
        _ => None,
    });
    request.unwrap_or(RefreshRequest::OfflineAccess)
}

fn tenant(section: &Section) -> Option<Tenant> {
    const EXPECTED: &str = "the tenant's id (a GUID), `organizations` or `common`";
    let tenant = section.parsed("tenant_id", EXPECTED, |text| match text {
        "organizations" | "common" => {
            Some(Tenant::Multiple { authority: text.to_owned(), allowed: Some(Vec::new()) })
        }
        id => guid(id).map(Tenant::Single),
    });
    let tenant = section.required("tenant_id", tenant, EXPECTED);
    let allowed = section
        .parsed_texts("allowed_tenants", "the id of a tenant (a GUID), or only `*`", |text| {
            if text == "*" { Some(None) } else { guid(text).map(Some) }
        })
        .unwrap_or_default();
    let any = allowed.contains(&None);
    match tenant? {
        Tenant::Single(id) => {
            if any || allowed.iter().flatten().any(|other| *other != id) {
                section.problem(
                    "allowed_tenants",
                    "expected nothing beside the id of one tenant in `tenant_id`",
                );
            }
            Some(Tenant::Single(id))
        }
        Tenant::Multiple { authority, .. } => {
            if allowed.is_empty() || (any && allowed.len() > 1) {
                section.problem(
                    "allowed_tenants",
                    format!(
                        "with `{authority}` expected the ids of tenants that may come, or only `*`"
                    ),
                );
            }
            let allowed = if any { None } else { allowed.into_iter().collect() };
            Some(Tenant::Multiple { authority, allowed })
        }
    }
}

/// `extra_token_parameters` of any section; without `dialect` the rules of Entra's.
///
/// In the token-exchange dialect a refresh has no `scope` of its own, so one may be given here; an
/// exchange has, and that one counts.
pub(super) fn extra_token_parameters(
    section: &Section,
    dialect: Option<&Dialect>,
) -> BTreeMap<String, String> {
    let parameters = section.text_table("extra_token_parameters");
    let is_own = |name: &str| {
        let by_dialect = match dialect {
            None | Some(Dialect::Entra { .. }) => name == "scope",
            Some(Dialect::TokenExchange { refresh: RefreshRequest::RequestedType, .. }) => {
                name == "requested_token_type"
            }
            Some(Dialect::TokenExchange { .. }) => false,
        };
        by_dialect || OWN_PARAMETERS.contains(&name)
    };
    for name in parameters.keys().filter(|name| is_own(name)) {
        section.problem("extra_token_parameters", format!("Errand sets `{name}` itself"));
    }
    parameters
}

/// A GUID in its usual form, in lower case.
fn guid(text: &str) -> Option<String> {
    let guid = Uuid::try_parse(text).ok()?.hyphenated().to_string();
    guid.eq_ignore_ascii_case(text).then_some(guid)
}

impl Tenant {
    /// Returns the segment of the authority where no user has said which tenant is meant.
    pub fn segment(&self) -> &str {
        match self {
            Self::Single(id) => id,
            Self::Multiple { authority, .. } => authority,
        }
    }
}
