use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{any, get, post},
};

use crate::{
    apis::APIS,
    partner::{self, Partner},
    realm::{self, Realm},
    tenant::{self, Tenant, discovery, token_endpoint},
};

/// Every route of the listener.
pub(crate) fn router(tenant: Arc<Tenant>, realm: Arc<Realm>, partner: Arc<Partner>) -> Router {
    let unreachable =
        middleware::from_fn_with_state(Arc::clone(&tenant), tenant::unless_unreachable);
    let tenant_routes = Router::new()
        .route("/{tenant}/.well-known/openid-configuration", get(discovery::v1))
        .route("/{tenant}/v2.0/.well-known/openid-configuration", get(discovery::v2))
        .route("/{tenant}/discovery/keys", get(discovery::keys_v1))
        .route("/{tenant}/discovery/v2.0/keys", get(discovery::keys_v2))
        .route("/{tenant}/oauth2/v2.0/token", post(token_endpoint::token))
        .route_layer(unreachable.clone())
        // What nobody would find at Entra is reachable always.
        .route("/user-token", get(tenant::user_token))
        .route("/tenant-log", get(tenant::tenant_log))
        .with_state(tenant);

    let realm_routes = Router::new()
        .route("/realms/acme/.well-known/openid-configuration", get(realm::discovery::document))
        .route("/realms/acme/certs", get(realm::discovery::keys))
        .route("/realms/acme/token", post(realm::token_endpoint::token))
        .route("/realms/acme/revoke", post(realm::token_endpoint::revoke))
        .route_layer(unreachable)
        .route("/realms/acme/user-token", get(realm::user_token))
        .with_state(realm);

    let partner_routes = APIS.into_iter().fold(Router::new(), |routes, api| {
        let handler = any(move |state, method, uri, headers, body| {
            partner::call(state, api, method, uri, headers, body)
        });
        routes.route(&format!("/{}/{{*path}}", api.path), handler)
    });
    let partner_routes =
        partner_routes.route("/partner-log", get(partner::partner_log)).with_state(partner);

    tenant_routes.merge(realm_routes).merge(partner_routes)
}
