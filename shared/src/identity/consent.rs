//! Where a user agrees to what Errand asks for.

use url::Url;

use super::{Scopes, authority::Authority};
use crate::config::{Dialect, DownstreamApi, IdentityConfig};

/// The page on which a user of `tenant` can consent to the scopes of `api`.
///
/// `None` unless `consent_redirect_uri` is configured: without it the provider would end on an error
/// page. `None` in the token-exchange dialect: there consent is between the user and the provider. There is no `state`: the redirect brings nothing that Errand would act upon; the user
/// resumes the job afterwards.
///
/// Source: RFC 6749 4.1.1; OpenID Connect Core 3.1.2.1 (`prompt=consent`).
pub fn consent_url(config: &IdentityConfig, tenant: &str, api: &DownstreamApi) -> Option<Url> {
    let Dialect::Entra { instance, .. } = &config.dialect else { return None };
    let redirect_uri = config.consent_redirect_uri.as_ref()?;
    let scope = Scopes::new(&api.scopes).ok()?.parameter();
    let mut url = Authority::new(instance.clone()).authorization_endpoint(tenant);
    url.query_pairs_mut()
        .append_pair("client_id", &config.client_id)
        .append_pair("response_type", "code")
        .append_pair("scope", &scope)
        .append_pair("redirect_uri", redirect_uri.as_str())
        .append_pair("prompt", "consent");
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::{super::test_provider, *};

    #[test]
    fn a_consent_link_names_client_scopes_and_the_way_back() {
        let instance = "https://login.example/".parse().unwrap();
        let mut config = test_provider::configuration(instance);
        let api = test_provider::downstream_api();
        assert_eq!(consent_url(&config, test_provider::TENANT, &api), None);

        config.consent_redirect_uri = Some("https://errand.example/done".parse().unwrap());
        let url = consent_url(&config, test_provider::TENANT, &api).unwrap();
        assert_eq!(url.path(), format!("/{}/oauth2/v2.0/authorize", test_provider::TENANT));
        let query: Vec<_> = url.query_pairs().into_owned().collect();
        let expected = [
            ("client_id", test_provider::CLIENT_ID),
            ("response_type", "code"),
            ("scope", "api://partner-api-id/read offline_access openid profile"),
            ("redirect_uri", "https://errand.example/done"),
            ("prompt", "consent"),
        ];
        assert_eq!(query, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
