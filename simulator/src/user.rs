use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::jwt::Jwt;

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) oid: String,
    pub(crate) name: String,
    pub(crate) preferred_username: String,
    pub(crate) tid: String,
}

impl User {
    /// The user of that name in tenant `tid`. The object id comes from the name alone, so two
    /// tenants can have users who differ in nothing but `tid`.
    pub(crate) fn named(name: &str, tid: &str) -> Self {
        Self {
            oid: id_of(name),
            name: name.to_owned(),
            preferred_username: format!("{name}@contoso.example"),
            tid: tid.to_owned(),
        }
    }

    /// Whom a token names that the tenant issued, in its v1 or v2 form, or the realm.
    pub(crate) fn of_token(token: &Jwt) -> Self {
        let names = ["preferred_username", "unique_name"];
        let username =
            names.map(|claim| token.text(claim)).into_iter().find(|name| !name.is_empty());
        let ids = ["oid", "sub"].map(|claim| token.text(claim));
        Self {
            oid: ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default().to_owned(),
            name: token.text("name").to_owned(),
            preferred_username: username.unwrap_or_default().to_owned(),
            tid: token.text("tid").to_owned(),
        }
    }

    /// `sub` is pairwise at Entra: another one for each audience.
    pub(crate) fn subject_for(&self, audience: &str) -> String {
        let hash = digest(&SHA256, format!("{}\0{audience}", self.oid).as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(hash)
    }
}

/// A UUID that is always the same for the same name.
pub(crate) fn id_of(name: &str) -> String {
    let hash = digest(&SHA256, name.as_bytes());
    let bytes = hash.as_ref().first_chunk::<16>().expect("SHA-256 has 32 bytes");
    uuid::Builder::from_random_bytes(*bytes).into_uuid().to_string()
}

/// A fresh random UUID.
pub(crate) fn random_id() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_always_the_same_user() {
        let alice = User::named("alice", "t1");
        assert_eq!(alice, User::named("alice", "t1"));
        assert_ne!(alice.oid, User::named("bob", "t1").oid);
        assert!(Uuid::parse_str(&alice.oid).is_ok());
    }
}
