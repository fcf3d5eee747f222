//! Each thing that can be wrong, and the line that says so.

use super::{KEY, load_json, load_toml, toml_with};

/// What is wrong, where it stands (`""`: top, otherwise a line of `[identity]` and what follows),
/// and the whole report.
const TOML_PROBLEMS: &[(&str, &str, &str)] = &[
    ("allow_insecure_http = 'yes'", "", "allow_insecure_http: expected `true` or `false`"),
    ("databse = {}", "", "databse: unknown key; did you mean `database`?"),
    ("database = 1", "", "database: expected a table of keys"),
    (
        "database.url = 'mysql://canary-3f1c'",
        "",
        "[database] url: expected `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`",
    ),
    ("", "Client_ID = 'x'", "[identity] Client_ID: unknown key; did you mean `client_id`?"),
    ("", "zebra = 1", "[identity] zebra: unknown key"),
    (
        "api.listen = 'localhost'",
        "",
        "[api] listen: expected an address and a port such as `127.0.0.1:8080`",
    ),
    (
        "api.listen = '0.0.0.0:80'",
        "",
        "[api] public_url: is required: the address that clients know, because `listen` is not loopback",
    ),
    (
        "api.public_url = 'http://errand.example'",
        "",
        "[api] public_url: expected https: plain http is for loopback only, or with `allow_insecure_http`",
    ),
    (
        "api = { listen = '0.0.0.0:80', public_url = 'https://e.example' }",
        "instance = 'http://localhost:9'",
        "[identity] instance: an API that listens beyond loopback takes no authority on loopback, \
         such as the simulator",
    ),
    (
        "worker.lease_seconds = 2",
        "",
        "[worker] lease_seconds: expected a number of seconds from 3 to 3600",
    ),
    (
        "worker.concurrency = 0",
        "",
        "[worker] concurrency: expected a whole number from 1 to 100000",
    ),
    (
        "worker.concurrency = '9'",
        "",
        "[worker] concurrency: expected a whole number from 1 to 100000",
    ),
    ("limits.calls = -1", "", "[limits] calls: expected a whole number from 1 to 1000000000"),
    ("limits.branches = 0", "", "[limits] branches: expected a whole number from 1 to 1073741824"),
    (
        "limits.max_deadline = 'P1Y'",
        "",
        "[limits] max_deadline: expected an ISO 8601 duration such as `P400D` or `PT12H`",
    ),
    (
        "webhooks.hosts = ['a']",
        "",
        "[webhooks] secret: is required where there are `hosts`: `whsec_` and Base64",
    ),
    (
        "webhooks = { hosts = ['https://a'], secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' }",
        "",
        "[webhooks] hosts: expected a list, each a host such as `hooks.example.com` or `localhost:9000`",
    ),
    (
        "webhooks.secret = ['canary-3f1c']",
        "",
        "[webhooks] secret: expected `whsec_` and the Base64 of 24 to 64 random bytes",
    ),
    (
        "retention.finished_days = 0",
        "",
        "[retention] finished_days: expected a whole number from 1 to 36500, or -1: for ever",
    ),
    (
        "retention.session_grace_minutes = -2",
        "",
        "[retention] session_grace_minutes: expected a whole number from 0 to 5256000, or -1: for ever",
    ),
    (
        "retention.session_grace_minutes = 'canary-3f1c'",
        "",
        "[retention] session_grace_minutes: expected a whole number from 0 to 5256000, or -1: for ever",
    ),
    (
        "telemetry.otlp_endpoint = 'x'",
        "",
        "[telemetry] otlp_endpoint: `otlp_endpoint` is not supported yet",
    ),
    (
        "",
        "dialect = 'canary-3f1c'",
        "[identity] dialect: expected `\"entra\"` or `\"token-exchange\"`",
    ),
    (
        "",
        "authority = 'https://a'",
        "[identity] authority: only with `dialect = \"token-exchange\"`",
    ),
    ("", "refresh = 'none'", "[identity] refresh: only with `dialect = \"token-exchange\"`"),
    (
        "",
        "subject_token_type = 'x'",
        "[identity] subject_token_type: only with `dialect = \"token-exchange\"`",
    ),
    (
        "",
        "keep_alive_days = -1",
        "[identity] keep_alive_days: expected a whole number from 0 to 365",
    ),
    (
        "",
        "instance = 'https://user:canary-3f1c@login.example'",
        "[identity] instance: expected an https URL without user, query and fragment",
    ),
    (
        "",
        "client_authentication = 'none'",
        "[identity] client_authentication: expected `\"post\"` or `\"basic\"`",
    ),
    ("", "audiences = 'x'", "[identity] audiences: expected a list of strings, none of them empty"),
    ("", "required_scopes = []", "[identity] required_scopes: expected at least one scope"),
    (
        "",
        "allowed_tenants = ['*']",
        "[identity] allowed_tenants: expected nothing beside the id of one tenant in `tenant_id`",
    ),
    (
        "",
        "extra_token_parameters.scope = 'x'",
        "[identity] extra_token_parameters: Errand sets `scope` itself",
    ),
    ("", "client_credentials = 'x'", "[identity] client_credentials: expected a list of tables"),
    (
        "",
        "client_credentials = [{ source_type = 'KeyVault', key_vault_url = 'x' }]",
        "[identity] client_credentials.0.source_type: `KeyVault` is not supported; expected \
         `ClientSecret`, `Path`, `SignedAssertionFilePath` or `SignedAssertionFromManagedIdentity`",
    ),
    (
        "",
        "client_credentials = [{ source_type = 'canary-3f1c' }]",
        "[identity] client_credentials.0.source_type: `this` is not supported; expected \
         `ClientSecret`, `Path`, `SignedAssertionFilePath` or `SignedAssertionFromManagedIdentity`",
    ),
    (
        "",
        "client_credentials = [{ source_type = 'ClientSecret', client_secret = '' }]",
        "[identity] client_credentials.0.client_secret: is required: the secret",
    ),
    (
        "",
        "client_credentials = [{ source_type = 'Path' }]",
        "[identity] client_credentials.0.certificate_path: is required: the certificate's file, PEM \
         or PKCS#12",
    ),
    (
        "",
        "client_credentials = [{ source_type = 'Path', certificate_path = 'a.PFX', private_key_path = 'b' }]",
        "[identity] client_credentials.0.private_key_path: belongs to a certificate in PEM; PKCS#12, \
         which has a password, holds the key itself",
    ),
    (
        "",
        "client_credentials = [{ source_type = 'Path', certificate_path = 'a', algorithm = 'ES256' }]",
        "[identity] client_credentials.0.algorithm: expected `\"PS256\"` or `\"RS256\"`",
    ),
    ("", "send_x5c = 'yes'", "[identity] send_x5c: expected `true` or `false`"),
    (
        "",
        "client_credentials = [{ source_type = 'SignedAssertionFilePath' }]",
        "[identity] client_credentials.0.signed_assertion_file_path: is required: the file of the \
         assertion; AZURE_FEDERATED_TOKEN_FILE is not set either",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p?x=1'\nscopes = ['api://p/a']",
        "[downstream_apis.P] base_url: expected an https URL without user, query and fragment",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p'",
        "[downstream_apis.P] scopes: is required: what a token for this API is asked with",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p'\nscopes = ['openid', 'offline_access']",
        "[downstream_apis.P] scopes: expected at least one scope of the API itself",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p'\nscopes = ['api://p/a', 'api://q/a']",
        "[downstream_apis.P] scopes: expected scopes of one resource; another needs an API of its own",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p'\nscopes = ['api://p/a', 'api://p/.default']",
        "[downstream_apis.P] scopes: expected `.default` alone, without other scopes",
    ),
    (
        "",
        "[downstream_apis.'P P']\nbase_url = 'https://p'\nscopes = ['api://p/a']",
        "[downstream_apis] P P: expected a name of at most 64 letters, digits, `.`, `_` and `-`",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p'\nscopes = ['api://p/a']\nmax_concurrency = -1",
        "[downstream_apis.P] max_concurrency: expected a whole number from 0 to 10000",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p'\nscopes = ['api://p/a']\npaths = ['../x']",
        "[downstream_apis.P] paths: expected a list, each a pattern below `base_url` such as `api/**`",
    ),
    (
        "",
        "[downstream_apis.P]\nbase_url = 'https://p'\nscopes = ['api://p/a']\nretry.max_seconds = 0",
        "[downstream_apis.P] retry.max_seconds: expected no less than `initial_seconds`",
    ),
];

#[test]
fn each_wrong_value_is_named_with_what_was_expected() {
    for (top, identity, expected) in TOML_PROBLEMS {
        let error = load_toml(&toml_with(top, identity), &[]).map(|_| (top, identity)).unwrap_err();
        assert_eq!(error, format!("errand.toml: {expected}"));
    }
}

#[test]
fn wrong_keys_are_told_by_their_position() {
    const EXPECTED: &str = "expected `ID:BASE64-OF-32-BYTES`, ID of at most 32 letters, digits, `_` \
                            and `-`; `errand keys generate` prints one";
    let short = "k2:Y2FuYXJ5";
    for (keys, expected) in [
        (format!("{KEY},{short}"), format!("entry 2: {EXPECTED}")),
        (KEY.replace("k1:", ""), format!("entry 1: {EXPECTED}")),
        (KEY.replace("k1", "k 1").replace(' ', "$"), format!("entry 1: {EXPECTED}")),
        (format!("{KEY},{KEY}"), "entry 2: its id is there already".to_owned()),
        (String::new(), "is required: `errand keys generate` prints one".to_owned()),
        (",".to_owned(), "is required: `errand keys generate` prints one".to_owned()),
    ] {
        let error = load_toml(&toml_with("", ""), &[("ERRAND__ENCRYPTION__KEYS", &keys)]);
        let expected = format!("ERRAND__ENCRYPTION__KEYS: [encryption] keys: {expected}");
        assert_eq!(error.map(|_| ()).unwrap_err(), expected);
    }
}

#[test]
fn everything_wrong_is_reported_at_once_in_the_spelling_of_the_file() {
    let json = r#"{ "AzureAd": { "ClientCredentials": [ { "SourceType": "KeyVault" } ],
        "TenantId": "your-tenant-id" },
      "DownstreamApis": { "PartnerAPI": { "BaseUrl": "http://partner.example" } },
      "Errand": { "Worker": { "Concurency": 1 }, "Identity": {} } }"#;
    let error = load_json(json, &[("ERRAND__WORKER__LEASE_SECONDS", "soon")]).unwrap_err();
    let lines: Vec<_> = error.lines().map(|line| line.split(" expected").next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "appsettings.json: [Errand] Identity: belongs into the section `AzureAd` of this file",
            "appsettings.json: [Errand:Encryption] Keys: is required: `errand keys generate` prints one",
            "ERRAND__WORKER__LEASE_SECONDS: [Errand:Worker] lease_seconds:",
            "appsettings.json: [Errand:Worker] Concurency: unknown key; did you mean `Concurrency`?",
            "appsettings.json: [AzureAd] TenantId:",
            "appsettings.json: [AzureAd] ClientId: is required: the id of Errand's app registration",
            "appsettings.json: [AzureAd] ClientCredentials:0:SourceType: `KeyVault` is not supported;",
            "appsettings.json: [DownstreamApis:PartnerAPI] BaseUrl:",
            "appsettings.json: [DownstreamApis:PartnerAPI] Scopes: is required: what a token for this \
             API is asked with",
        ]
    );
}
