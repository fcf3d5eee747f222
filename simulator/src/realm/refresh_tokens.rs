use std::collections::{HashMap, HashSet};

use super::error::Refusal;
use crate::{apis::Api, registration::random_text, user::User};

/// Refresh tokens that rotate strictly: each is good once (RFC 9700 section 4.14.2).
#[derive(Default)]
pub(crate) struct RefreshTokens {
    issued: HashMap<String, Grant>,
    used: HashSet<String>,
    revoked: HashSet<u64>,
    families: u64,
}

/// What a refresh token stands for.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) user: User,
    pub(crate) api: &'static Api,
    /// All tokens that come from one exchange.
    family: u64,
}

impl RefreshTokens {
    /// Issues the first token of a new family.
    pub(crate) fn begin(&mut self, user: User, api: &'static Api) -> String {
        self.families += 1;
        self.issue(Grant { user, api, family: self.families })
    }

    /// Returns the grant of `token` and the token that takes its place.
    pub(crate) fn rotate(&mut self, token: &str) -> Result<(Grant, String), Refusal> {
        const INVALID: Refusal = Refusal::of("invalid_grant", "the refresh token is not active");
        let grant = self.issued.get(token).cloned().ok_or(INVALID)?;
        if !self.used.insert(token.to_owned()) {
            self.revoked.insert(grant.family);
        }
        if self.revoked.contains(&grant.family) {
            return Err(INVALID);
        }
        let next = self.issue(grant.clone());
        Ok((grant, next))
    }

    /// Revokes the family of `token`, if it is known.
    pub(crate) fn revoke(&mut self, token: &str) {
        self.revoked.extend(self.issued.get(token).map(|grant| grant.family));
    }

    pub(crate) fn revoke_all(&mut self) {
        self.revoked.extend(1..=self.families);
    }

    fn issue(&mut self, grant: Grant) -> String {
        let token = random_text::<24>();
        self.issued.insert(token.clone(), grant);
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::PARTNER;

    #[test]
    fn a_token_is_good_once_and_its_reuse_ends_the_family() {
        let mut tokens = RefreshTokens::default();
        let first = tokens.begin(User::named("alice", ""), &PARTNER);
        let other = tokens.begin(User::named("alice", ""), &PARTNER);
        let (_, second) = tokens.rotate(&first).unwrap();
        assert!(tokens.rotate(&first).is_err());
        assert!(tokens.rotate(&second).is_err());
        assert!(tokens.rotate(&other).is_ok());
        assert!(tokens.rotate("unknown").is_err());
    }
}
