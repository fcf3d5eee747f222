//! How often one user's tokens are exchanged.
//!
//! The provider throttles Errand as a whole: without a limit of our own one user, who may post a new
//! session key with every request, could have everybody's exchanges refused.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::identity::Principal;

/// Exchanges that may come at once.
const BURST: u32 = 30;

/// One more each time this has passed.
const REFILL: Duration = Duration::from_secs(2);

/// A token bucket for each user who exchanged lately, in this process.
#[derive(Debug, Default)]
pub(super) struct ExchangeLimit(Mutex<HashMap<Principal, Bucket>>);

#[derive(Debug)]
struct Bucket {
    left: u32,
    /// Up to when it was refilled.
    refilled_at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let periods = now.duration_since(self.refilled_at).as_nanos() / REFILL.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(periods).min(BURST);
        self.refilled_at += REFILL.saturating_mul(periods);
    }
}

impl ExchangeLimit {
    /// Counts an exchange; the error says how long to wait for the next one.
    pub(super) fn take(&self, principal: &Principal, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock().expect("nothing panics while it holds the map");
        if buckets.len() == buckets.capacity() {
            // Whoever has waited long enough is as good as unknown.
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < BURST
            });
        }
        let bucket =
            buckets.entry(principal.clone()).or_insert(Bucket { left: BURST, refilled_at: now });
        bucket.refill(now);
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                Ok(())
            }
            None => Err(REFILL.saturating_sub(now.duration_since(bucket.refilled_at))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(subject: &str) -> Principal {
        Principal { tenant: "contoso".into(), subject: subject.into() }
    }

    #[test]
    fn one_user_runs_out_and_nobody_else_does() {
        let (limit, start) = (ExchangeLimit::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(limit.take(&user("alice"), start), Ok(()));
        }
        assert_eq!(limit.take(&user("alice"), start), Err(REFILL));
        assert_eq!(limit.take(&user("bob"), start), Ok(()));
        let later = start + REFILL * 3 / 2;
        assert_eq!(limit.take(&user("alice"), later), Ok(()));
        assert_eq!(limit.take(&user("alice"), later), Err(REFILL / 2));
    }

    #[test]
    fn users_who_do_not_come_back_take_no_memory() {
        let limit = ExchangeLimit::default();
        let mut now = Instant::now();
        for number in 0..10_000 {
            now += REFILL;
            limit.take(&user(&number.to_string()), now).unwrap();
        }
        assert!(limit.0.lock().unwrap().capacity() < 100);
    }
}
