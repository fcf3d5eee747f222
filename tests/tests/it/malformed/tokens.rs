use std::time::{SystemTime, UNIX_EPOCH};

use errand_simulator::{Simulator, UserTokenRequest};
use errand_tests::{Answer, TestApp, workflows};
use reqwest::Method;
use serde_json::{Value, json};

/// A token that is good but for one thing.
struct Defect {
    what: &'static str,
    status: u16,
    token: String,
}

#[tokio::test]
async fn a_bad_token_is_refused_and_never_reaches_the_provider() {
    let app = super::api().await;
    for defect in defects(&app.simulator) {
        let answer = submit(&app, &defect.token).await;
        assert_refused(&answer, &defect);
    }
    assert_eq!(app.simulator.token_requests(), []);
    assert_eq!(app.database.count("jobs").await, 0);
    app.finish().await;
}

#[tokio::test]
async fn only_one_bearer_token_in_the_header_is_a_credential() {
    let app = super::api().await;
    let alice = app.simulator.user_token("alice");
    let bearer = format!("Bearer {alice}");
    let basic = format!("Basic {alice}");
    let two = format!("Bearer {alice}, Bearer {alice}");
    let twice = format!("{bearer} {alice}");
    let nobody = app.user_with_token("nobody", String::new());
    let headers: [&[&str]; 9] = [
        &[],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &[&alice],
        &[&basic],
        &[&two],
        &[&twice],
        &[&bearer, &bearer],
    ];
    for values in headers {
        let url = format!("{}/v1/jobs", app.address());
        let client = errand_shared::http::client(errand_tests::PATIENCE);
        let mut request =
            client.post(url).json(&json!({ "definition": workflows::process_data(1) }));
        for value in values {
            request = request.header("authorization", *value);
        }
        let answer = nobody.send(request).await;
        answer.assert_problem(401, "unauthorized");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{values:?}");
    }
    // A token in the URL is not even looked at.
    let url = format!("{}/v1/jobs?access_token={alice}", app.address());
    let client = errand_shared::http::client(errand_tests::PATIENCE);
    let request = client.post(url).json(&json!({ "definition": workflows::process_data(1) }));
    nobody.send(request).await.assert_problem(401, "unauthorized");
    assert_eq!(app.simulator.token_requests(), []);
    app.finish().await;
}

async fn submit(app: &TestApp, token: &str) -> Answer {
    let user = app.user_with_token("nobody", token.to_owned());
    let submission = json!({ "definition": workflows::process_data(1) });
    user.send(user.request(Method::POST, "/v1/jobs").json(&submission)).await
}

#[track_caller]
fn assert_refused(answer: &Answer, Defect { what, status, token }: &Defect) {
    assert_eq!(answer.status, *status, "{what}: {}", answer.text);
    answer.assert_problem(*status, if *status == 401 { "unauthorized" } else { "forbidden" });
    let challenge = answer.header("www-authenticate");
    let code = if *status == 401 { "invalid_token" } else { "insufficient_scope" };
    assert!(challenge.contains(code), "{what}: {challenge}");
    assert!(token.len() < 20 || !answer.text.contains(token.as_str()), "{what}: {}", answer.text);
}

fn defects(simulator: &Simulator) -> Vec<Defect> {
    let header = simulator.token_header();
    let claims = simulator.user_claims(&UserTokenRequest::named("alice"));
    let good = simulator.sign(&header, &claims);
    let now = seconds_since_1970();

    let mut defects = Vec::new();
    let mut add = |status, what, token| defects.push(Defect { what, status, token });

    for (what, change) in [
        ("no algorithm", json!({ "alg": "none" })),
        ("no algorithm, in capitals", json!({ "alg": "NONE" })),
        ("the public key as a secret", json!({ "alg": "HS256" })),
        ("an algorithm that nobody asked for", json!({ "alg": "ES256" })),
        ("an algorithm that is a number", json!({ "alg": 5 })),
        ("an unknown key", json!({ "kid": "unknown" })),
        ("no key", json!({ "kid": null })),
        ("a key that is a path", json!({ "kid": "../../etc/passwd" })),
        ("a critical extension", json!({ "crit": ["b64"], "b64": false })),
        ("another type", json!({ "typ": "refresh" })),
        ("no type", json!({ "typ": null })),
    ] {
        add(401, what, simulator.sign(&changed(&header, &change), &claims));
    }
    for (what, change) in [
        ("expired", json!({ "exp": now - 600, "nbf": now - 4000, "iat": now - 4000 })),
        ("about to expire", json!({ "exp": now + 20 })),
        ("no end", json!({ "exp": null })),
        ("an end that is a text", json!({ "exp": "tomorrow" })),
        ("an end beyond the calendar", json!({ "exp": i64::MAX })),
        ("not yet good", json!({ "nbf": now + 900 })),
        ("for another audience", json!({ "aud": "api://partner-api-id" })),
        ("for no audience", json!({ "aud": null })),
        ("from another issuer", json!({ "iss": "https://evil.example/v2.0" })),
        ("from no issuer", json!({ "iss": null })),
        ("from another tenant", json!({ "tid": "99999999-9999-4999-8999-999999999999" })),
        ("from no tenant", json!({ "tid": null })),
        ("from a tenant that is a path", json!({ "tid": "../common" })),
        ("from two tenants", json!({ "TID": "99999999-9999-4999-8999-999999999999" })),
        ("of nobody", json!({ "oid": null })),
        ("of a user without a name", json!({ "oid": "" })),
        ("without scopes", json!({ "scp": null })),
        ("with empty scopes", json!({ "scp": "" })),
        ("an id_token", json!({ "nonce": "n-0S6" })),
        ("of an unknown version", json!({ "ver": "3.0" })),
        ("of no version", json!({ "ver": null })),
    ] {
        add(401, what, simulator.sign(&header, &changed(&claims, &change)));
    }
    let other_tenant = UserTokenRequest {
        tenant: Some("99999999-9999-4999-8999-999999999999".to_owned()),
        ..UserTokenRequest::named("alice")
    };
    add(
        401,
        "another tenant's own",
        simulator.sign(&header, &simulator.user_claims(&other_tenant)),
    );
    let app = UserTokenRequest { app: true, ..UserTokenRequest::named("alice") };
    add(403, "an application's own", simulator.sign(&header, &simulator.user_claims(&app)));
    let other_scope = changed(&claims, &json!({ "scp": "Jobs.Read openid" }));
    add(403, "another scope", simulator.sign(&header, &other_scope));

    let (signed, signature) = good.rsplit_once('.').expect("a token has three parts");
    let others = simulator.user_token("bob");
    let (_, others_signature) = others.rsplit_once('.').expect("a token has three parts");
    add(401, "another's signature", format!("{signed}.{others_signature}"));
    add(401, "no signature", format!("{signed}."));
    add(401, "two parts", signed.to_owned());
    add(401, "four parts", format!("{good}.{signature}"));
    add(401, "padding", format!("{good}=="));
    add(401, "garbage", "garbage".to_owned());
    add(401, "dots", "..".to_owned());
    add(401, "not base64url", "!!!.???.***".to_owned());
    let long =
        changed(&claims, &json!({ "groups": vec!["00000000-0000-4000-8000-000000000000"; 400] }));
    add(401, "20 KiB", simulator.sign(&header, &long));
    assert!(defects.last().is_some_and(|defect| defect.token.len() > 20 * 1024));
    defects
}

/// `value` with members of `change`; `null` removes one.
fn changed(value: &Value, change: &Value) -> Value {
    let mut changed = value.as_object().expect("headers and claims are objects").clone();
    for (name, value) in change.as_object().expect("so are changes") {
        changed.shift_remove(name);
        if !value.is_null() {
            changed.insert(name.clone(), value.clone());
        }
    }
    changed.into()
}

#[expect(
    clippy::disallowed_methods,
    reason = "tokens are made by the clock that is checked against"
)]
fn seconds_since_1970() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    i64::try_from(now.as_secs()).expect("and not yet the end of time")
}
