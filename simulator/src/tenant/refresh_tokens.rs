use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::entra_error::EntraError;
use crate::{
    jwt::{self, Jwt},
    user::{User, random_id},
};

/// Issues and redeems refresh tokens.
///
/// A token holds all that is needed to redeem it, so that one issued by an earlier process is good
/// too; memory only knows which ones were replaced or revoked since the start.
pub(crate) struct RefreshTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    /// How long a replaced token stays good; none: for ever.
    leeway: Option<Duration>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Ids of the tokens in whose place another one was issued, and when that was first.
    replaced: HashMap<String, Instant>,
    revoked_families: HashSet<String>,
}

/// What a refresh token stands for: a user's grant to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) user: User,
    pub(crate) client_id: String,
    /// All tokens that come from one exchange.
    family: String,
    generation: u32,
    id: String,
}

impl Grant {
    /// The first of a new family.
    pub(crate) fn new(user: User, client_id: &str) -> Self {
        let client_id = client_id.to_owned();
        Self { user, client_id, family: random_id(), generation: 0, id: random_id() }
    }

    fn next(&self) -> Self {
        Self { generation: self.generation + 1, id: random_id(), ..self.clone() }
    }
}

impl RefreshTokens {
    /// `leeway`: how long a replaced token stays good, before its use revokes its whole family; none:
    /// for ever, and nothing is revoked.
    pub(crate) fn new(key: &[u8], leeway: Option<Duration>) -> Self {
        Self {
            signing: EncodingKey::from_secret(key),
            verifying: DecodingKey::from_secret(key),
            leeway,
            seen: Mutex::default(),
        }
    }

    pub(crate) fn issue(&self, grant: &Grant) -> String {
        let claims = json!({ "grant": grant });
        let header = json!({ "alg": "HS256", "typ": "refresh" });
        jwt::sign(&header, &claims, Some((&self.signing, Algorithm::HS256)))
    }

    /// Whether another token was issued in place of this one before.
    pub(crate) fn is_replaced(&self, token: &str) -> bool {
        self.read(token).is_some_and(|grant| self.seen().replaced.contains_key(&grant.id))
    }

    /// The grant of `token`, for `client_id`; with `replace` the one that follows it, to be issued
    /// in its place.
    pub(crate) fn redeem(
        &self,
        token: &str,
        client_id: &str,
        replace: bool,
    ) -> Result<Grant, EntraError> {
        let grant = self.read(token).ok_or(70000)?;
        if grant.client_id != client_id {
            return Err(EntraError::client_mismatch());
        }
        let mut seen = self.seen();
        let replaced_for = seen.replaced.get(&grant.id).map(Instant::elapsed);
        if self.leeway.zip(replaced_for).is_some_and(|(leeway, replaced)| replaced >= leeway) {
            seen.revoked_families.insert(grant.family.clone());
        }
        if seen.revoked_families.contains(&grant.family) {
            return Err(50173.into());
        }
        if !replace {
            return Ok(grant);
        }
        seen.replaced.entry(grant.id.clone()).or_insert_with(Instant::now);
        Ok(grant.next())
    }

    fn read(&self, token: &str) -> Option<Grant> {
        let token = Jwt::parse(token)?;
        if !token.is_signed_by(&self.verifying, Algorithm::HS256) {
            return None;
        }
        serde_json::from_value(token.claims["grant"].clone()).ok()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics while holding it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Option<Duration> = Some(Duration::ZERO);

    fn issued(tokens: &RefreshTokens) -> String {
        tokens.issue(&Grant::new(User::named("alice", "t"), "c"))
    }

    #[test]
    fn a_token_of_an_earlier_process_is_good() {
        let token = issued(&RefreshTokens::new(b"key", STRICT));
        let later = RefreshTokens::new(b"key", STRICT);
        assert_eq!(later.redeem(&token, "c", true).unwrap().user.name, "alice");
    }

    #[test]
    fn a_replaced_token_stays_usable_as_at_entra() {
        let tokens = RefreshTokens::new(b"key", None);
        let token = issued(&tokens);
        let second = tokens.issue(&tokens.redeem(&token, "c", true).unwrap());
        assert_ne!(token, second);
        assert!(tokens.is_replaced(&token));
        assert!(tokens.redeem(&token, "c", true).is_ok());
    }

    #[test]
    fn reuse_detection_revokes_the_whole_family() {
        let tokens = RefreshTokens::new(b"key", STRICT);
        let (token, other_family) = (issued(&tokens), issued(&tokens));
        let second = tokens.issue(&tokens.redeem(&token, "c", true).unwrap());
        assert_eq!(tokens.redeem(&token, "c", true), Err(50173.into()));
        assert_eq!(tokens.redeem(&second, "c", true), Err(50173.into()));
        assert!(tokens.redeem(&other_family, "c", true).is_ok());
    }

    #[test]
    fn within_the_leeway_a_replaced_token_is_good_and_nothing_is_revoked() {
        let tokens = RefreshTokens::new(b"key", Some(Duration::from_hours(1)));
        let token = issued(&tokens);
        let second = tokens.issue(&tokens.redeem(&token, "c", true).unwrap());
        for token in [token, second] {
            assert!(tokens.redeem(&token, "c", true).is_ok());
        }
    }

    #[test]
    fn foreign_and_damaged_tokens_are_refused() {
        let tokens = RefreshTokens::new(b"key", None);
        let token = issued(&tokens);
        assert_eq!(tokens.redeem(&token, "d", true), Err(EntraError::client_mismatch()));
        assert_eq!(tokens.redeem("0.AX", "c", true), Err(70000.into()));
        assert_eq!(RefreshTokens::new(b"other", None).redeem(&token, "c", true), Err(70000.into()));
    }
}
