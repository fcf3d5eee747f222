//! Time as a parameter: [`Timestamp`] is what everything stores, [`Clock`] is who tells it.

use std::{
    fmt,
    ops::{Add, Sub},
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A point in time, UTC, to the microsecond (the resolution of both databases).
///
/// JSON: RFC 3339, `"2026-11-21T06:00:00Z"`, with as many fractional digits as it needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// Microseconds since 1970-01-01T00:00:00Z; `None` beyond the calendar (about ±262,000 years).
    pub fn from_micros(micros: i64) -> Option<Self> {
        DateTime::from_timestamp_micros(micros).map(Self)
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, as in a JWT's `exp` (RFC 7519 2, NumericDate).
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        DateTime::from_timestamp(seconds, 0).map(Self)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn micros(self) -> i64 {
        self.0.timestamp_micros()
    }

    /// Seconds since 1970-01-01T00:00:00Z, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.timestamp()
    }

    /// How long from `earlier` until this; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        (self.0 - earlier.0).to_std().unwrap_or_default()
    }

    /// The calendar form, for libraries that want it.
    pub fn as_datetime(self) -> DateTime<Utc> {
        self.0
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        // What was stored and what is in memory must compare equal.
        Self::from_micros(time.timestamp_micros()).unwrap_or(Self(time))
    }
}

/// Saturates at the end of the calendar instead of overflowing.
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        let length = TimeDelta::from_std(length).unwrap_or(TimeDelta::MAX);
        self.0.checked_add_signed(length).unwrap_or(DateTime::<Utc>::MAX_UTC).into()
    }
}

/// Saturates at the beginning of the calendar instead of overflowing.
impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, length: Duration) -> Self {
        let length = TimeDelta::from_std(length).unwrap_or(TimeDelta::MAX);
        self.0.checked_sub_signed(length).unwrap_or(DateTime::<Utc>::MIN_UTC).into()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = chrono::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl std::str::FromStr for Timestamp {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc).into())
    }
}

/// Tells the time. Leases are the exception: those are judged by the database's clock.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// A clock that several parties hold.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn now(&self) -> Timestamp {
        Utc::now().into()
    }
}

/// A clock that moves only when it is told to, for tests.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn at(start: Timestamp) -> Arc<Self> {
        Arc::new(Self(Mutex::new(start)))
    }

    /// Moves the clock on.
    pub fn advance(&self, length: Duration) {
        let mut now = self.0.lock().expect("nothing panics while it holds the clock");
        *now = *now + length;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("nothing panics while it holds the clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_rfc_3339_on_the_wire() {
        let time = Timestamp::from_seconds(1_700_000_000).unwrap();
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(json, "\"2023-11-14T22:13:20Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
        let offset: Timestamp = "2023-11-15T00:13:20+02:00".parse().unwrap();
        assert_eq!(offset, time);
    }

    #[test]
    fn adding_never_overflows() {
        let time = Timestamp::from_seconds(1_700_000_000).unwrap();
        assert!(time + Duration::MAX > time);
        assert!(time - Duration::MAX < time);
        assert_eq!((time + Duration::from_secs(5)).since(time), Duration::from_secs(5));
        assert_eq!(time.since(time + Duration::from_secs(5)), Duration::ZERO);
    }

    #[test]
    fn a_sum_is_as_exact_as_a_stored_time() {
        let time = Timestamp::from_seconds(1_700_000_000).unwrap();
        let sum = time + Duration::from_nanos(1_999);
        assert_eq!(Timestamp::from_micros(sum.micros()), Some(sum));
        assert_eq!(sum.to_string(), "2023-11-14T22:13:20.000001Z");
    }
}
