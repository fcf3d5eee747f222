use super::entra_error::EntraError;
use crate::apis::{APIS, Api};

/// What a token request asks for, of one resource.
#[derive(Debug)]
pub(crate) struct Scopes {
    pub(crate) openid: bool,
    pub(crate) offline_access: bool,
    pub(crate) api: &'static Api,
    /// The `scope` of the answer: what was granted, in full.
    pub(crate) granted: String,
}

impl Scopes {
    /// Every permission there is, is consented. `/.default` stands for all of a resource's.
    pub(crate) fn parse(scope: &str) -> Result<Self, EntraError> {
        let is_reserved =
            |word: &&str| matches!(*word, "openid" | "profile" | "email" | "offline_access");
        let (reserved, wanted): (Vec<_>, Vec<_>) = scope.split_whitespace().partition(is_reserved);

        let mut wanted = wanted.into_iter().map(split).collect::<Vec<_>>();
        wanted.sort_unstable();
        wanted.dedup();
        let Some(&(resource, _)) = wanted.first() else {
            return Err(EntraError::about(70011, "At least one scope of a resource is needed."));
        };
        if wanted.iter().any(|(other, _)| *other != resource) {
            return Err(28000.into());
        }
        let Some(api) = APIS.into_iter().find(|api| api.identifier_uri == resource) else {
            return Err(EntraError::about(500_011, format!("The resource is named {resource}.")));
        };
        let permissions = wanted.into_iter().map(|(_, permission)| permission).collect::<Vec<_>>();
        let mut granted = vec![api.scope()];
        match permissions.as_slice() {
            // Entra names `.default` in its answer too, and clients match their cache by it.
            [".default"] => granted.push(format!("{}/.default", api.identifier_uri)),
            [permission] if permission.eq_ignore_ascii_case(api.permission) => {}
            _ => {
                return Err(EntraError::about(70011, format!("The scope {scope} is not valid.")));
            }
        }
        let has = |name: &str| reserved.contains(&name);
        granted.extend(
            reserved.iter().filter(|name| **name != "offline_access").map(ToString::to_string),
        );
        Ok(Self {
            openid: has("openid"),
            offline_access: has("offline_access"),
            api,
            granted: granted.join(" "),
        })
    }
}

/// A scope without a resource belongs to Microsoft Graph.
fn split(scope: &str) -> (&str, &str) {
    scope.rsplit_once('/').unwrap_or(("https://graph.microsoft.com", scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_names_exactly_one_known_resource() {
        let code = |scope| Scopes::parse(scope).map_err(|error| error.code).err();
        assert_eq!(code("api://partner-api-id/read openid"), None);
        assert_eq!(code("api://partner-api-id/.default"), None);
        assert_eq!(code("openid offline_access"), Some(70011));
        assert_eq!(code("api://partner-api-id/read api://partner-api-id/.default"), Some(70011));
        assert_eq!(code("api://partner-api-id/write"), Some(70011));
        assert_eq!(code("api://partner-api-id/read api://ledger-api-id/read"), Some(28000));
        assert_eq!(code("User.Read"), Some(500_011));
    }

    #[test]
    fn the_answer_names_the_scopes_in_full_and_not_offline_access() {
        let scopes = Scopes::parse("offline_access openid api://partner-api-id/.default").unwrap();
        assert_eq!(
            scopes.granted,
            "api://partner-api-id/read api://partner-api-id/.default openid"
        );
        assert!(scopes.offline_access);
    }
}
