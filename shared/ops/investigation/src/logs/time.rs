//! Parses timestamps in the formats that logs use.

use jiff::civil;
use jiff::tz::Offset;
use serde_json::Value;
use watchbill_domain::Timestamp;

/// What a line leaves out: the zone (seconds east of UTC) and, in syslog, the year.
#[derive(Clone, Copy, Debug)]
pub struct TimeContext {
    pub now: Timestamp,
    pub utc_offset: i32,
}

/// A time found in a line, with the start and end of its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoundTime {
    pub at: Timestamp,
    pub begin: usize,
    pub end: usize,
}

/// How far into a line its time may begin: after a level, a thread, an address.
const WITHIN: usize = 90;
const MONTHS: &[&[u8; 3]] = &[
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// The first time in the head of a line.
pub fn find_time(line: &str, context: &TimeContext) -> Option<FoundTime> {
    let bytes = line.as_bytes();
    let mut before_is_word = false;
    for begin in 0..bytes.len().min(WITHIN) {
        let byte = bytes[begin];
        if !before_is_word {
            let found = match byte {
                b'0'..=b'9' => date_first(bytes, begin, context)
                    .or_else(|| day_month(bytes, begin, context))
                    .or_else(|| if begin <= 2 { epoch(bytes, begin) } else { None }),
                b'A'..=b'Z' => month_first(bytes, begin, context),
                _ => None,
            };
            if let Some((at, end)) = found {
                return Some(FoundTime { at, begin, end });
            }
        }
        before_is_word = byte.is_ascii_alphanumeric();
    }
    None
}

/// The time in a field of a JSON line: a text, or seconds, milli-, micro- or nanoseconds.
pub fn find_time_value(value: &Value, context: &TimeContext) -> Option<Timestamp> {
    match value {
        Value::String(text) => find_time(text, context)
            .map(|stamp| stamp.at)
            .or_else(|| text.parse::<f64>().ok().and_then(from_epoch)),
        Value::Number(number) => from_epoch(number.as_f64()?),
        _ => None,
    }
}

fn from_epoch(n: f64) -> Option<Timestamp> {
    // 1990 to 2100 in each unit; the ranges do not overlap.
    let plausible = 631_152_000_000.0..4_102_444_800_000.0;
    let millis = [1_000.0, 1.0, 1e-3, 1e-6].map(|factor| n * factor);
    let found = millis.into_iter().find(|millis| plausible.contains(millis))?;
    Some(Timestamp::from_millis(found as i64))
}

/// `n` digits at `at`.
fn digits(bytes: &[u8], at: usize, n: usize) -> Option<i32> {
    let part = bytes.get(at..at + n)?;
    part.iter().try_fold(0_i32, |sum, byte| {
        byte.is_ascii_digit().then(|| sum * 10 + i32::from(byte - b'0'))
    })
}

fn is(bytes: &[u8], at: usize, any: &[u8]) -> bool {
    bytes.get(at).is_some_and(|byte| any.contains(byte))
}

/// `2026-01-02T03:04:05.123+01:00`, `2026-01-02 03:04:05,123`, `2026/01/02 03:04:05`.
fn date_first(bytes: &[u8], at: usize, context: &TimeContext) -> Option<(Timestamp, usize)> {
    let year = digits(bytes, at, 4)?;
    if !is(bytes, at + 4, b"-/.") || !is(bytes, at + 7, b"-/.") {
        return None;
    }
    let (month, day) = (digits(bytes, at + 5, 2)?, digits(bytes, at + 8, 2)?);
    if !is(bytes, at + 10, b"T t_:") {
        return None;
    }
    let (clock, end) = time_of_day(bytes, at + 11)?;
    let (offset, end) = zone(bytes, end).unwrap_or((context.utc_offset, end));
    Some((stamp(year, month, day, clock, offset)?, end))
}

/// `02/Jan/2026:03:04:05 +0000`, `02-Jan-2026 03:04:05`.
fn day_month(bytes: &[u8], at: usize, context: &TimeContext) -> Option<(Timestamp, usize)> {
    let day = digits(bytes, at, 2)?;
    if !is(bytes, at + 2, b"/- ") || !is(bytes, at + 6, b"/- ") {
        return None;
    }
    let month = month(bytes.get(at + 3..at + 6)?)?;
    let year = digits(bytes, at + 7, 4)?;
    if !is(bytes, at + 11, b": T") {
        return None;
    }
    let (clock, end) = time_of_day(bytes, at + 12)?;
    let (offset, end) = zone(bytes, end).unwrap_or((context.utc_offset, end));
    Some((stamp(year, month, day, clock, offset)?, end))
}

/// `Jan  2 03:04:05`, optionally followed by a year (`Fri Jan  2 03:04:05 2026`).
fn month_first(bytes: &[u8], at: usize, context: &TimeContext) -> Option<(Timestamp, usize)> {
    let month = month(bytes.get(at..at + 3)?)?;
    if !is(bytes, at + 3, b" ") {
        return None;
    }
    let (day, after) = match digits(bytes, at + 4, 2) {
        Some(day) => (day, at + 6),
        None if is(bytes, at + 4, b" ") => (digits(bytes, at + 5, 1)?, at + 6),
        None => (digits(bytes, at + 4, 1)?, at + 5),
    };
    if !is(bytes, after, b" ") {
        return None;
    }
    let (clock, end) = time_of_day(bytes, after + 1)?;
    let written = is(bytes, end, b" ").then(|| digits(bytes, end + 1, 4)).flatten();
    if let Some(year) = written.filter(|year| (1990..2100).contains(year)) {
        return Some((stamp(year, month, day, clock, context.utc_offset)?, end + 5));
    }
    let this_year: i32 = context.now.to_string().get(..4)?.parse().ok()?;
    // In January, lines from December belong to the previous year.
    let latest = context.now.millis().saturating_add(86_400_000);
    let found = [this_year, this_year - 1].into_iter().find_map(|year| {
        let at = stamp(year, month, day, clock, context.utc_offset)?;
        (at.millis() <= latest).then_some(at)
    })?;
    Some((found, end))
}

fn month(name: &[u8]) -> Option<i32> {
    let at = MONTHS.iter().position(|month| month.as_slice() == name)?;
    Some(at as i32 + 1)
}

/// Ten digits of seconds or thirteen of milliseconds, at a line's start.
fn epoch(bytes: &[u8], at: usize) -> Option<(Timestamp, usize)> {
    let rest = bytes.get(at..)?;
    let length = rest.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
    if length != 10 && length != 13 {
        return None;
    }
    let mut end = at + length;
    if is(bytes, end, b".") {
        end += 1 + bytes[end + 1..].iter().take(9).take_while(|b| b.is_ascii_digit()).count();
    }
    let text = std::str::from_utf8(&bytes[at..end]).ok()?;
    Some((from_epoch(text.parse().ok()?)?, end))
}

/// Hour, minute, second and milliseconds.
type ClockTime = (i32, i32, i32, i32);

fn time_of_day(bytes: &[u8], at: usize) -> Option<(ClockTime, usize)> {
    let (hour, minute) = (digits(bytes, at, 2)?, digits(bytes, at + 3, 2)?);
    if !is(bytes, at + 2, b":") {
        return None;
    }
    if !is(bytes, at + 5, b":") {
        return Some(((hour, minute, 0, 0), at + 5));
    }
    let second = digits(bytes, at + 6, 2)?;
    let mut end = at + 8;
    let mut millis = 0;
    if is(bytes, end, b".,") {
        let fraction = bytes[end + 1..].iter().take(9).take_while(|b| b.is_ascii_digit()).count();
        if fraction > 0 {
            for n in 0..3 {
                let digit = if n < fraction { digits(bytes, end + 1 + n, 1)? } else { 0 };
                millis = millis * 10 + digit;
            }
            end += 1 + fraction;
        }
    }
    // 60 is a leap second.
    Some(((hour, minute, second.min(59), millis), end))
}

/// Seconds east of UTC.
fn zone(bytes: &[u8], at: usize) -> Option<(i32, usize)> {
    let start = if is(bytes, at, b" ") { at + 1 } else { at };
    if is(bytes, start, b"Zz") && !bytes.get(start + 1).is_some_and(u8::is_ascii_alphanumeric) {
        return Some((0, start + 1));
    }
    if bytes.get(start..start + 3) == Some(b"UTC") || bytes.get(start..start + 3) == Some(b"GMT") {
        return Some((0, start + 3));
    }
    let sign = match bytes.get(start)? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = digits(bytes, start + 1, 2)?;
    let colon = usize::from(is(bytes, start + 3, b":"));
    let minutes = digits(bytes, start + 3 + colon, 2);
    let end = start + 3 + if minutes.is_some() { colon + 2 } else { 0 };
    (hours <= 15).then_some((sign * (hours * 3_600 + minutes.unwrap_or(0) * 60), end))
}

fn stamp(year: i32, month: i32, day: i32, clock: ClockTime, offset: i32) -> Option<Timestamp> {
    let (hour, minute, second, millis) = clock;
    let small = |n: i32| i8::try_from(n).ok();
    let civil = civil::DateTime::new(
        i16::try_from(year).ok()?,
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        small(second)?,
        millis * 1_000_000,
    )
    .ok()?;
    let at = Offset::from_seconds(offset).ok()?.to_timestamp(civil).ok()?;
    Some(Timestamp::from_millis(at.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context() -> TimeContext {
        let now = Timestamp::parse("2026-01-05T12:00:00Z").unwrap();
        TimeContext { now, utc_offset: 0 }
    }

    #[test]
    fn the_usual_forms() {
        for (line, expected) in [
            ("2026-01-02T03:04:05Z hello", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02T03:04:05.123456+02:00 hello", "2026-01-02T01:04:05.123Z"),
            ("2026-01-02 03:04:05,123 ERROR x", "2026-01-02T03:04:05.123Z"),
            ("2026-01-02 03:04:05.1 +0100 x", "2026-01-02T02:04:05.100Z"),
            ("ERROR [main] 2026-01-02 03:04:05 - x", "2026-01-02T03:04:05.000Z"),
            ("[2026-01-02 03:04] x", "2026-01-02T03:04:00.000Z"),
            ("2026/01/02 03:04:05 [error] 7#7: x", "2026-01-02T03:04:05.000Z"),
            ("Jan  2 03:04:05 host app[1]: x", "2026-01-02T03:04:05.000Z"),
            ("<34>Dec 31 23:59:59 host app: x", "2025-12-31T23:59:59.000Z"),
            (
                "1.2.3.4 - - [02/Jan/2026:03:04:05 +0100] \"GET / HTTP/1.1\" 500 1",
                "2026-01-02T02:04:05.000Z",
            ),
            ("[Fri Jan 02 03:04:05 2026] [core:error] x", "2026-01-02T03:04:05.000Z"),
            ("1767323045 x", "2026-01-02T03:04:05.000Z"),
            ("1767323045.25 x", "2026-01-02T03:04:05.250Z"),
            ("1767323045123 x", "2026-01-02T03:04:05.123Z"),
            ("time=\"2026-01-02T03:04:05Z\" level=error msg=x", "2026-01-02T03:04:05.000Z"),
        ] {
            let found = find_time(line, &context()).map(|stamp| stamp.at.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{line}");
        }
        for line in
            ["", "hello", "2026-13-02 03:04:05", "12345 x", "    at foo (a.js:1:2)", "Mayor 1"]
        {
            assert_eq!(find_time(line, &context()), None, "{line}");
        }
    }

    #[test]
    fn a_time_without_zone_is_local() {
        let east = TimeContext { utc_offset: 7_200, ..context() };
        let at = |line| find_time(line, &east).unwrap().at.to_string();
        assert_eq!(at("2026-01-02 03:04:05 x"), "2026-01-02T01:04:05.000Z");
        assert_eq!(at("2026-01-02 03:04:05Z x"), "2026-01-02T03:04:05.000Z");
    }

    proptest! {
        #[test]
        fn never_panics(line in "\\PC{0,120}", offset in -90_000_i32..90_000) {
            let context = TimeContext { utc_offset: offset, ..context() };
            if let Some(stamp) = find_time(&line, &context) {
                prop_assert!(line.get(stamp.begin..stamp.end).is_some());
            }
        }

        #[test]
        fn almost_times_never_panic(line in "[0-9]{1,4}[-/ :T.,]{0,2}[0-9A-Za-z:., +/-]{0,40}") {
            find_time(&line, &context());
        }
    }
}
