/// An API of the tenant for which a client can get tokens on behalf of users.
#[derive(Debug)]
pub(crate) struct Api {
    /// First segment of its path on this listener.
    pub(crate) path: &'static str,
    /// Application ID URI: the audience of its tokens and the first part of its scopes.
    pub(crate) identifier_uri: &'static str,
    /// Its only permission, the last part of its scope.
    pub(crate) permission: &'static str,
}

impl Api {
    pub(crate) fn scope(&self) -> String {
        format!("{}/{}", self.identifier_uri, self.permission)
    }
}

/// The partner API of the quickstart.
pub(crate) static PARTNER: Api =
    Api { path: "partner", identifier_uri: "api://partner-api-id", permission: "read" };

/// A second resource: one session serves several APIs, and each gets tokens of its own only.
static LEDGER: Api =
    Api { path: "ledger", identifier_uri: "api://ledger-api-id", permission: "read" };

/// Every API the tenant knows.
pub(crate) static APIS: [&Api; 2] = [&PARTNER, &LEDGER];
