//! Whole configurations.

mod client_credentials;
mod problems;

use std::{fs, path::Path};

use secrecy::ExposeSecret;

use super::*;

const CANARY: &str = "canary-3f1c";
const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const TENANT: &str = "11111111-2222-3333-4444-555555555555";

/// A configuration with what has no default; `top` is put before it, `identity` into its section.
fn toml_with(top: &str, identity: &str) -> String {
    format!(
        "{top}\n[encryption]\nkeys = ['{KEY}']\n[identity]\ntenant_id = '{TENANT}'\n\
         client_id = 'errand'\nclient_secret = '{CANARY}'\n{identity}\n"
    )
}

fn load_as(name: &str, text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let prefix = format!("{}/", folder.path().display());
    Config::load(Some(&path), variables.collect::<Vec<_>>())
        .map_err(|error| error.to_string().replace(&prefix, ""))
}

fn is_pem(file: &CertificateFile, certificate: &str, private_key: &str) -> bool {
    matches!(file, CertificateFile::Pem { certificate_path, private_key_path }
        if certificate_path == Path::new(certificate) && private_key_path == Path::new(private_key))
}

fn load_toml(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    load_as("errand.toml", text, variables)
}

fn load_json(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    load_as("appsettings.json", text, variables)
}

fn instance(config: &Config) -> &Url {
    match &config.identity.dialect {
        Dialect::Entra { instance, .. } => instance,
        Dialect::TokenExchange { authority, .. } => panic!("{authority}"),
    }
}

fn tenant(config: Config) -> Tenant {
    match config.identity.dialect {
        Dialect::Entra { tenant, .. } => tenant,
        Dialect::TokenExchange { authority, .. } => panic!("{authority}"),
    }
}

#[test]
fn the_reference_file_is_complete_and_says_the_defaults() {
    let reference = include_str!("../../../docs/errand.toml");
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, format!("{KEY}\n")).unwrap();
    let secret = secret.display().to_string();
    let reference = reference
        .replace("/run/secrets/errand-keys", &secret)
        .replace("/run/secrets/errand-pfx-password", &secret)
        .replace("/run/secrets/errand-client-secret", &secret);
    let config = load_toml(&reference, &[]).unwrap();
    assert!(config.warnings.is_empty());
    assert_eq!(config.identity.client_credentials.len(), 5);
    assert_eq!(config.downstream_apis["PartnerAPI"].paths, ["api/**"]);

    let defaults = load_toml(&toml_with("", ""), &[]).unwrap();
    for (of_reference, default) in [
        (format!("{:?}", config.worker), format!("{:?}", defaults.worker)),
        (format!("{:?}", config.limits), format!("{:?}", defaults.limits)),
        (format!("{:?}", config.workflows), format!("{:?}", defaults.workflows)),
        (format!("{:?}", config.api.listen), format!("{:?}", defaults.api.listen)),
        (instance(&config).to_string(), instance(&defaults).to_string()),
        (
            config.database.url.expose_secret().to_owned(),
            defaults.database.url.expose_secret().to_owned(),
        ),
    ] {
        assert_eq!(of_reference, default);
    }
}

const APPSETTINGS: &str = r#"{
  // Logging is of another program.
  "Logging": { "LogLevel": { "Default": "Information" } },
  "AllowedHosts": "*",
  "AzureAd": {
    "Instance": "https://login.microsoftonline.com",
    "Domain": "contoso.onmicrosoft.com",
    "TenantID": "11111111-2222-3333-4444-55555555555A",
    "clientId": "66666666-7777-8888-9999-000000000000", /* Errand */
    "Audience": "api://errand",
    "Scopes": "access_as_user Jobs.Read",
    "AllowWebApiToBeAuthorizedByACL": true,
    "TokenValidationParameters": { "ValidAudiences": [ "errand" ] },
    "ClientCredentials": [
      { "SourceType": "ClientSecret", "ClientSecret": "canary-3f1c" },
    ],
    "ClientCertificates": [ { "SourceType": "Path", "CertificateDiskPath": "errand.pem" } ],
  },
  "DownstreamApis": {
    "GraphAPI": {
      "BaseUrl": "https://graph.microsoft.com/v1.0",
      "RelativePath": "me",
      "Scopes": "user.read mail.read",
    },
    "PartnerAPI": {
      "BaseUrl": "https://partnerapi.example.com/",
      "Scopes": [ "api://partner-api-id/read" ],
      "Retry": { "MaxAttempts": "3" },
    },
    "Nightly": { "BaseUrl": "https://nightly.example.com", "RequestAppToken": true },
  },
  "Errand": {
    "Encryption": { "Keys": [ "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" ] },
    "Worker": { "LeaseSeconds": 10, "concurrency": "8" },
  },
}"#;

#[test]
fn an_existing_appsettings_json_works() {
    let config = load_json(APPSETTINGS, &[]).unwrap();
    let identity = &config.identity;
    let own = Tenant::Single("11111111-2222-3333-4444-55555555555a".into());
    assert_eq!(tenant(config.clone()), own);
    assert_eq!(identity.audiences, ["api://errand", "errand"]);
    assert_eq!(identity.required_scopes, ["access_as_user", "Jobs.Read"]);
    assert!(matches!(
        identity.client_credentials.as_slice(),
        [ClientCredential::Secret(secret), ClientCredential::Certificate(certificate)]
            if secret.expose_secret() == CANARY && is_pem(&certificate.file, "errand.pem", "errand.pem")
    ));
    assert_eq!(config.downstream_apis.keys().collect::<Vec<_>>(), ["GraphAPI", "PartnerAPI"]);
    let graph = &config.downstream_apis["GraphAPI"];
    assert_eq!(graph.base_url.as_str(), "https://graph.microsoft.com/v1.0/");
    assert_eq!(graph.scopes, ["user.read", "mail.read"]);
    assert_eq!(config.downstream_apis["PartnerAPI"].retry.max_attempts, 3);
    assert_eq!(config.worker.concurrency, 8);

    let warnings = config.warnings.join("\n");
    for key in [
        "[AzureAd] Domain: ignored",
        "[AzureAd] AllowWebApiToBeAuthorizedByACL: ignored",
        "[DownstreamApis:GraphAPI] RelativePath: ignored",
        "[DownstreamApis:Nightly] RequestAppToken: ignored",
    ] {
        assert!(warnings.contains(key), "{warnings}");
    }
    assert!(!warnings.contains("Logging"), "{warnings}");
}

#[test]
fn variables_go_before_the_file_in_both_spellings() {
    let config = load_json(
        APPSETTINGS,
        &[
            ("AzureAd__ClientId", "from-dotnet"),
            ("AzureAd__ClientCredentials__0__ClientSecret", "other"),
            ("DownstreamApis__GraphAPI__BaseUrl", "https://graph.microsoft.us"),
            ("ERRAND__DOWNSTREAM_APIS__partnerapi__BASE_URL", "https://p.example/"),
            ("ERRAND__DOWNSTREAM_APIS__New__BASE_URL", "https://new.example"),
            ("ERRAND__DOWNSTREAM_APIS__New__SCOPES", "api://new/a,api://new/b"),
            ("Errand__Worker__Concurrency", "9"),
            ("ERRAND__ALLOW_INSECURE_HTTP", "True"),
            ("ERRAND__IDENTITY__REQUIRED_SCOPES", r#"["X"]"#),
            ("ERRAND_TOKEN", "not configuration"),
        ],
    )
    .unwrap();
    assert_eq!(config.identity.client_id, "from-dotnet");
    assert_eq!(config.identity.required_scopes, ["X"]);
    assert!(matches!(
        &config.identity.client_credentials[..],
        [ClientCredential::Secret(secret), _] if secret.expose_secret() == "other"
    ));
    let url = |name: &str| config.downstream_apis[name].base_url.as_str();
    assert_eq!(url("GraphAPI"), "https://graph.microsoft.us/");
    assert_eq!(url("PartnerAPI"), "https://p.example/");
    assert_eq!(config.downstream_apis["New"].scopes, ["api://new/a", "api://new/b"]);
    assert_eq!(config.worker.concurrency, 9);
    assert!(config.allow_insecure_http);
}

#[test]
fn no_file_is_needed() {
    let variables = [
        ("ERRAND__ENCRYPTION__KEYS", KEY),
        ("ERRAND__IDENTITY__TENANT_ID", TENANT),
        ("ERRAND__IDENTITY__CLIENT_ID", "errand"),
        ("ERRAND__IDENTITY__CLIENT_CREDENTIALS__0__SOURCE_TYPE", "ClientSecret"),
        ("ERRAND__IDENTITY__CLIENT_CREDENTIALS__0__CLIENT_SECRET", CANARY),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(None, variables.clone()).unwrap();
    assert_eq!(config.identity.audiences, ["errand", "api://errand"]);
    assert_eq!(config.api.public_url, "http://127.0.0.1:8080");

    let error = Config::load(None, variables.into_iter().skip(3)).unwrap_err().to_string();
    assert_eq!(
        error.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>(),
        ["ERRAND__ENCRYPTION__KEYS", "ERRAND__IDENTITY__TENANT_ID", "ERRAND__IDENTITY__CLIENT_ID"]
    );
}

#[test]
fn a_secret_can_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let url = file("url", "postgres://errand:p@db/errand\r\n");
    let keys = file("keys", &format!("{}\n{KEY}\n", KEY.replace("k1", "k2")));
    let empty = file("empty", "\n");
    let variables = [
        ("ERRAND__DATABASE__URL_FILE", url.as_str()),
        ("ERRAND__ENCRYPTION__KEYS_FILE", keys.as_str()),
    ];
    // The variable replaces `keys` of the file although it has another form.
    let config = load_toml(&toml_with("", ""), &variables).unwrap();
    assert_eq!(config.database.url.expose_secret(), "postgres://errand:p@db/errand");
    let ids: Vec<_> = config.encryption.keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(ids, ["k2", "k1"]);

    let error =
        load_toml(&toml_with("", &format!("client_secret_file = '{empty}'")), &[]).unwrap_err();
    assert_eq!(
        error,
        "errand.toml: [identity] client_secret: is given twice: here and as `client_secret_file`"
    );
    for (path, expected) in [(empty.as_str(), "is empty"), ("/no/such", "cannot read the file")] {
        let error = load_toml(&toml_with("", ""), &[("ERRAND__DATABASE__URL_FILE", path)]);
        let error = error.unwrap_err();
        assert!(error.starts_with("ERRAND__DATABASE__URL_FILE: [database] url_file: "), "{error}");
        assert!(error.contains(path) && error.contains(expected), "{error}");
    }
}

#[test]
fn a_file_that_is_missing_or_broken_is_named() {
    let error = Config::load(Some(Path::new("no/errand.toml")), []).unwrap_err().to_string();
    assert!(error.starts_with("no/errand.toml: cannot be read: "), "{error}");
    let error = load_json("{ \"AzureAd\": {\n \"TenantId\": \"common\"\n \"x\": 1 } }", &[]);
    assert!(error.unwrap_err().starts_with("appsettings.json: is not valid JSON: "));
}

#[test]
fn tenants_beside_one_need_an_allow_list() {
    let multiple = |allowed: &str| {
        load_toml(&toml_with("", allowed), &[("ERRAND__IDENTITY__TENANT_ID", "organizations")])
            .map(tenant)
    };
    assert!(multiple("").unwrap_err().contains("[identity] allowed_tenants: with `organizations`"));
    assert!(multiple("allowed_tenants = ['*', '*']").is_err());
    let authority = || "organizations".to_owned();
    assert_eq!(
        multiple("allowed_tenants = ['*']"),
        Ok(Tenant::Multiple { authority: authority(), allowed: None })
    );
    assert_eq!(
        multiple(&format!("allowed_tenants = ['{TENANT}']")),
        Ok(Tenant::Multiple { authority: authority(), allowed: Some(vec![TENANT.to_owned()]) })
    );
}

/// A configuration for any OpenID provider.
#[test]
fn sessions_are_kept_alive_after_as_many_days_as_are_said() {
    let keep_alive =
        |identity: &str| load_toml(&toml_with("", identity), &[]).unwrap().identity.keep_alive;
    let days = |days: u64| Some(Duration::from_hours(24 * days));
    assert_eq!(keep_alive(""), days(30));
    assert_eq!(keep_alive("keep_alive_days = 7"), days(7));
    assert_eq!(keep_alive("keep_alive_days = 0"), None);
}

#[test]
fn what_is_done_with_is_kept_for_a_while_or_for_ever() {
    let retention = |more: &str| {
        let retention = load_toml(&toml_with(more, ""), &[]).unwrap().retention;
        (retention.finished, retention.session_grace)
    };
    let (days, minutes) = (|days: u64| Duration::from_hours(24 * days), Duration::from_mins);
    assert_eq!(retention(""), (Some(days(30)), Some(minutes(60))));
    let shortest = "[retention]\nfinished_days = 1\nsession_grace_minutes = 0";
    assert_eq!(retention(shortest), (Some(days(1)), Some(minutes(0))));
    let for_ever = "[retention]\nfinished_days = -1\nsession_grace_minutes = -1";
    assert_eq!(retention(for_ever), (None, None));
    let variables = [("ERRAND__RETENTION__FINISHED_DAYS", "-1")];
    assert_eq!(load_toml(&toml_with("", ""), &variables).unwrap().retention.finished, None);
}

fn token_exchange_with(identity: &str, api: &str) -> String {
    format!(
        "encryption.keys = ['{KEY}']\n[identity]\ndialect = 'token-exchange'\n\
         authority = 'https://idp.example/realms/acme'\nclient_id = 'errand'\n\
         client_secret = '{CANARY}'\n{identity}\n\
         [downstream_apis.P]\nbase_url = 'https://p.example'\n{api}\n"
    )
}

#[test]
fn any_openid_provider_is_named_by_its_authority() {
    let config = load_toml(&token_exchange_with("", "scopes = ['read', 'other/write']"), &[]);
    let identity = config.unwrap().identity;
    assert_eq!(identity.audiences, ["errand"]);
    let Dialect::TokenExchange { authority, subject_token_type, refresh } = identity.dialect else {
        panic!("another dialect")
    };
    assert_eq!(authority.as_str(), "https://idp.example/realms/acme/");
    assert_eq!(subject_token_type, "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!(refresh, RefreshRequest::OfflineAccess);

    let by_audience = "extra_token_parameters = { audience = 'p', scope = 'kept' }";
    let config = load_toml(&token_exchange_with("refresh = 'none'", by_audience), &[]).unwrap();
    assert!(config.downstream_apis["P"].scopes.is_empty());
    assert!(matches!(
        config.identity.dialect,
        Dialect::TokenExchange { refresh: RefreshRequest::None, .. }
    ));
}

#[test]
fn what_does_not_fit_a_token_exchange_is_named() {
    let scopes = "scopes = ['read']";
    for (identity, api, expected) in [
        ("tenant_id = 'x'", scopes, "[identity] tenant_id: only with `dialect = \"entra\"`"),
        ("instance = 'https://x'", scopes, "[identity] instance: only with `dialect = \"entra\"`"),
        (
            "refresh = 'always'",
            scopes,
            "[identity] refresh: expected `\"offline_access\"`, `\"requested_type\"` or `\"none\"`",
        ),
        (
            "",
            "",
            "[downstream_apis.P] scopes: is required: what a token for this API is asked with, \
             unless `extra_token_parameters` has its `audience` or `resource`",
        ),
        (
            "refresh = 'requested_type'\nextra_token_parameters.requested_token_type = 'x'",
            scopes,
            "[identity] extra_token_parameters: Errand sets `requested_token_type` itself",
        ),
    ] {
        let error = load_toml(&token_exchange_with(identity, api), &[]).map(|_| ()).unwrap_err();
        assert_eq!(error, format!("errand.toml: {expected}"));
    }
    let without = token_exchange_with("", scopes).replace("authority =", "client_secret_file =");
    let error = load_toml(&without, &[]).map(|_| ()).unwrap_err();
    assert!(error.contains("[identity] authority: is required: the issuer"), "{error}");
}

#[test]
fn no_secret_is_in_debug_output_or_in_an_error() {
    let secrets = format!("database.url = 'postgres://u:{CANARY}@db/errand'");
    let config = load_toml(&toml_with(&secrets, ""), &[]).unwrap();
    let debug = format!("{config:?}");
    assert!(!debug.contains(CANARY), "{debug}");
    let bytes: Vec<_> = (0..8).map(|byte: u8| byte.to_string()).collect();
    assert!(!debug.contains(&bytes.join(", ")), "{debug}");

    for wrong in [
        format!("encryption.keys = ['{CANARY}']\nidentity.client_secret = ['{CANARY}']"),
        format!("database.url = '{CANARY}'\nencryption.keys = '{CANARY}'"),
        format!("identity.client_credentials = ['{CANARY}']"),
        format!("identity.client_credentials = [{{ client_secret = '{CANARY}' }}]"),
        format!("identity.client_secret = '{CANARY}"),
    ] {
        let error = load_toml(&wrong, &[("ERRAND__ENCRYPTION__KEYS__7", CANARY)]);
        let error = error.map(|_| ()).unwrap_err();
        assert!(!error.contains(CANARY), "{error}");
    }
}
