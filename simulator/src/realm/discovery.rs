use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::{Realm, token_endpoint::EXCHANGE};
use crate::{answer::HttpAnswer, signing_keys::SigningKey};

/// OpenID Connect Discovery 1.0, section 3; RFC 8414, section 2.
pub(crate) async fn document(State(realm): State<Arc<Realm>>) -> HttpAnswer {
    let issuer = realm.issuer();
    HttpAnswer::json(
        200,
        &json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/certs"),
            "token_endpoint": format!("{issuer}/token"),
            "revocation_endpoint": format!("{issuer}/revoke"),
            "authorization_endpoint": format!("{issuer}/authorize"),
            "grant_types_supported": ["refresh_token", EXCHANGE],
            "token_endpoint_auth_methods_supported":
                ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }),
    )
}

pub(crate) async fn keys(State(realm): State<Arc<Realm>>) -> HttpAnswer {
    let keys: Vec<Value> = realm.tenant.keys().published().map(SigningKey::entry).collect();
    HttpAnswer::json(200, &json!({ "keys": keys }))
}
