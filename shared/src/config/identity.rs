//! `[identity]`, in JSON `AzureAd`

use std::collections::BTreeMap;

use url::Url;
use uuid::Uuid;

use super::{
    ClientAuthentication, IdentityConfig, Tenant,
    address::{is_loopback, with_trailing_slash},
    client_credentials,
    environment::Platform,
    section::Section,
};

const DEFAULT_INSTANCE: &str = "https://login.microsoftonline.com/";

/// Form fields of a token request that Errand sets itself.
const OWN_PARAMETERS: [&str; 10] = [
    "assertion",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "grant_type",
    "claims",
    "refresh_token",
    "requested_token_use",
    "scope",
];

/// `None`, reported, without what has no default.
pub(super) fn read(
    section: &Section,
    platform: &Platform,
    allow_insecure_http: bool,
    api_beyond_loopback: bool,
) -> Option<IdentityConfig> {
    check_dialect(section);
    let instance = section.url("instance", allow_insecure_http).map_or_else(
        || Url::parse(DEFAULT_INSTANCE).expect("the constant is a URL"),
        with_trailing_slash,
    );
    if api_beyond_loopback && is_loopback(&instance) {
        section.problem(
            "instance",
            "an API that listens beyond loopback takes no authority on loopback, such as the simulator",
        );
    }
    let tenant = tenant(section);
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
    let client_credentials = client_credentials::read(section, platform);
    let extra_token_parameters = extra_token_parameters(section);
    let consent_redirect_uri = section.url("consent_redirect_uri", allow_insecure_http);
    section.only("keep_alive_days", 30);
    section.finish();

    let client_id = client_id?;
    Some(IdentityConfig {
        instance,
        tenant: tenant?,
        audiences: audiences
            .unwrap_or_else(|| vec![client_id.clone(), format!("api://{client_id}")]),
        client_id,
        required_scopes,
        allowed_clients,
        client_authentication,
        client_credentials,
        extra_token_parameters,
        consent_redirect_uri,
    })
}

fn check_dialect(section: &Section) {
    match section.text("dialect") {
        None | Some("entra") => {}
        Some("token-exchange") => {
            section.problem("dialect", "`dialect = \"token-exchange\"` is not supported yet");
        }
        Some(_) => section.problem("dialect", "expected `\"entra\"`"),
    }
    for key in ["authority", "subject_token_type", "refresh"] {
        section.refuse(key);
    }
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

/// `extra_token_parameters` of any section.
pub(super) fn extra_token_parameters(section: &Section) -> BTreeMap<String, String> {
    let parameters = section.text_table("extra_token_parameters");
    for name in parameters.keys().filter(|name| OWN_PARAMETERS.contains(&name.as_str())) {
        section.problem("extra_token_parameters", format!("Errand sets `{name}` itself"));
    }
    parameters
}

/// A GUID in its usual form, in lower case.
fn guid(text: &str) -> Option<String> {
    let guid = Uuid::try_parse(text).ok()?.hyphenated().to_string();
    guid.eq_ignore_ascii_case(text).then_some(guid)
}

impl IdentityConfig {
    /// Returns the authority of a tenant (its id, `organizations` or `common`), with a trailing
    /// slash: `https://login.microsoftonline.com/TENANT/`.
    pub fn authority_for(&self, tenant: &str) -> Url {
        let mut authority = self.instance.clone();
        authority
            .path_segments_mut()
            .expect("an https URL has a path")
            .pop_if_empty()
            .push(tenant)
            .push("");
        authority
    }
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
