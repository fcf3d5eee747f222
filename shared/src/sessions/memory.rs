//! Access tokens that this process has lately read from a row, or got from the provider.
//!
//! A hit asks nobody, so an entry says of what time it is: the session's version, which grows each
//! time that the user acts, and the grant's, which grows with every change of it. A job finds what is
//! not older than its claim, and what is read late replaces nothing newer. Why that is enough:
//! `docs/decisions/0015-tokens-in-memory.md`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use moka::{ops::compute::Op, sync::Cache};
use uuid::Uuid;

use crate::{
    identity::Principal,
    storage::{ClaimedSession, HeldToken},
    time::Timestamp,
};

/// Grants whose tokens are kept; each has a token for a few sets of scopes.
const GRANTS: u64 = 10_000;

/// What nobody asks for is not kept for longer.
const UNUSED: Duration = Duration::from_mins(5);

/// Tokens by session and grant.
#[derive(Debug)]
pub(super) struct TokenMemory(Cache<(Uuid, String), Arc<Remembered>>);

/// The tokens of one grant.
#[derive(Debug, Clone)]
struct Remembered {
    owner: Principal,
    of: GrantTime,
    renewable: bool,
    /// By their scopes, as in their rows.
    tokens: BTreeMap<String, HeldToken>,
}

/// Between which changes a grant was looked at; a later look is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GrantTime {
    /// The session's fence.
    pub(super) session_version: i64,
    /// The grant's.
    pub(super) version: i64,
}

/// Which grant, and whose.
#[derive(Debug, Clone, Copy)]
pub(super) struct GrantOf<'a> {
    pub(super) session_id: Uuid,
    pub(super) grant: &'a str,
    pub(super) owner: &'a Principal,
}

impl Default for TokenMemory {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(GRANTS).time_to_idle(UNUSED).build())
    }
}

impl TokenMemory {
    /// Returns a token that may be used as it is by a job that was claimed with this session: of the
    /// same owner, not older than the claim, with enough life left, and not to be renewed yet.
    pub(super) fn find(
        &self,
        session: ClaimedSession,
        grant: &str,
        owner: &Principal,
        scope_set: &str,
        now: Timestamp,
    ) -> Option<HeldToken> {
        let found = self.0.get(&(session.id, grant.to_owned()))?;
        let token = found.tokens.get(scope_set)?;
        let is_due = found.renewable && token.refresh_at.is_some_and(|due| due <= now);
        let fits = found.owner == *owner
            && found.of.session_version >= session.version
            && token.has_enough_life(found.renewable, now)
            && !is_due;
        fits.then(|| token.clone())
    }

    /// Keeps a token of the grant as it was at `of`, unless something later is known of it.
    pub(super) fn keep(
        &self,
        GrantOf { session_id, grant, owner }: GrantOf<'_>,
        of: GrantTime,
        renewable: bool,
        scope_set: &str,
        token: &HeldToken,
    ) {
        self.0.entry((session_id, grant.to_owned())).and_compute_with(|entry| {
            let known = entry.map(|entry| Arc::unwrap_or_clone(entry.into_value()));
            let mut tokens = match known {
                Some(known) if known.of > of => return Op::Nop,
                // The user has acted since: what was got before is not used any more.
                Some(known) if known.of.session_version < of.session_version => BTreeMap::new(),
                Some(known) => known.tokens,
                None => BTreeMap::new(),
            };
            tokens.insert(scope_set.to_owned(), token.clone());
            Op::Put(Arc::new(Remembered { owner: owner.clone(), of, renewable, tokens }))
        });
    }

    /// Drops the tokens of a grant that was without any at `of`; one that was read before and comes
    /// later is not kept either.
    pub(super) fn forget(&self, GrantOf { session_id, grant, owner }: GrantOf<'_>, of: GrantTime) {
        self.0.entry((session_id, grant.to_owned())).and_compute_with(|entry| {
            if entry.is_some_and(|entry| entry.value().of > of) {
                return Op::Nop;
            }
            let (owner, tokens) = (owner.clone(), BTreeMap::new());
            Op::Put(Arc::new(Remembered { owner, of, renewable: false, tokens }))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::AccessToken;

    const SESSION: ClaimedSession = ClaimedSession { id: Uuid::nil(), version: 1 };
    const NOW: i64 = 1_800_000_000;

    fn alice() -> Principal {
        Principal { tenant: "contoso".into(), subject: "alice".into() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(NOW + seconds).unwrap()
    }

    fn token(text: &str) -> HeldToken {
        HeldToken {
            access_token: AccessToken::new(text),
            obtained_at: at(0),
            expires_at: at(3600),
            refresh_at: None,
        }
    }

    fn time(session_version: i64, version: i64) -> GrantTime {
        GrantTime { session_version, version }
    }

    impl TokenMemory {
        fn keep_for(&self, session_id: Uuid, of: GrantTime, scope_set: &str, token: &HeldToken) {
            let owner = alice();
            let grant = GrantOf { session_id, grant: "", owner: &owner };
            self.keep(grant, of, true, scope_set, token);
        }

        /// What a job gets that was claimed with that version of the session.
        fn found(&self, version: i64, scope_set: &str) -> Option<String> {
            let session = ClaimedSession { version, ..SESSION };
            let found = self.find(session, "", &alice(), scope_set, at(0))?;
            Some(found.access_token.expose().to_owned())
        }
    }

    #[test]
    fn what_is_read_late_replaces_nothing_newer() {
        let memory = TokenMemory::default();
        let keep = |of, text| memory.keep_for(SESSION.id, of, "read", &token(text));
        for (of, text, expected) in [
            (time(1, 5), "first", "first"),
            (time(1, 4), "late", "first"),
            (time(1, 6), "refreshed", "refreshed"),
            (time(2, 1), "resumed", "resumed"),
            (time(1, 9), "refreshed before that", "resumed"),
        ] {
            keep(of, text);
            assert_eq!(memory.found(1, "read").as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_job_finds_nothing_from_before_its_users_last_act() {
        let memory = TokenMemory::default();
        memory.keep_for(SESSION.id, time(1, 5), "read", &token("r"));
        memory.keep_for(SESSION.id, time(1, 6), "write", &token("w"));
        assert_eq!(memory.found(1, "read").as_deref(), Some("r"), "a refresh costs no other token");
        assert_eq!(memory.found(2, "read"), None);
        memory.keep_for(SESSION.id, time(2, 7), "write", &token("w-2"));
        assert_eq!(memory.found(2, "write").as_deref(), Some("w-2"));
        // Not even for one that was claimed earlier: its grant is gone.
        assert_eq!(memory.found(1, "read"), None);
    }

    #[test]
    fn a_grant_that_died_stays_forgotten() {
        let (memory, owner) = (TokenMemory::default(), alice());
        let grant = GrantOf { session_id: SESSION.id, grant: "", owner: &owner };
        memory.keep_for(SESSION.id, time(1, 5), "read", &token("r"));
        memory.forget(grant, time(1, 6));
        memory.keep_for(SESSION.id, time(1, 5), "read", &token("read before it died"));
        assert_eq!(memory.found(1, "read"), None);
        memory.keep_for(SESSION.id, time(2, 7), "read", &token("resumed"));
        memory.forget(grant, time(1, 6));
        assert_eq!(memory.found(2, "read").as_deref(), Some("resumed"));
    }

    #[test]
    fn neither_another_user_nor_another_grant_or_scope_finds_a_token() {
        let memory = TokenMemory::default();
        memory.keep_for(SESSION.id, time(1, 1), "read", &token("r"));
        let bob = Principal { subject: "bob".into(), ..alice() };
        let elsewhere = Principal { tenant: "fabrikam".into(), ..alice() };
        for (owner, grant, scope_set) in [
            (bob, "", "read"),
            (elsewhere, "", "read"),
            (alice(), "Ledger", "read"),
            (alice(), "", "write"),
        ] {
            assert!(memory.find(SESSION, grant, &owner, scope_set, at(0)).is_none());
        }
        let other = ClaimedSession { id: Uuid::max(), ..SESSION };
        assert!(memory.find(other, "", &alice(), "read", at(0)).is_none());
    }

    #[test]
    fn a_token_that_is_to_be_renewed_is_not_found() {
        let memory = TokenMemory::default();
        memory.keep_for(SESSION.id, time(1, 1), "read", &token("r"));
        let found = |at| memory.find(SESSION, "", &alice(), "read", at).is_some();
        assert!(found(at(3299)));
        assert!(!found(at(3300)), "five minutes before its end");
        let early = HeldToken { refresh_at: Some(at(1800)), ..token("r") };
        memory.keep_for(SESSION.id, time(1, 2), "read", &early);
        assert!(found(at(1799)));
        assert!(!found(at(1800)), "when the provider wants it renewed");
    }

    #[test]
    fn it_is_bounded_and_shows_no_token() {
        let memory = TokenMemory::default();
        for number in 0..2 * u128::from(GRANTS) {
            memory.keep_for(Uuid::from_u128(number), time(1, 1), "read", &token("a-secret"));
        }
        memory.0.run_pending_tasks();
        assert!(memory.0.entry_count() <= GRANTS, "{}", memory.0.entry_count());
        let shown = format!("{memory:?}");
        assert!(shown.contains("contoso") && !shown.contains("a-secret"));
    }
}
