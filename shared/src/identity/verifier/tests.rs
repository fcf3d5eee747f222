use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use super::{
    super::{
        key_cache::UNKNOWN_KEY_PAUSE,
        test_provider::{self, CLIENT_ID, TENANT, TestKey, TestProvider},
    },
    *,
};
use crate::{
    config::{Dialect, RefreshRequest, Tenant},
    time::{Clock, ManualClock},
};

static KEY: LazyLock<TestKey> = LazyLock::new(|| TestKey::generate("key-1"));
static OTHER_KEY: LazyLock<TestKey> = LazyLock::new(|| TestKey::generate("key-2"));

const NOW: i64 = 1_700_000_000;
const OTHER_TENANT: &str = "8f1c0000-0000-4000-8000-00000000abcd";

struct Fixture {
    provider: TestProvider,
    config: IdentityConfig,
    clock: Arc<ManualClock>,
}

impl Fixture {
    /// A provider of one tenant, with one key.
    async fn start() -> Self {
        let provider = TestProvider::start().await;
        provider.publish_metadata(TENANT, TENANT);
        provider.publish_keys(&[KEY.published(&json!({}))]);
        let config = test_provider::configuration(provider.instance.clone());
        let clock = ManualClock::at(Timestamp::from_seconds(NOW).unwrap());
        Self { provider, config, clock }
    }

    /// A provider of any tenant, which publishes one issuer for all of them.
    async fn start_for_organizations(allowed: Option<&[&str]>) -> Self {
        let mut fixture = Self::start().await;
        fixture.provider.publish_metadata("organizations", "{tenantid}");
        fixture.config.dialect = Dialect::Entra {
            instance: fixture.provider.instance.clone(),
            tenant: Tenant::Multiple {
                authority: "organizations".to_owned(),
                allowed: allowed.map(|list| list.iter().map(|it| (*it).to_owned()).collect()),
            },
        };
        fixture
    }

    fn verifier(&self) -> Verifier {
        Verifier::new(&self.config, self.clock.clone())
    }

    fn issuer(&self, tenant: &str) -> String {
        format!("{}{tenant}/v2.0", self.provider.instance)
    }

    /// Claims of a good token, changed; `null` takes a claim away.
    fn claims(&self, changes: &Value) -> Value {
        let mut claims = json!({
            "ver": "2.0", "iss": self.issuer(TENANT), "aud": CLIENT_ID, "tid": TENANT,
            "oid": "user-1", "sub": "pairwise-1", "scp": "Jobs.ReadWrite other",
            "azp": "client-1", "iat": NOW, "nbf": NOW, "exp": NOW + 3600,
        });
        change(&mut claims, changes);
        claims
    }

    fn token(&self, changes: &Value) -> String {
        KEY.sign(&KEY.header(), &self.claims(changes))
    }
}

fn change(object: &mut Value, changes: &Value) {
    let object = object.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.shift_remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
}

async fn verify(verifier: &Verifier, token: &str) -> Result<Caller, VerifyError> {
    verifier.verify(Some(&format!("Bearer {token}"))).await
}

/// The description of a 401, or what it is instead.
fn reason(result: &Result<Caller, VerifyError>) -> String {
    match result {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_good_token_says_who_calls() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let token = fixture.token(&json!({"xms_cc": ["cp1"]}));
    let caller = verify(&verifier, &token).await.unwrap();
    let expected = Principal { tenant: TENANT.to_owned(), subject: "user-1".to_owned() };
    assert_eq!(caller.principal, expected);
    assert_eq!(caller.assertion.expose(), token);
    assert_eq!(caller.expires_at, Timestamp::from_seconds(NOW + 3600).unwrap());
    assert_eq!(caller.scopes, ["Jobs.ReadWrite", "other"]);
    assert_eq!(caller.client.as_deref(), Some("client-1"));
    assert!(caller.understands_claims_challenge);
}

#[tokio::test]
async fn every_form_of_a_good_token_is_accepted() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let v1 = format!("https://sts.example.com/{TENANT}/");
    for changes in [
        json!({"aud": CLIENT_ID.to_uppercase()}),
        json!({"aud": [format!("api://{CLIENT_ID}")]}),
        json!({"ver": "1.0", "iss": v1, "aud": format!("api://{CLIENT_ID}"), "appid": "c"}),
        json!({"scp": null, "scope": ["Jobs.ReadWrite"]}),
        json!({"scp": ["other Jobs.ReadWrite"]}),
        json!({"nbf": NOW + 299}),
        json!({"nbf": null}),
        json!({"exp": NOW + 60}),
        json!({"xms_cc": "cp1", "idtyp": "user", "roles": ["Reader"]}),
    ] {
        assert_eq!(reason(&verify(&verifier, &fixture.token(&changes)).await), "accepted");
    }
    let claims = fixture.claims(&json!({}));
    for (algorithm, typ) in [(Algorithm::PS256, "JWT"), (Algorithm::RS256, "application/at+JWT")] {
        let header = Header { alg: algorithm, typ: Some(typ.to_owned()), ..KEY.header() };
        assert_eq!(reason(&verify(&verifier, &KEY.sign(&header, &claims)).await), "accepted");
    }
    let token = fixture.token(&json!({}));
    assert!(verifier.verify(Some(&format!("bearer  {token} "))).await.is_ok());
}

#[tokio::test]
async fn a_request_without_one_bearer_token_has_none() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let token = fixture.token(&json!({}));
    let several = format!("Bearer {token}, Bearer {token}");
    for authorization in
        [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic dTpw"), Some(&*several)]
    {
        let error = verifier.verify(authorization).await.unwrap_err();
        assert_eq!(error, VerifyError::Missing, "{authorization:?}");
    }
}

#[tokio::test]
async fn a_token_with_wrong_claims_is_refused() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let v1 = format!("https://sts.example.com/{TENANT}/");
    let elsewhere = fixture.issuer(OTHER_TENANT);
    let graph = "00000003-0000-0000-c000-000000000000";
    let app_only = "the token is an application's own, not a user's";
    for (changes, expected) in [
        (json!({"aud": graph}), "the token is for another audience"),
        (json!({"aud": []}), "the token is for another audience"),
        (json!({"aud": format!("API://{CLIENT_ID}")}), "the token is for another audience"),
        (json!({"aud": null}), "the token is malformed"),
        (json!({"aud": 1}), "the token is malformed"),
        (json!({"iss": "https://evil.example/"}), "the token is from another issuer"),
        (json!({"iss": v1}), "the token is from another issuer"),
        (json!({"iss": elsewhere}), "the token is from another issuer"),
        (json!({"iss": elsewhere, "tid": OTHER_TENANT}), "the token is from another issuer"),
        (json!({"iss": null}), "the token is malformed"),
        (json!({"ver": "1.0"}), "the token is from another issuer"),
        (json!({"ver": "3.0"}), "the token's version is not accepted"),
        (json!({"ver": null}), "the token's version is not accepted"),
        (json!({"tid": null}), "the token names no tenant"),
        (json!({"tid": "organizations"}), "the token names no tenant"),
        (json!({"tid": TENANT.replace('-', "")}), "the token names no tenant"),
        (json!({"tid": TENANT.to_uppercase()}), "the token is from another issuer"),
        (json!({"TID": OTHER_TENANT}), "the token has several tenants"),
        (json!({"exp": NOW - 300}), "the token is expired"),
        (json!({"exp": i64::MAX}), "the token is malformed"),
        (json!({"exp": null}), "the token is malformed"),
        (json!({"exp": "soon"}), "the token is malformed"),
        (json!({"nbf": NOW + 301}), "the token is not valid yet"),
        (json!({"oid": null}), "the token names no user"),
        (json!({"oid": ""}), "the token names no user"),
        (json!({"nonce": "n"}), "the token is an id_token, not an access token"),
        (json!({"scp": null}), "the token has no scopes"),
        (json!({"scp": " "}), "the token has no scopes"),
        (json!({"scp": null, "roles": ["Errand"]}), app_only),
        (json!({"scp": null, "idtyp": "app"}), app_only),
        (json!({"scp": null, "sub": "user-1"}), app_only),
        (json!({"idtyp": "app"}), app_only),
        (json!({"scp": "other"}), "the token lacks the required scope"),
        (json!({"scp": "jobs.readwrite"}), "the token lacks the required scope"),
        (json!({"exp": NOW + 59}), "the token expires too soon"),
        (json!({"exp": NOW - 299}), "the token expires too soon"),
    ] {
        let result = verify(&verifier, &fixture.token(&changes)).await;
        assert_eq!(reason(&result), expected, "{changes}");
    }
}

#[tokio::test]
async fn a_refusal_is_401_for_a_bad_token_and_403_for_a_good_one() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let forbidden = |reason| VerifyError::Forbidden { reason };
    for (changes, expected) in [
        (json!({"scp": null}), VerifyError::invalid("the token has no scopes")),
        (json!({"scp": null, "roles": ["a"]}), forbidden(ForbiddenReason::AppOnly)),
        (json!({"scp": "other"}), forbidden(ForbiddenReason::MissingScope)),
        (json!({"exp": NOW + 59}), VerifyError::ExpiresTooSoon),
    ] {
        let error = verify(&verifier, &fixture.token(&changes)).await.unwrap_err();
        assert_eq!(error, expected, "{changes}");
    }
}

#[tokio::test]
async fn an_operator_is_a_user_or_an_application_with_the_role() {
    let mut fixture = Fixture::start().await;
    let role = json!(["Reader", "Errand.Operator"]);
    let application = json!({
        "scp": null, "idtyp": "app", "oid": "app-1", "sub": "app-1", "roles": role,
    });
    let with = |changes: &Value| {
        let mut claims = application.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    };
    let outcome = async |fixture: &Fixture, changes: &Value| {
        let header = format!("Bearer {}", fixture.token(changes));
        fixture.verifier().verify_operator(Some(&header)).await
    };
    for (changes, subject) in [
        (json!({ "roles": role }), "user-1"),
        (application.clone(), "app-1"),
        // An optional claim, which most tokens lack.
        (with(&json!({ "idtyp": null })), "app-1"),
        // Nothing is exchanged for it.
        (with(&json!({ "exp": NOW + 10 })), "app-1"),
    ] {
        let operator = outcome(&fixture, &changes).await.unwrap();
        let expected = Principal { tenant: TENANT.to_owned(), subject: subject.to_owned() };
        assert_eq!((operator.principal, operator.client.as_deref()), (expected, Some("client-1")));
    }

    let no_operator = "the token lacks the role of an operator";
    for (changes, expected) in [
        (json!({}), no_operator),
        (json!({ "roles": ["errand.operator"] }), no_operator),
        (json!({ "roles": "Errand.Operator" }), no_operator),
        (with(&json!({ "roles": ["Reader"] })), no_operator),
        (json!({ "roles": role, "scp": "other" }), "the token lacks the required scope"),
        (json!({ "roles": role, "nonce": "n" }), "the token is an id_token, not an access token"),
        (with(&json!({ "nonce": "n" })), "the token is an id_token, not an access token"),
        (with(&json!({ "oid": null })), "the token names no user"),
        (with(&json!({ "aud": "other" })), "the token is for another audience"),
        (with(&json!({ "exp": NOW - 300 })), "the token is expired"),
        (with(&json!({ "tid": OTHER_TENANT })), "the token is from another issuer"),
    ] {
        let error = outcome(&fixture, &changes).await.unwrap_err();
        assert_eq!(error.to_string(), expected, "{changes}");
    }
    assert_eq!(fixture.verifier().verify_operator(None).await, Err(VerifyError::Missing));
    // Everywhere else it remains an application, with nobody to act for.
    let error = verify(&fixture.verifier(), &fixture.token(&application)).await.unwrap_err();
    assert_eq!(error, VerifyError::Forbidden { reason: ForbiddenReason::AppOnly });

    fixture.config.allowed_clients = vec!["client-2".to_owned()];
    let forbidden = VerifyError::Forbidden { reason: ForbiddenReason::ClientNotAllowed };
    assert_eq!(outcome(&fixture, &application).await, Err(forbidden));
}

#[tokio::test]
async fn a_token_with_a_wrong_header_is_refused() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let good = fixture.token(&json!({}));
    let (_, rest) = good.split_once('.').unwrap();
    let with_algorithm = |algorithm: &str| {
        let header = json!({"alg": algorithm, "typ": "JWT", "kid": "key-1"});
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    let signed_with = |change: fn(&mut Header)| {
        let mut header = KEY.header();
        change(&mut header);
        KEY.sign(&header, &fixture.claims(&json!({})))
    };
    let algorithm = "the token's algorithm is not accepted";
    let kind = "the token is not of type JWT or at+jwt";
    let critical = "the token has critical header parameters";
    for (name, token, expected) in [
        ("none", with_algorithm("none"), algorithm),
        ("NoNe", with_algorithm("NoNe"), algorithm),
        // The published key, taken for a shared secret.
        ("HS256", with_algorithm("HS256"), algorithm),
        ("RS512", signed_with(|header| header.alg = Algorithm::RS512), algorithm),
        ("no typ", signed_with(|header| header.typ = None), kind),
        ("typ", signed_with(|header| header.typ = Some("logout+jwt".into())), kind),
        ("crit", signed_with(|header| header.crit = Some(vec!["exp".into()])), critical),
        ("empty crit", signed_with(|header| header.crit = Some(Vec::new())), critical),
        ("no kid", signed_with(|header| header.kid = None), "the token names no key"),
    ] {
        assert_eq!(reason(&verify(&verifier, &token).await), expected, "{name}");
    }
}

#[tokio::test]
async fn a_token_that_its_provider_did_not_sign_as_it_is_is_refused() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let claims = fixture.claims(&json!({}));
    let good = fixture.token(&json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = fixture.token(&json!({"oid": "admin"}));
    let swapped = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
    // A key that the token brings along, and one that it points to.
    let brought = Header { jwk: Some(OTHER_KEY.public_key()), ..KEY.header() };
    let url = Some(format!("{}keys", fixture.provider.instance));
    let pointed = Header { jku: url.clone(), x5u: url, ..OTHER_KEY.header() };

    let wrong = "the token's signature is wrong";
    for (name, token, expected) in [
        ("another's", OTHER_KEY.sign(&KEY.header(), &claims), wrong),
        ("other claims", swapped, wrong),
        ("no signature", format!("{signed}."), wrong),
        ("key in the token", OTHER_KEY.sign(&brought, &claims), wrong),
        (
            "key elsewhere",
            OTHER_KEY.sign(&pointed, &claims),
            "the token is signed with an unknown key",
        ),
    ] {
        assert_eq!(reason(&verify(&verifier, &token).await), expected, "{name}");
    }
    assert_eq!(reason(&verify(&verifier, &good).await), "accepted");
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_refused() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let good = fixture.token(&json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let twice = {
        let claims = fixture.claims(&json!({})).to_string();
        let claims = format!(r#"{{"tid":"{TENANT}",{}"#, &claims[1..]);
        let header = signed.split_once('.').unwrap().0;
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims))
    };
    let malformed = "the token is malformed";
    let too_long = format!("{good}{}", "A".repeat(16 * 1024));
    for (name, token, expected) in [
        ("a claim twice", twice, malformed),
        ("two parts", signed.to_owned(), malformed),
        ("four parts", format!("{good}.x"), malformed),
        ("no base64", "%.%.%".to_owned(), malformed),
        ("garbage", "garbage".to_owned(), malformed),
        ("too long", too_long, "the token is too long"),
    ] {
        assert_eq!(reason(&verify(&verifier, &token).await), expected, "{name}");
    }
    assert_eq!(fixture.provider.fetches("/keys"), 0);
}

#[tokio::test]
async fn a_token_with_any_character_changed_is_refused() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let good = fixture.token(&json!({}));
    verify(&verifier, &good).await.unwrap();
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verify(&verifier, &changed).await.is_err(), "{at}: {changed}");
    }
}

#[tokio::test]
async fn only_listed_clients_may_call_if_there_is_a_list() {
    let mut fixture = Fixture::start().await;
    fixture.config.allowed_clients = vec!["CLIENT-2".to_owned()];
    let verifier = fixture.verifier();
    let forbidden = VerifyError::Forbidden { reason: ForbiddenReason::ClientNotAllowed };
    for changes in [json!({}), json!({"azp": null})] {
        assert_eq!(verify(&verifier, &fixture.token(&changes)).await.unwrap_err(), forbidden);
    }
    for changes in [json!({"azp": "client-2"}), json!({"azp": null, "appid": "Client-2"})] {
        assert!(verify(&verifier, &fixture.token(&changes)).await.is_ok());
    }
}

#[tokio::test]
async fn users_of_several_tenants_come_by_one_published_issuer() {
    let fixture = Fixture::start_for_organizations(Some(&[TENANT])).await;
    let verifier = fixture.verifier();
    assert!(verify(&verifier, &fixture.token(&json!({}))).await.is_ok());
    let other = json!({"tid": OTHER_TENANT, "iss": fixture.issuer(OTHER_TENANT)});
    assert_eq!(
        reason(&verify(&verifier, &fixture.token(&other)).await),
        "the token is from a tenant that may not call"
    );
    let literal = json!({"iss": fixture.issuer("{tenantid}")});
    assert_eq!(
        reason(&verify(&verifier, &fixture.token(&literal)).await),
        "the token is from another issuer"
    );
    assert_eq!(fixture.provider.fetches("/keys"), 1);

    let fixture = Fixture::start_for_organizations(None).await;
    let other = json!({"tid": OTHER_TENANT, "iss": fixture.issuer(OTHER_TENANT)});
    let caller = verify(&fixture.verifier(), &fixture.token(&other)).await.unwrap();
    assert_eq!(caller.principal.tenant, OTHER_TENANT);
}

#[tokio::test]
async fn a_key_signs_only_for_its_own_issuer_cloud_use_and_algorithm() {
    let fixture = Fixture::start_for_organizations(None).await;
    let template = fixture.issuer("{tenantid}");
    let v1 = json!({"ver": "1.0", "iss": format!("https://sts.example.com/{TENANT}/")});
    let foreign = "the token's key may not sign for its issuer";
    let unknown = "the token is signed with an unknown key";
    for (key, changes, expected) in [
        (json!({"issuer": template}), json!({}), "accepted"),
        (json!({"issuer": template}), v1, "accepted"),
        (json!({"issuer": fixture.issuer(OTHER_TENANT)}), json!({}), foreign),
        (json!({"issuer": "https://elsewhere.example/"}), json!({}), foreign),
        (json!({"cloud_instance_name": "example.com"}), json!({}), "accepted"),
        (json!({"cloud_instance_name": "example.us"}), json!({}), unknown),
        (json!({"use": "sig", "alg": "RS256"}), json!({}), "accepted"),
        (json!({"use": "enc"}), json!({}), unknown),
        (json!({"alg": "PS256"}), json!({}), "the token's signature is wrong"),
        (json!({"kty": "EC"}), json!({}), unknown),
    ] {
        fixture.provider.publish_keys(&[json!({"kty": "odd"}), KEY.published(&key)]);
        let result = verify(&fixture.verifier(), &fixture.token(&changes)).await;
        assert_eq!(reason(&result), expected, "{key}");
    }
}

#[tokio::test]
async fn keys_at_another_origin_are_not_fetched() {
    let fixture = Fixture::start().await;
    let elsewhere = TestProvider::start().await;
    elsewhere.publish_keys(&[KEY.published(&json!({}))]);
    fixture.provider.publish(
        &format!("/{TENANT}/v2.0/.well-known/openid-configuration"),
        json!({
            "issuer": fixture.issuer(TENANT), "jwks_uri": format!("{}keys", elsewhere.instance),
        }),
    );
    let error = verify(&fixture.verifier(), &fixture.token(&json!({}))).await.unwrap_err();
    assert!(matches!(error, VerifyError::Unavailable { .. }));
    assert_eq!(elsewhere.fetches("/keys"), 0);
}

#[tokio::test]
async fn a_new_key_is_found_without_a_restart() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    assert!(verify(&verifier, &fixture.token(&json!({}))).await.is_ok());

    fixture.provider.publish_keys(&[OTHER_KEY.published(&json!({}))]);
    let new = OTHER_KEY.sign(&OTHER_KEY.header(), &fixture.claims(&json!({})));
    assert!(verify(&verifier, &new).await.is_ok());
    assert_eq!(
        reason(&verify(&verifier, &fixture.token(&json!({}))).await),
        "the token is signed with an unknown key"
    );
}

#[tokio::test]
async fn unknown_keys_cause_one_fetch_and_do_not_block_a_roll_over() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    verifier.warm().await.unwrap();
    assert_eq!(fixture.provider.fetches("/keys"), 1);

    let claims = fixture.claims(&json!({}));
    let strangers: Vec<String> = (0..20)
        .map(|number| {
            let header = Header { kid: Some(format!("stranger-{number}")), ..KEY.header() };
            KEY.sign(&header, &claims)
        })
        .chain([OTHER_KEY.sign(&OTHER_KEY.header(), &claims)])
        .collect();
    let attempts = strangers.iter().map(|token| verify(&verifier, token));
    for result in futures::future::join_all(attempts).await {
        assert_eq!(reason(&result), "the token is signed with an unknown key");
    }
    assert_eq!(fixture.provider.fetches("/keys"), 2);

    // The key that a stranger named before it was published is found as soon as any other.
    fixture.provider.publish_keys(&[OTHER_KEY.published(&json!({}))]);
    fixture.clock.advance(UNKNOWN_KEY_PAUSE);
    assert!(verify(&verifier, strangers.last().unwrap()).await.is_ok());
    assert_eq!(fixture.provider.fetches("/keys"), 3);
}

#[tokio::test]
async fn many_first_callers_cause_one_fetch() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    assert!(!verifier.is_ready());
    let token = fixture.token(&json!({}));
    let attempts = (0..20).map(|_| verify(&verifier, &token));
    assert!(futures::future::join_all(attempts).await.iter().all(Result::is_ok));
    assert_eq!(fixture.provider.fetches("/keys"), 1);
    assert!(verifier.is_ready());
}

#[tokio::test]
async fn keys_outlive_an_unreachable_provider_for_a_day() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    verifier.warm().await.unwrap();
    fixture.provider.publish("/keys", Value::Null);

    let hours = |hours: u64| Duration::from_hours(hours);
    fixture.clock.advance(hours(23));
    let late = NOW + 24 * 60 * 60;
    let token = fixture.token(&json!({"exp": late}));
    assert!(verify(&verifier, &token).await.is_ok());
    assert!(verifier.is_ready());

    fixture.clock.advance(hours(1));
    let token = fixture.token(&json!({"exp": late + 3600}));
    let error = verify(&verifier, &token).await.unwrap_err();
    assert!(matches!(error, VerifyError::Unavailable { .. }), "{error:?}");
    assert!(!verifier.is_ready());
}

#[tokio::test]
async fn without_keys_nothing_is_said_of_a_token_until_the_provider_is_back() {
    let fixture = Fixture::start().await;
    fixture.provider.publish("/keys", Value::Null);
    let verifier = fixture.verifier();
    let token = fixture.token(&json!({}));
    let VerifyError::Unavailable { retry_after } = verify(&verifier, &token).await.unwrap_err()
    else {
        panic!("unavailable")
    };
    // Others do not ask again at once.
    assert!(verify(&verifier, &token).await.is_err());
    assert_eq!(fixture.provider.fetches("/keys"), 1);

    fixture.provider.publish_keys(&[KEY.published(&json!({}))]);
    fixture.clock.advance(retry_after);
    assert!(verify(&verifier, &token).await.is_ok());
}

#[tokio::test]
async fn old_keys_serve_while_new_ones_are_fetched() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    verifier.warm().await.unwrap();
    let half_a_day = Duration::from_hours(13);
    fixture.clock.advance(half_a_day);
    let token = fixture.token(&json!({"exp": NOW + 14 * 60 * 60}));
    for _ in 0..20 {
        assert!(verify(&verifier, &token).await.is_ok());
    }
    // The renewal runs beside; it is over when somebody has to wait for it.
    let stranger = Header { kid: Some("stranger".to_owned()), ..KEY.header() };
    let stranger = KEY.sign(&stranger, &fixture.claims(&json!({"exp": NOW + 14 * 60 * 60})));
    assert!(verify(&verifier, &stranger).await.is_err());
    assert_eq!(fixture.provider.fetches("/keys"), 3);
}

#[tokio::test]
async fn a_signature_is_checked_once_as_long_as_the_keys_are_the_same() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let good = fixture.token(&json!({}));
    verify(&verifier, &good).await.unwrap();
    // What is remembered is believed: so it would be of a token whose signature is wrong.
    let wrong = OTHER_KEY.sign(&KEY.header(), &fixture.claims(&json!({})));
    let hash = |token: &str| UserAssertion::new(token).hash();
    let known = verifier.verified.get(&hash(&good)).unwrap();
    verifier.verified.insert(hash(&wrong), known);
    assert_eq!(reason(&verify(&verifier, &wrong).await), "accepted");

    // Somebody names a key that is not there, so the keys are fetched, and are the same.
    let stranger = Header { kid: Some("stranger".to_owned()), ..KEY.header() };
    let stranger = KEY.sign(&stranger, &fixture.claims(&json!({})));
    verify(&verifier, &stranger).await.unwrap_err();
    assert_eq!(fixture.provider.fetches("/keys"), 2);
    assert_eq!(reason(&verify(&verifier, &wrong).await), "the token's signature is wrong");
    assert_eq!(reason(&verify(&verifier, &good).await), "accepted");
}

#[tokio::test]
async fn a_refused_token_is_not_remembered_as_signed() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let token = OTHER_KEY.sign(&KEY.header(), &fixture.claims(&json!({})));
    for _ in 0..2 {
        assert_eq!(reason(&verify(&verifier, &token).await), "the token's signature is wrong");
    }
    assert!(!verifier.verified.contains_key(&UserAssertion::new(token).hash()));
}

#[tokio::test]
async fn what_depends_on_time_is_checked_each_time() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let token = fixture.token(&json!({"nbf": NOW + 400, "exp": NOW + 1000}));
    for (seconds, expected) in [
        (0, "the token is not valid yet"),
        (100, "accepted"),
        (940, "accepted"),
        (941, "the token expires too soon"),
        (1300, "the token is expired"),
    ] {
        let now = Timestamp::from_seconds(NOW).unwrap() + Duration::from_secs(seconds);
        fixture.clock.advance(now.since(fixture.clock.now()));
        assert_eq!(reason(&verify(&verifier, &token).await), expected, "after {seconds} s");
    }
}

#[tokio::test]
async fn a_remembered_token_is_no_more_than_what_it_is_asked_for() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let header = format!("Bearer {}", fixture.token(&json!({})));
    assert!(verifier.verify(Some(&header)).await.is_ok());
    let operator = verifier.verify_operator(Some(&header)).await.unwrap_err();
    assert_eq!(operator, VerifyError::Forbidden { reason: ForbiddenReason::NotOperator });

    let application = json!({"scp": null, "idtyp": "app", "roles": ["Errand.Operator"]});
    let header = format!("Bearer {}", fixture.token(&application));
    assert!(verifier.verify_operator(Some(&header)).await.is_ok());
    let user = verifier.verify(Some(&header)).await.unwrap_err();
    assert_eq!(user, VerifyError::Forbidden { reason: ForbiddenReason::AppOnly });
}

#[tokio::test]
async fn what_is_remembered_of_tokens_is_bounded_and_shows_nothing_of_them() {
    let fixture = Fixture::start().await;
    let verifier = fixture.verifier();
    let token = fixture.token(&json!({"sub": "a-secret-subject"}));
    verify(&verifier, &token).await.unwrap();
    let hash = UserAssertion::new(token.as_str()).hash();
    let known = verifier.verified.get(&hash).unwrap();
    let policy = verifier.verified.policy();
    assert_eq!(policy.time_to_live(), Some(REMEMBERED));
    for number in 0..2 * CAPACITY / u64::from(known.weight) {
        let hash = UserAssertion::new(number.to_string()).hash();
        verifier.verified.insert(hash, Arc::clone(&known));
    }
    verifier.verified.run_pending_tasks();
    assert!(verifier.verified.weighted_size() <= CAPACITY);
    assert!(known.weight as usize >= token.len() - 1);
    let shown = format!("{verifier:?}");
    assert!(shown.contains("key-1") && !shown.contains("a-secret-subject"));
}

/// A provider that is not Entra.
async fn openid() -> Fixture {
    let fixture = Fixture::start().await;
    fixture.provider.publish_openid_metadata(&json!({}));
    let config = test_provider::token_exchange(&fixture.provider.instance, RefreshRequest::None);
    Fixture { config, ..fixture }
}

impl Fixture {
    /// A good token of that provider, changed; `null` takes a claim away.
    fn openid_token(&self, changes: &Value) -> String {
        let mut claims = json!({
            "iss": format!("{}realm", self.provider.instance), "aud": ["account", CLIENT_ID],
            "sub": "u-1", "scope": "Jobs.ReadWrite email", "azp": "frontend",
            "preferred_username": "alice", "iat": NOW, "exp": NOW + 3600,
        });
        change(&mut claims, changes);
        let header = Header { typ: Some("at+jwt".to_owned()), ..KEY.header() };
        KEY.sign(&header, &claims)
    }
}

#[tokio::test]
async fn a_user_of_any_provider_is_known_by_issuer_and_subject() {
    let fixture = openid().await;
    let verifier = fixture.verifier();
    for (changes, client) in [
        (json!({}), Some("frontend")),
        // Keycloak before 24; Okta; Auth0; RFC 9068.
        (json!({"nonce": "n", "typ": "Bearer"}), Some("frontend")),
        (
            json!({"scope": null, "scp": ["Jobs.ReadWrite"], "azp": null, "cid": "c", "ver": 1}),
            Some("c"),
        ),
        (
            json!({"aud": CLIENT_ID, "gty": "password", "preferred_username": null}),
            Some("frontend"),
        ),
        (json!({"azp": null, "client_id": "c", "roles": {"a": 1}, "tid": 7}), Some("c")),
        (json!({"azp": null}), None),
    ] {
        let caller = verify(&verifier, &fixture.openid_token(&changes)).await.unwrap();
        let issuer = format!("{}realm", fixture.provider.instance);
        assert_eq!(caller.principal, Principal { tenant: issuer, subject: "u-1".to_owned() });
        assert_eq!(caller.client.as_deref(), client, "{changes}");
    }
}

#[tokio::test]
async fn a_token_of_any_provider_is_checked_like_any_other() {
    let fixture = openid().await;
    let verifier = fixture.verifier();
    let app_only = "the token is an application's own, not a user's";
    let issuer = format!("{}realm/", fixture.provider.instance);
    for (changes, expected) in [
        (json!({"iss": issuer}), "the token is from another issuer"),
        (json!({"aud": "account"}), "the token is for another audience"),
        (json!({"exp": NOW - 300}), "the token is expired"),
        (json!({"at_hash": "h"}), "the token is an id_token, not an access token"),
        (json!({"scope": null}), "the token has no scopes"),
        (json!({"sub": ""}), "the token names no user"),
        (json!({"sub": null}), app_only),
        (json!({"sub": "frontend", "preferred_username": null}), app_only),
        (json!({"sub": "frontend@clients", "preferred_username": null}), app_only),
        (json!({"gty": "client-credentials"}), app_only),
        (json!({"preferred_username": "service-account-frontend"}), app_only),
        (json!({"scope": "email"}), "the token lacks the required scope"),
        (json!({"exp": NOW + 59}), "the token expires too soon"),
    ] {
        let result = verify(&verifier, &fixture.openid_token(&changes)).await;
        assert_eq!(reason(&result), expected, "{changes}");
    }
    // A user whose id happens to be the client's says who they are.
    let named = fixture.openid_token(&json!({"sub": "frontend"}));
    assert_eq!(reason(&verify(&verifier, &named).await), "accepted");
    let entra = verify(&verifier, &fixture.token(&json!({}))).await;
    assert_eq!(reason(&entra), "the token is from another issuer");
}
