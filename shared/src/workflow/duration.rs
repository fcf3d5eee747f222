//! Lengths of time as documents write them.

use std::time::Duration;

use serde_json::{Map, Value};

/// The units of a duration object and their length in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("days", 86_400_000),
    ("hours", 3_600_000),
    ("minutes", 60_000),
    ("seconds", 1_000),
    ("milliseconds", 1),
];

/// Reads an ISO 8601 duration of weeks, days, hours, minutes and seconds, e.g. `P1DT12H` or `PT0.5S`.
///
/// `None` for anything else; years and months have no fixed length. Decimals count to the microsecond.
pub fn parse_iso8601(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix('P')?;
    let (date, time) = match rest.split_once('T') {
        Some((_, "")) => return None,
        Some((date, time)) => (date, time),
        None if rest.is_empty() => return None,
        None => (rest, ""),
    };
    let date = components(date, &[('W', 604_800), ('D', 86_400)])?;
    let time = components(time, &[('H', 3_600), ('M', 60), ('S', 1)])?;
    date.checked_add(time).map(Duration::from_micros)
}

/// Sums `text`, numbers each followed by its unit, in the order of `units` (with their seconds), to microseconds.
fn components(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut units = units.iter();
    let mut sum = 0_u64;
    while !text.is_empty() {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = text[end..].chars().next()?;
        let &(_, seconds) = units.find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(micros(&text[..end])?.checked_mul(seconds)?)?;
        text = &text[end + unit.len_utf8()..];
    }
    Some(sum)
}

/// Reads a decimal number as millionths.
fn micros(number: &str) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<6.6}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction)
}

/// Reads a duration object, `{"minutes": 5}`.
///
/// # Errors
/// The property that is wrong (`None`: the object itself) and a sentence about it.
pub(super) fn from_object(
    object: &Map<String, Value>,
) -> Result<Duration, (Option<String>, &'static str)> {
    if object.is_empty() {
        return Err((None, "A duration needs at least one unit."));
    }
    let mut sum = 0_u64;
    for (name, value) in object {
        let wrong = |detail| (Some(name.clone()), detail);
        let Some((_, milliseconds)) = UNITS.iter().find(|(unit, _)| unit == name) else {
            return Err(wrong("A duration has `days, hours, minutes, seconds, milliseconds`."));
        };
        let Some(count) = value.as_u64() else {
            return Err(wrong("This must be a whole number, zero or more."));
        };
        let length = count.checked_mul(*milliseconds).and_then(|length| sum.checked_add(length));
        sum = length.ok_or_else(|| wrong("This is too long."))?;
    }
    Ok(Duration::from_millis(sum))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn iso_8601_durations_are_read_without_years_and_months() {
        let seconds = |text| parse_iso8601(text).map(|length| length.as_secs_f64());
        assert_eq!(seconds("PT30S"), Some(30.0));
        assert_eq!(seconds("P1DT2H3M4.5S"), Some(93_784.5));
        assert_eq!(seconds("P2W"), Some(1_209_600.0));
        assert_eq!(seconds("P400D"), Some(34_560_000.0));
        assert_eq!(seconds("PT0S"), Some(0.0));
        for wrong in [
            "",
            "P",
            "PT",
            "P1",
            "1D",
            "P1Y",
            "P1M",
            "PT1D",
            "P1H",
            "PT1M1H",
            "PT1S1S",
            "P-1D",
            "PT.5S",
            "PT1.S",
            "PT1.5.5S",
            "PT5µ",
            "p1d",
            "P99999999999999999999D",
            "PT1S ",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn duration_objects_are_strict() {
        let read = |value: Value| from_object(value.as_object().unwrap());
        let length = read(json!({"minutes": 5, "milliseconds": 20})).unwrap();
        assert_eq!(length, Duration::from_millis(300_020));
        assert!(read(json!({})).is_err());
        assert!(read(json!({"minuts": 5})).is_err());
        assert!(read(json!({"minutes": -5})).is_err());
        assert!(read(json!({"minutes": "5"})).is_err());
        assert!(read(json!({"days": u64::MAX})).is_err());
    }
}
