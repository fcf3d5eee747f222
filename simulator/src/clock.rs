use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The system's time, which tests may set ahead.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    ahead_seconds: AtomicU64,
}

impl Clock {
    /// Seconds since 1970, as in `iat` and `exp` (RFC 7519 section 2, NumericDate).
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator is a party of its own, with its own clock"
    )]
    pub(crate) fn now(&self) -> i64 {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since_1970.as_secs() + self.ahead_seconds.load(Ordering::Relaxed);
        i64::try_from(seconds).unwrap_or(i64::MAX)
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.ahead_seconds.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}
