//! The permissions that a token is asked with.

use std::collections::BTreeMap;

/// Asked for with every token: without `offline_access` there is no refresh token, without `openid`
/// and `profile` nothing in the answer says whose token it is (MSAL: reserved scopes).
pub const RESERVED: [&str; 3] = ["openid", "profile", "offline_access"];

/// A set of scopes with at least one that is not reserved.
///
/// Scopes are compared without regard to case and keep the spelling of their first mention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(BTreeMap<String, String>);

/// Only reserved scopes, or none: such a token would be for no API, and every stored token would
/// seem to answer the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no scope of an API is asked for")]
pub struct NoScope;

impl Scopes {
    /// The set of `scopes` without the reserved ones; each may be a space-separated list.
    pub fn new(scopes: &[String]) -> Result<Self, NoScope> {
        let mut set = BTreeMap::new();
        for scope in scopes.iter().flat_map(|scopes| scopes.split_whitespace()) {
            let folded = scope.to_lowercase();
            if !RESERVED.contains(&folded.as_str()) {
                set.entry(folded).or_insert_with(|| scope.to_owned());
            }
        }
        if set.is_empty() { Err(NoScope) } else { Ok(Self(set)) }
    }

    /// The `scope` parameter of a token request: the set and the reserved scopes, sorted.
    pub fn parameter(&self) -> String {
        let reserved = RESERVED.iter().map(|scope| (*scope, *scope));
        let own = self.0.iter().map(|(folded, scope)| (folded.as_str(), scope.as_str()));
        let all: BTreeMap<&str, &str> = own.chain(reserved).collect();
        all.into_values().collect::<Vec<_>>().join(" ")
    }

    /// The name under which a token for this set is kept: the same for every spelling and order.
    ///
    /// Made from what is requested, not from what is granted: providers answer with more scopes,
    /// other spellings or none, and a token would not be found again.
    pub fn key(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(list: &[&str]) -> Result<Scopes, NoScope> {
        Scopes::new(&list.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_request_asks_for_the_reserved_scopes_too() {
        let graph = scopes(&["https://graph.microsoft.com/User.Read"]).unwrap();
        assert_eq!(
            graph.parameter(),
            "https://graph.microsoft.com/User.Read offline_access openid profile"
        );
        assert_eq!(
            scopes(&["z", "OpenID", "a"]).unwrap().parameter(),
            "a offline_access openid profile z"
        );
    }

    #[test]
    fn spelling_order_and_reserved_scopes_do_not_change_the_key() {
        let one = scopes(&["api://x/Read", "api://x/Write"]).unwrap();
        let other = scopes(&["profile", "api://x/WRITE  api://x/read", "api://x/write"]).unwrap();
        assert_eq!(one.key(), "api://x/read api://x/write");
        assert_eq!(other.key(), one.key());
        assert_eq!(other.parameter(), "api://x/read api://x/WRITE offline_access openid profile");
    }

    #[test]
    fn reserved_scopes_alone_are_no_request() {
        assert_eq!(scopes(&[]), Err(NoScope));
        assert_eq!(scopes(&["openid", " Offline_Access profile"]), Err(NoScope));
    }
}
