//! Whether the provider accepts Errand itself, asked without any user.

use std::collections::BTreeMap;

use super::{Form, TokenEndpoint, undiscovered};
use crate::{
    config::{Dialect, Tenant},
    identity::{
        failure::{Decision, TokenFailure},
        grant::Grant,
        principal::Principal,
        secret::RefreshToken,
        token_request::Request,
    },
};

impl TokenEndpoint {
    /// Presents a refresh token that cannot be valid with each client credential, in their order.
    /// The provider refuses the token (`invalid_grant`), unless it refuses the client before. Entra
    /// wants `scopes` of some API with it.
    ///
    /// # Errors
    /// What the operator has to mend, without any secret.
    pub async fn check_credentials(&self, scopes: &[String]) -> Vec<Result<(), String>> {
        let principal = Principal { tenant: self.own_tenant().into(), subject: String::new() };
        let token = RefreshToken::new("no-refresh-token".to_owned());
        let grant = match &self.dialect {
            Dialect::Entra { .. } => Grant::RefreshToken(&token),
            Dialect::TokenExchange { .. } => Grant::BoundRefreshToken(&token),
        };
        let mut checked = Vec::with_capacity(self.credentials.len());
        for number in 0..self.credentials.len() {
            let request = Request::new(grant, &principal);
            checked.push(match self.refusal(&request, scopes, number).await {
                Err(problem) => Err(problem),
                Ok(refusal) => is_about_the_token(refusal),
            });
        }
        checked
    }

    async fn refusal(
        &self,
        request: &Request<'_>,
        scopes: &[String],
        number: usize,
    ) -> Result<TokenFailure, String> {
        let endpoint = self.endpoints.token(request.principal).await;
        let endpoint = endpoint.map_err(|error| undiscovered(request.grant, &error).description)?;
        let credential = &self.credentials[number];
        let proof = credential.prove(&self.client_id, &endpoint, &self.clock).await;
        let proof = proof.map_err(|error| error.to_string())?;
        let mut parameters: BTreeMap<&str, &str> =
            self.extra_parameters.iter().map(|(name, value)| (&**name, &**value)).collect();
        parameters.extend(request.grant.parameters());
        let scope = request.grant.scope(scopes).map_err(|error| error.to_string())?;
        parameters.extend(scope.as_deref().map(|scope| ("scope", scope)));
        let form = Form { endpoint, parameters, scope: "" };
        match self.attempt(request, &form, &proof).await {
            Ok(_) => {
                Err("the provider gave a token for a refresh token that it never issued".into())
            }
            Err(failed) => Ok(failed.into_failure(request)),
        }
    }

    fn own_tenant(&self) -> &str {
        match &self.dialect {
            Dialect::Entra { tenant: Tenant::Single(id), .. } => id,
            Dialect::Entra { tenant: Tenant::Multiple { authority, .. }, .. } => authority,
            Dialect::TokenExchange { .. } => "",
        }
    }
}

fn is_about_the_token(failure: TokenFailure) -> Result<(), String> {
    let is_grant = failure.error.as_deref() == Some("invalid_grant");
    if is_grant && failure.decision != Decision::Operator {
        Ok(())
    } else {
        let error = failure.error.map(|error| format!("{error}: ")).unwrap_or_default();
        Err(format!("{error}{}", failure.description))
    }
}
