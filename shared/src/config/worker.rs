//! `[worker]`

use std::time::Duration;

use super::{WorkerConfig, api::EXPECTED_LISTEN, section::Section};

pub(super) fn read(section: &Section) -> WorkerConfig {
    let config = WorkerConfig {
        listen: section.parsed("listen", EXPECTED_LISTEN, |text| text.parse().ok()),
        concurrency: section.number("concurrency", 1..=100_000).unwrap_or(64),
        lease: section.seconds("lease_seconds", 3..=3600).unwrap_or(Duration::from_mins(1)),
        drain: section.seconds("drain_seconds", 0..=86_400).unwrap_or(Duration::from_secs(30)),
    };
    section.finish();
    config
}
