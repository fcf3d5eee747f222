//! An API that asked for patience with one user (`Retry-After`) is not called for that user before,
//! whichever job comes next. Other users do not wait.
//!
//! In this process only: a limit that is shared costs a round trip for each call, and each worker
//! learns of it at its first call.

use std::time::Duration;

use errand_shared::identity::Principal;
use moka::sync::Cache;
use tokio::time::Instant;

/// Users and APIs that are remembered.
const CAPACITY: u64 = 10_000;

/// The longest `Retry-After` that counts.
const LONGEST: Duration = Duration::from_hours(1);

/// The longest that whoever is held comes later than need be.
const LONGEST_SPREAD: Duration = Duration::from_mins(1);

/// Until when, by user and name of the API.
#[derive(Debug)]
pub(crate) struct Patience(Cache<(Principal, String), Instant>);

impl Default for Patience {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(CAPACITY).time_to_live(LONGEST).build())
    }
}

impl Patience {
    /// Not before `until`; later, if that was asked for before.
    pub(crate) fn ask(&self, owner: &Principal, api: &str, until: Instant) {
        self.0
            .entry((owner.clone(), api.to_owned()))
            .and_upsert_with(|asked| asked.map_or(until, |asked| asked.into_value().max(until)));
    }

    /// For how long from `now` the API is not to be called for this user; none: it may be.
    pub(crate) fn left(&self, owner: &Principal, api: &str, now: Instant) -> Option<Duration> {
        let until = self.0.get(&(owner.clone(), api.to_owned()))?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

/// For how long whoever is held waits: all of one user's jobs would come back together.
pub(crate) fn spread(length: Duration) -> Duration {
    length + (length / 4).min(LONGEST_SPREAD).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(subject: &str) -> Principal {
        Principal { tenant: "contoso".into(), subject: subject.into() }
    }

    #[test]
    fn an_api_is_left_in_peace_for_whom_and_for_as_long_as_it_asked() {
        let (patience, now) = (Patience::default(), Instant::now());
        let seconds = Duration::from_secs;
        patience.ask(&user("alice"), "Partner", now + seconds(10));
        patience.ask(&user("alice"), "Partner", now + seconds(1));
        assert_eq!(patience.left(&user("alice"), "Partner", now), Some(seconds(10)));
        assert_eq!(patience.left(&user("alice"), "Partner", now + seconds(9)), Some(seconds(1)));
        assert_eq!(patience.left(&user("alice"), "Partner", now + seconds(10)), None);
        let elsewhere = Principal { tenant: "fabrikam".into(), ..user("alice") };
        for (user, api) in
            [(user("alice"), "Ledger"), (user("bob"), "Partner"), (elsewhere, "Partner")]
        {
            assert_eq!(patience.left(&user, api, now), None);
        }
    }

    #[test]
    fn it_is_bounded() {
        let (patience, now) = (Patience::default(), Instant::now());
        for number in 0..2 * CAPACITY {
            patience.ask(&user(&number.to_string()), "Partner", now);
        }
        patience.0.run_pending_tasks();
        assert!(patience.0.entry_count() <= CAPACITY);
    }

    #[test]
    fn whoever_is_held_comes_neither_early_nor_much_too_late() {
        for length in [1, 60, 3600].map(Duration::from_secs) {
            let latest = length + (length / 4).min(LONGEST_SPREAD);
            assert!((0..100).all(|_| (length..=latest).contains(&spread(length))));
        }
    }
}
