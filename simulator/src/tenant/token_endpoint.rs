use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Form,
    extract::{Path, State, rejection::FormRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    ClientAuthentication, Tenant, TokenRequest, client_authentication::Credential,
    entra_error::EntraError, refresh_tokens::Grant, scopes::Scopes, user_assertion,
};
use crate::{
    answer::{HttpAnswer, Reply, ScriptedAnswer, Withheld},
    user::random_id,
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const REFRESH_TOKEN: &str = "refresh_token";

/// `POST /{tenant}/oauth2/v2.0/token`.
///
/// All effects come first and in one go: a client that gives up waiting changes nothing any more.
/// What a test has put in the queue goes before hostility.
pub(crate) async fn token(
    State(tenant): State<Arc<Tenant>>,
    Path(tenant_id): Path<String>,
    headers: HeaderMap,
    form: Result<Form<HashMap<String, String>>, FormRejection>,
) -> Response {
    let form = form.map(|Form(form)| form).unwrap_or_default();
    let script = next_answer(&tenant, &form);
    let mut entry = entry(&tenant, &tenant_id, &headers, &form);

    let correlation_id = entry.client_request_id.clone().unwrap_or_else(random_id);
    let mut usual = None;
    if script.processes() {
        let answered = answer(&tenant, &tenant_id, &headers, &form);
        entry.error_code = answered.as_ref().err().map(|error| error.code);
        usual = Some(match answered {
            Ok(body) => HttpAnswer::json(200, &body),
            Err(error) => error.answer(tenant.clock.now(), &correlation_id),
        });
    }
    let answer = script.reply.in_place_of(usual);
    entry.status = answer.as_ref().map(|answer| answer.status);
    let open = OpenRequest::begin(&tenant, entry);
    tokio::time::sleep(script.delay).await;
    open.end();
    answer.map_or_else(Withheld::response, |answer| {
        answer
            .with_header("cache-control", "no-store, no-cache")
            .with_header("client-request-id", &correlation_id)
            .into_response()
    })
}

fn next_answer(tenant: &Tenant, form: &HashMap<String, String>) -> ScriptedAnswer {
    let is_refresh = form.get("grant_type").is_some_and(|grant_type| grant_type == REFRESH_TOKEN);
    let scripted = tenant.next_script();
    let is_usual = scripted == Reply::Usual.into();
    let fate = if is_refresh && is_usual { tenant.next_fate() } else { None };
    fate.unwrap_or(scripted)
}

/// A request in the log that has no end yet. Dropped before it has, its client has gone away.
struct OpenRequest<'a> {
    tenant: &'a Tenant,
    index: usize,
    is_answered: bool,
}

impl<'a> OpenRequest<'a> {
    fn begin(tenant: &'a Tenant, entry: TokenRequest) -> Self {
        let requests = &mut tenant.log().token_requests;
        requests.push(entry);
        Self { tenant, index: requests.len() - 1, is_answered: false }
    }

    fn end(mut self) {
        self.is_answered = true;
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        let entry = &mut self.tenant.log().token_requests[self.index];
        entry.ended_at = Some(self.tenant.started.elapsed());
        if !self.is_answered {
            entry.status = None;
        }
    }
}

/// What the log keeps of a request, before it is answered.
fn entry(
    tenant: &Tenant,
    tenant_id: &str,
    headers: &HeaderMap,
    form: &HashMap<String, String>,
) -> TokenRequest {
    let text = |name: &str| form.get(name).cloned();
    let refresh_token = form.get(REFRESH_TOKEN);
    TokenRequest {
        tenant: tenant_id.to_owned(),
        grant_type: text("grant_type").unwrap_or_default(),
        scope: text("scope").unwrap_or_default(),
        claims: text("claims"),
        client_authentication: Credential::of(headers, form).map(|credential| credential.method),
        refresh_token_hash: refresh_token
            .map(|token| BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()))),
        reuse: refresh_token.is_some_and(|token| tenant.refresh_tokens.is_replaced(token)),
        client_request_id: headers
            .get("client-request-id")
            .and_then(|value| Some(value.to_str().ok()?.to_owned())),
        received_at: tenant.started.elapsed(),
        ended_at: None,
        status: None,
        error_code: None,
    }
}

/// The body of a success, or why there is none.
fn answer(
    tenant: &Tenant,
    tenant_id: &str,
    headers: &HeaderMap,
    form: &HashMap<String, String>,
) -> Result<Value, EntraError> {
    if matches!(tenant_id, "common" | "organizations" | "consumers") {
        return Err(50194.into());
    }
    if Uuid::parse_str(tenant_id).is_err() {
        return Err(90002.into());
    }
    let required = |name: &str| {
        form.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| EntraError::about(900_144, format!("Missing: '{name}'.")))
    };
    let grant_type = required("grant_type")?;

    let credential = Credential::of(headers, form).ok_or(7_000_218)?;
    let token_endpoint = format!("{}/{tenant_id}/oauth2/v2.0/token", tenant.origin);
    credential.verify(tenant, &[token_endpoint, tenant.issuer_v2(tenant_id)])?;

    let scopes = Scopes::parse(required("scope")?)?;
    let capabilities = capabilities(form.get("claims"))?;
    let mut grant = match grant_type.as_str() {
        JWT_BEARER => {
            if required("requested_token_use")? != "on_behalf_of" {
                return Err(EntraError::about(9_002_313, "requested_token_use is on_behalf_of."));
            }
            let user = user_assertion::verify(tenant, required("assertion")?, tenant_id)?;
            Grant::new(user, &tenant.registration.client_id)
        }
        REFRESH_TOKEN => tenant.refresh_tokens.redeem(
            required(REFRESH_TOKEN)?,
            &tenant.registration.client_id,
            scopes.offline_access,
        )?,
        _ => return Err(70003.into()),
    };
    // A guest redeems the refresh token of one tenant in another.
    tenant_id.clone_into(&mut grant.user.tid);

    let azpacr = if credential.method == ClientAuthentication::PrivateKeyJwt { "2" } else { "1" };
    let lifetime = tenant.settings().access_token_lifetime;
    let mut body = json!({
        "token_type": "Bearer",
        "scope": scopes.granted,
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "access_token": tenant.access_token(&grant.user, scopes.api, azpacr, capabilities.as_ref()),
    });
    // Entra hints at an early renewal for tokens of more than two hours.
    if lifetime > 7200 {
        body["refresh_in"] = (lifetime / 2).into();
    }
    if scopes.offline_access {
        body[REFRESH_TOKEN] = tenant.refresh_tokens.issue(&grant).into();
    }
    if scopes.openid {
        body["id_token"] = tenant.id_token(&grant.user).into();
    }
    if form.get("client_info").is_some_and(|value| value == "1") {
        let account = json!({ "uid": grant.user.oid, "utid": grant.user.tid });
        body["client_info"] = BASE64_URL_SAFE_NO_PAD.encode(account.to_string()).into();
    }
    Ok(body)
}

/// The client capabilities declared in the `claims` parameter.
fn capabilities(claims: Option<&String>) -> Result<Option<Value>, EntraError> {
    let Some(claims) = claims else {
        return Ok(None);
    };
    let claims: Value = serde_json::from_str(claims)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| EntraError::about(9_002_313, "The claims are not a JSON object."))?;
    Ok(claims.pointer("/access_token/xms_cc/values").cloned())
}
