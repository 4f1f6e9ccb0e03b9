//! Timestamps, and durations as people write them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A time in UTC, in milliseconds since 1970. Written as RFC 3339 for people and clients, as a
/// number in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Timestamp(i64);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TimestampError {
    #[error("'{0}' is not an RFC 3339 time such as 2026-01-31T08:00:00Z")]
    NotRfc3339(String),
    #[error("'{0}' is not a duration such as 90, '45s', '15m', '8h', '2d' or '15 minutes'")]
    NotASpan(String),
}

/// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can write.
const LAST: i64 = 253_402_300_799_999;

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    pub fn plus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis).min(LAST))
    }

    pub fn minus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// Time from `earlier` to this; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let parsed: jiff::Timestamp =
            text.trim().parse().map_err(|_| TimestampError::NotRfc3339(text.to_owned()))?;
        Ok(Self(parsed.as_millisecond()))
    }

    /// Fixed-width text that sorts in time order, for list entries.
    pub fn sortable(self) -> String {
        format!("{:015}", self.0.max(0))
    }

    pub fn day(self) -> String {
        self.to_string().chars().take(10).collect()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The longest duration that a task may ask for. It is the longest that the request schemas can
/// express, so that a value that fits the schema is not refused later.
pub const MAX_SPAN: Duration = Duration::from_secs(99_999 * 86_400);

/// A duration as people write it: a number of seconds, or `15m`, `8 hours`, `2d`.
pub fn parse_span(text: &str) -> Result<Duration, TimestampError> {
    let text = text.trim();
    let wrong = || TimestampError::NotASpan(text.to_owned());
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let span: jiff::SignedDuration = text
        .parse::<jiff::SignedDuration>()
        .or_else(|_| {
            // jiff's friendly format does not parse days into a signed duration. A day is 24 h
            // here.
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
            match (digits.parse::<i64>(), &text[digits.len()..].trim()) {
                (Ok(n), unit) if ["d", "day", "days"].contains(unit) => {
                    n.checked_mul(24).map(jiff::SignedDuration::from_hours).ok_or_else(wrong)
                }
                _ => Err(wrong()),
            }
        })
        .map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_as_people_write_them() {
        for (text, seconds) in
            [("90", 90), ("45s", 45), ("15m", 900), ("15 minutes", 900), ("8h", 28_800)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_span("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(parse_span("1h 30m"), Ok(Duration::from_secs(5_400)));
        for text in ["", "soon", "-5s", "5 parsecs", "99999999999999999999d"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_written_with_milliseconds_in_utc() {
        let time = Timestamp::parse("2025-10-20T12:00:00+02:00").unwrap();
        assert_eq!(time.to_string(), "2025-10-20T10:00:00.000Z");
        assert_eq!(time.day(), "2025-10-20");
        assert!(Timestamp::parse("yesterday").is_err());
    }
}
