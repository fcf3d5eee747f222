use std::{collections::HashMap, sync::Arc};

use axum::{
    Form,
    extract::{State, rejection::FormRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Realm, RealmRequest, error::Refusal, subject_token};
use crate::{
    answer::{HttpAnswer, Withheld},
    apis::{APIS, Api},
};

/// `grant_type` of RFC 8693.
pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const REFRESH_TOKEN: &str = "urn:ietf:params:oauth:token-type:refresh_token";

type Parameters = HashMap<String, String>;

/// `POST /realms/acme/token`. Scripted answers come from the tenant's queue.
pub(crate) async fn token(
    State(realm): State<Arc<Realm>>,
    headers: HeaderMap,
    form: Result<Form<Parameters>, FormRejection>,
) -> Response {
    let form = form.map(|Form(form)| form).unwrap_or_default();
    let script = realm.tenant.next_script();
    let mut entry = entry(&form);
    let mut usual = None;
    if script.processes() {
        let answered = answer(&realm, &headers, &form);
        entry.error = answered.as_ref().err().map(|refusal| refusal.error);
        usual = Some(match answered {
            Ok(body) => HttpAnswer::json(200, &body),
            Err(refusal) => refusal.answer(),
        });
    }
    let answer = script.reply.in_place_of(usual);
    entry.status = answer.as_ref().map(|answer| answer.status);
    realm.log().push(entry);
    tokio::time::sleep(script.delay).await;
    answer.map_or_else(Withheld::response, |answer| {
        answer.with_header("cache-control", "no-store").into_response()
    })
}

/// `POST /realms/acme/revoke` (RFC 7009).
pub(crate) async fn revoke(
    State(realm): State<Arc<Realm>>,
    headers: HeaderMap,
    form: Result<Form<Parameters>, FormRejection>,
) -> HttpAnswer {
    let form = form.map(|Form(form)| form).unwrap_or_default();
    let endpoint = format!("{}/revoke", realm.issuer());
    let answer = match realm.authenticate(&headers, &form, &endpoint) {
        Ok(()) => {
            let token = form.get("token").map_or("", String::as_str);
            realm.refresh_tokens().revoke(token);
            HttpAnswer::text(200, "")
        }
        Err(refusal) => refusal.answer(),
    };
    realm.log().push(RealmRequest { status: Some(answer.status), ..entry(&form) });
    answer
}

/// The body of a success, or why there is none.
fn answer(realm: &Realm, headers: &HeaderMap, form: &Parameters) -> Result<Value, Refusal> {
    realm.authenticate(headers, form, &format!("{}/token", realm.issuer()))?;
    let text = |name: &str| form.get(name).map_or("", String::as_str);
    match text("grant_type") {
        EXCHANGE => {
            let user =
                subject_token::verify(realm, text("subject_token"), text("subject_token_type"))?;
            if form.contains_key("resource") {
                return Err(Refusal::of("invalid_target", "resource is not supported"));
            }
            let api = target(text("audience"))?;
            let asks_by_scope = asks_offline(api, text("scope"))?;
            let asks_by_type = match text("requested_token_type") {
                "" | ACCESS_TOKEN => false,
                REFRESH_TOKEN => true,
                _ => return Err(Refusal::of("invalid_request", "requested_token_type")),
            };
            let refresh_token = (asks_by_scope || asks_by_type)
                .then(|| realm.refresh_tokens().begin(user.clone(), api));
            let mut body = issued(realm, &realm.access_token(&user, api), refresh_token);
            let issued_type = if asks_by_type { REFRESH_TOKEN } else { ACCESS_TOKEN };
            body["issued_token_type"] = issued_type.into();
            Ok(body)
        }
        "refresh_token" => {
            let (grant, next) = realm.refresh_tokens().rotate(text("refresh_token"))?;
            Ok(issued(realm, &realm.access_token(&grant.user, grant.api), Some(next)))
        }
        _ => Err(Refusal::of("unsupported_grant_type", "use token exchange")),
    }
}

fn issued(realm: &Realm, access_token: &str, refresh_token: Option<String>) -> Value {
    let mut body = json!({
        "token_type": "Bearer",
        "access_token": access_token,
        "expires_in": realm.tenant.settings().access_token_lifetime,
    });
    if let Some(refresh_token) = refresh_token {
        body["refresh_token"] = refresh_token.into();
    }
    body
}

fn target(audience: &str) -> Result<&'static Api, Refusal> {
    let api = APIS.into_iter().find(|api| api.identifier_uri == audience);
    api.ok_or(Refusal::of("invalid_target", "the audience is not known"))
}

/// Whether `scope` asks for a refresh token, beside what `api` has.
fn asks_offline(api: &Api, scope: &str) -> Result<bool, Refusal> {
    let (offline, others): (Vec<_>, Vec<_>) =
        scope.split_whitespace().partition(|word| *word == "offline_access");
    if others.iter().any(|word| *word != api.permission) {
        return Err(Refusal::of("invalid_scope", "the scope is not known"));
    }
    Ok(!offline.is_empty())
}

fn entry(form: &Parameters) -> RealmRequest {
    let text = |name: &str| form.get(name).cloned();
    RealmRequest {
        grant_type: text("grant_type"),
        audience: text("audience"),
        scope: text("scope"),
        requested_token_type: text("requested_token_type"),
        status: None,
        error: None,
    }
}
