use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Tenant, entra_error::EntraError};
use crate::{answer::HttpAnswer, signing_keys::SigningKey, user::random_id};

/// The literal that stands for any tenant in the issuer of the shared endpoints.
const ANY_TENANT: &str = "{tenantid}";

pub(crate) async fn v1(State(tenant): State<Arc<Tenant>>, Path(name): Path<String>) -> HttpAnswer {
    document(&tenant, &name, "", |tid| tenant.issuer_v1(tid))
}

pub(crate) async fn v2(State(tenant): State<Arc<Tenant>>, Path(name): Path<String>) -> HttpAnswer {
    document(&tenant, &name, "/v2.0", |tid| tenant.issuer_v2(tid))
}

/// OpenID Connect Discovery 1.0, section 3. Both versions name the one token endpoint there is.
fn document(
    tenant: &Tenant,
    name: &str,
    version: &str,
    issuer: impl Fn(&str) -> String,
) -> HttpAnswer {
    tenant.log().discovery_requests += 1;
    let Some(tid) = tenant_of(name) else {
        return unknown(tenant);
    };
    let base = format!("{}/{name}", tenant.origin);
    HttpAnswer::json(
        200,
        &json!({
            "issuer": issuer(tid),
            "jwks_uri": format!("{base}/discovery{version}/keys"),
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "name", "oid", "preferred_username", "tid", "ver"],
            "cloud_instance_name": "microsoftonline.com",
        }),
    )
}

/// Keys of the v1 document have no issuer.
pub(crate) async fn keys_v1(
    State(tenant): State<Arc<Tenant>>,
    Path(name): Path<String>,
) -> HttpAnswer {
    keys(&tenant, &name, |_| {})
}

pub(crate) async fn keys_v2(
    State(tenant): State<Arc<Tenant>>,
    Path(name): Path<String>,
) -> HttpAnswer {
    keys(&tenant, &name, |entry| {
        let tid = tenant_of(&name).unwrap_or(ANY_TENANT);
        entry["issuer"] = tenant.issuer_v2(tid).into();
        entry["cloud_instance_name"] = "microsoftonline.com".into();
    })
}

fn keys(tenant: &Tenant, name: &str, complete: impl Fn(&mut Value)) -> HttpAnswer {
    tenant.log().key_requests += 1;
    if tenant_of(name).is_none() {
        return unknown(tenant);
    }
    let entry = |key: &SigningKey| {
        let mut entry = key.entry();
        complete(&mut entry);
        entry
    };
    let keys = tenant.keys().published().map(entry).collect::<Vec<_>>();
    HttpAnswer::json(200, &json!({ "keys": keys }))
}

/// Any GUID is a tenant here, so that tests have as many as they like.
fn tenant_of(name: &str) -> Option<&str> {
    match name {
        "common" | "organizations" => Some(ANY_TENANT),
        _ => Uuid::parse_str(name).is_ok().then_some(name),
    }
}

fn unknown(tenant: &Tenant) -> HttpAnswer {
    EntraError::from(90002).answer(tenant.clock.now(), &random_id())
}
