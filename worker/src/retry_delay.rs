//! How long to wait before trying again: the one place that knows `backoff`.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// Growth of the delay from one failure to the next.
const MULTIPLIER: f64 = 2.0;

/// Spread around the delay: from half of it to one and a half.
const RANDOMIZATION_FACTOR: f64 = 0.5;

/// Beyond this many failures the delay has long reached its maximum.
const ENOUGH: u32 = 64;

/// Returns the delay after failure number `failures` (from 1): `initial`, doubled with every
/// further one up to `max`, spread so that jobs which failed together do not come back together.
pub(crate) fn retry_delay(initial: Duration, max: Duration, failures: u32) -> Duration {
    let mut backoff = ExponentialBackoff {
        current_interval: initial,
        initial_interval: initial,
        max_interval: max,
        multiplier: MULTIPLIER,
        randomization_factor: RANDOMIZATION_FACTOR,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    for _ in 1..failures.min(ENOUGH) {
        backoff.next_backoff();
    }
    // Without a maximal elapsed time there is always a next one.
    backoff.next_backoff().unwrap_or(max).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_with_each_failure_up_to_the_maximum() {
        let (initial, max) = (Duration::from_secs(1), Duration::from_mins(5));
        for (failures, expected) in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0)] {
            let delay = retry_delay(initial, max, failures).as_secs_f64();
            assert!((expected * 0.5..=expected * 1.5).contains(&delay), "{failures}: {delay}");
        }
        for failures in [20, u32::MAX] {
            let delay = retry_delay(initial, max, failures);
            assert!(delay >= max / 2 && delay <= max, "{failures}: {delay:?}");
        }
        assert!(retry_delay(initial, max, 0) > Duration::ZERO);
    }
}
