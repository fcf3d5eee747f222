//! `[limits]`

use std::time::Duration;

use super::{Limits, section::Section};

pub(super) fn read(section: &Section) -> Limits {
    let default = Limits::default();
    // Above what fits into memory no number is a limit.
    let size = |key, default| section.number(key, 1..=1_073_741_824).unwrap_or(default);
    let count = |key, default| section.number(key, 1..=1_000_000_000).unwrap_or(default);
    let limits = Limits {
        body_bytes: size("body_bytes", default.body_bytes),
        tasks: size("tasks", default.tasks),
        // A checkpoint is six JSON levels a list of tasks, and what reads it allows 128.
        nesting: section.number("nesting", 1..=20).unwrap_or(default.nesting),
        expression_bytes: size("expression_bytes", default.expression_bytes),
        branches: size("branches", default.branches),
        loop_items: size("loop_items", default.loop_items),
        task_starts: count("task_starts", default.task_starts),
        calls: count("calls", default.calls),
        checkpoint_bytes: size("checkpoint_bytes", default.checkpoint_bytes),
        evaluation_cpu_seconds: section
            .number("evaluation_cpu_seconds", 1..=10)
            .unwrap_or(default.evaluation_cpu_seconds),
        evaluation_per_job: section
            .seconds("evaluation_seconds_per_job", 1..=86_400)
            .unwrap_or(default.evaluation_per_job),
        max_deadline: section
            .parsed("max_deadline", "an ISO 8601 duration such as `P400D` or `PT12H`", duration)
            .unwrap_or(default.max_deadline),
        streams_per_user: size("streams_per_user", default.streams_per_user),
    };
    section.finish();
    limits
}

/// An ISO 8601 duration above zero, without years and months, whose length depends on the calendar.
fn duration(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix('P')?;
    let (days, time) = rest.split_once('T').map_or((rest, None), |(days, time)| (days, Some(time)));
    let mut seconds = parts(days, &[('W', 604_800), ('D', 86_400)])?;
    if let Some(time) = time {
        let time = (!time.is_empty()).then_some(time)?;
        seconds = seconds.checked_add(parts(time, &[('H', 3600), ('M', 60), ('S', 1)])?)?;
    }
    // A century: what is longer overflows calendars.
    (1..=3_155_760_000).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// Sums up whole numbers with these units, in this order, each at most once.
fn parts(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut seconds: u64 = 0;
    for (unit, length) in units {
        if let Some((number, rest)) = text.split_once(*unit) {
            let number: u64 = number.parse().ok()?;
            seconds = seconds.checked_add(number.checked_mul(*length)?)?;
            text = rest;
        }
    }
    text.is_empty().then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_of_fixed_length() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("P400D"), Some(400 * 86_400));
        assert_eq!(seconds("P1DT2H3M4S"), Some(93_784));
        for wrong in
            ["", "P", "PT", "P0D", "P1M", "PT1D", "P1DT", "400", "P-1D", "P99999999999999D"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
