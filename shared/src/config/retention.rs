//! `[retention]`

use std::time::Duration;

use super::{RetentionConfig, section::Section};

pub(super) fn read(section: &Section) -> RetentionConfig {
    let days = section.number_or_for_ever("finished_days", 1..=36_500, 30);
    let minutes = section.number_or_for_ever("session_grace_minutes", 0..=5_256_000, 60);
    section.finish();
    RetentionConfig {
        finished: days.map(|days| Duration::from_hours(24 * u64::from(days))),
        session_grace: minutes.map(|minutes| Duration::from_mins(minutes.into())),
    }
}
