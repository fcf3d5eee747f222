//! Sessions that this process has lately found good for a submission.
//!
//! A hit saves the look at the session's row; the statement that inserts the job looks at it in any
//! case. If the session is no longer active then, nothing is inserted and the submission looks again.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;

use super::initiate::InitiationKey;
use crate::storage::{KnownSession, SessionState};

/// How many are kept.
const SESSIONS: u64 = 10_000;

/// How long. What a submission cannot see of a session in this time, that its refresh token died with an
/// access token still good, is what it could not see either if it had come so much earlier.
const LATELY: Duration = Duration::from_secs(10);

/// By their owners and keys.
#[derive(Debug)]
pub(super) struct KnownSessions(Cache<InitiationKey, Arc<KnownSession>>);

impl Default for KnownSessions {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(SESSIONS).time_to_live(LATELY).build())
    }
}

impl KnownSessions {
    pub(super) fn find(&self, key: &InitiationKey) -> Option<Arc<KnownSession>> {
        self.0.get(key)
    }

    /// Keeps a session with one grant for every API, which can be renewed. Without that grant it is no
    /// longer active, and the insertion sees it; a grant that is for one API may die alone.
    pub(super) fn keep(&self, key: &InitiationKey, session: &KnownSession) {
        let lasts = session.grants.iter().all(|grant| grant.renewable && grant.api.is_empty());
        if lasts && session.state == SessionState::Active {
            self.0.insert(key.clone(), Arc::new(session.clone()));
        }
    }

    pub(super) fn forget(&self, key: &InitiationKey) {
        self.0.invalidate(key);
    }
}
