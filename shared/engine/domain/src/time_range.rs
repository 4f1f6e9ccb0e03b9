//! Time ranges as people write them: `1h`, `past hour`, `last 24h`, `yesterday`, two times.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use watchbill_redact as redact;

use super::{Fields, Refusal, Timestamp, parse_span};

const DAY: Duration = Duration::from_secs(86_400);
/// Finished tasks and logs are kept for about this long.
const MAX_LENGTH: Duration = Duration::from_secs(90 * 86_400);

/// A range that becomes absolute only when the plan runs, so that a plan stays the same while
/// it waits for approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeRange {
    /// This long, until now.
    Past(Duration),
    /// A day in UTC, this many days ago. Today ends now.
    Day {
        ago: u32,
    },
    Between {
        from: Timestamp,
        to: Timestamp,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a time range: use a duration such as '1h', '24h' or '7d', words such as 'past \
     hour' or 'yesterday', or two RFC 3339 times with '/' between"
)]
pub struct TimeRangeError(String);

impl TimeRange {
    pub const DEFAULT: TimeRange = TimeRange::Past(DAY);

    pub fn parse(text: &str) -> Result<Self, TimeRangeError> {
        let wrong = || TimeRangeError(redact::shortened(text, 80));
        let trimmed = text.trim();
        if let Some((from, to)) = trimmed.split_once('/').or_else(|| trimmed.split_once(" to ")) {
            let from = Timestamp::parse(from).map_err(|_| wrong())?;
            let to = Timestamp::parse(to).map_err(|_| wrong())?;
            return if from < to { Ok(TimeRange::Between { from, to }) } else { Err(wrong()) };
        }
        if let Ok(span) = parse_span(trimmed) {
            return Self::past(span).ok_or_else(wrong);
        }
        Self::find_in(trimmed).ok_or_else(wrong)
    }

    /// Reads `payload.time_range`: a text, seconds, or `{from, to}`.
    pub fn of_field(fields: Fields<'_>, name: &str) -> Result<Option<Self>, Refusal> {
        let path = fields.at(name);
        match fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                Self::parse(text).map(Some).map_err(|e| Refusal::new(format!("{path}: {e}")))
            }
            Some(Value::Number(n)) => Self::parse(&n.to_string())
                .map(Some)
                .map_err(|e| Refusal::new(format!("{path}: {e}"))),
            Some(Value::Object(map)) => {
                let both = Fields { map, path: &path };
                match (both.time("from")?, both.time("to")?) {
                    (Some(from), Some(to)) if from < to => {
                        Ok(Some(TimeRange::Between { from, to }))
                    }
                    _ => Err(Refusal::new(format!("{path} needs 'from' and a later 'to'"))),
                }
            }
            Some(other) => {
                Err(Refusal::wrong(&path, other, "a string such as '1h', or {from, to}"))
            }
        }
    }

    fn past(span: Duration) -> Option<Self> {
        (!span.is_zero()).then(|| TimeRange::Past(span.min(MAX_LENGTH)))
    }

    /// The first range that a free text mentions.
    pub fn find_in(text: &str) -> Option<Self> {
        let words = words(text);
        let word = |n: usize| words.get(n).map(String::as_str);
        (0..words.len()).find_map(|n| match words[n].as_str() {
            "today" => Some(TimeRange::Day { ago: 0 }),
            "yesterday" => Some(TimeRange::Day { ago: 1 }),
            "past" | "last" | "previous" | "recent" | "within" | "for" | "over" => {
                let mut at = n + 1;
                while matches!(word(at), Some("the" | "past" | "last" | "about")) {
                    at += 1;
                }
                let certain =
                    matches!(words[n].as_str(), "past" | "last" | "previous") || at > n + 1;
                span_at(&words[at.min(words.len())..], certain).and_then(Self::past)
            }
            "this" => match word(n + 1) {
                Some("hour") => Self::past(Duration::from_secs(3_600)),
                Some("morning" | "afternoon" | "evening") => Some(TimeRange::Day { ago: 0 }),
                Some("week") => Self::past(7 * DAY),
                Some("month") => Self::past(30 * DAY),
                _ => None,
            },
            _ => None,
        })
    }

    /// Absolute start and end, as of `now`.
    pub fn resolve(self, now: Timestamp) -> (Timestamp, Timestamp) {
        match self {
            TimeRange::Past(span) => (now.minus(span), now),
            TimeRange::Day { ago } => {
                let day = DAY.as_millis() as i64;
                let begin = now.millis().div_euclid(day) * day - i64::from(ago) * day;
                let end = if ago == 0 { now.millis() } else { begin + day };
                (Timestamp::from_millis(begin), Timestamp::from_millis(end))
            }
            TimeRange::Between { from, to } => (from, to),
        }
    }
}

/// `24h`, `24 hours`, `an hour`, `two days`. A bare unit (`past hour`) counts only if
/// `certain`.
fn span_at(words: &[String], certain: bool) -> Option<Duration> {
    let first = words.first()?;
    if first.starts_with(|c: char| c.is_ascii_digit()) {
        let number = first.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &first[number.len()..];
        let unit = if unit.is_empty() { words.get(1)?.as_str() } else { unit };
        let n: f64 = number.parse().ok()?;
        return Duration::try_from_secs_f64(n * unit_seconds(unit)? as f64).ok();
    }
    let spoken = match first.as_str() {
        "a" | "an" | "one" => Some(1.0),
        "two" | "couple" => Some(2.0),
        "three" | "few" | "several" => Some(3.0),
        "four" => Some(4.0),
        "five" => Some(5.0),
        "six" => Some(6.0),
        "ten" => Some(10.0),
        "twelve" => Some(12.0),
        "half" => Some(0.5),
        _ => None,
    };
    match spoken {
        Some(n) => {
            let unit = words[1..].iter().take(2).find_map(|word| unit_seconds(word))?;
            Duration::try_from_secs_f64(n * unit as f64).ok()
        }
        None if certain => unit_seconds(first).map(Duration::from_secs),
        None => None,
    }
}

fn unit_seconds(word: &str) -> Option<u64> {
    Some(match word {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" | "night" => 86_400,
        "w" | "week" | "weeks" => 7 * 86_400,
        "month" | "months" => 30 * 86_400,
        _ => return None,
    })
}

/// [`TimeRange::parse`] reads this text back.
impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeRange::Day { ago: 0 } => f.write_str("today"),
            TimeRange::Day { ago: _ } => f.write_str("yesterday"),
            TimeRange::Between { from, to } => write!(f, "{from}/{to}"),
            TimeRange::Past(span) => match span.as_secs() {
                0 => write!(f, "{}ms", span.as_millis()),
                s if s % 86_400 == 0 && s > 86_400 => write!(f, "{}d", s / 86_400),
                s if s % 3_600 == 0 => write!(f, "{}h", s / 3_600),
                s if s % 60 == 0 => write!(f, "{}m", s / 60),
                s => write!(f, "{s}s"),
            },
        }
    }
}

/// The words of a text in lower case. Characters that occur within names are kept (`high_cpu`,
/// `db-1`, `api.example`).
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || "_-./:#%<>=".contains(c)))
        .map(|word| word.trim_matches(|c| ".-:/=".contains(c)).to_lowercase())
        .filter(|word| !word.is_empty())
        .take(400)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn past(seconds: u64) -> Option<TimeRange> {
        Some(TimeRange::Past(Duration::from_secs(seconds)))
    }

    #[test]
    fn what_is_wrong_is_cut_after_its_secrets_are_out() {
        let key = format!("ghp_{}", "a1".repeat(18));
        for before in 40..80 {
            let said = TimeRange::parse(&format!("{} {key}", "x".repeat(before))).unwrap_err();
            assert!(!said.to_string().contains("ghp"), "{before}: {said}");
        }
    }

    #[test]
    fn ranges_in_free_text() {
        for (text, expected) in [
            ("Analyze error logs from the past hour and identify root causes", past(3_600)),
            ("what went wrong in the last 24h?", past(86_400)),
            ("errors over the last 30 minutes", past(1_800)),
            ("look at the last two days", past(172_800)),
            ("errors in the past half hour", past(1_800)),
            ("past couple of hours", past(7_200)),
            ("failing for an hour", past(3_600)),
            ("over the past week", past(604_800)),
            ("what broke yesterday", Some(TimeRange::Day { ago: 1 })),
            ("errors today", Some(TimeRange::Day { ago: 0 })),
            ("waiting for minutes data", None),
            ("the last deploy failed", None),
            ("checkout is slow", None),
        ] {
            assert_eq!(TimeRange::find_in(text), expected, "{text}");
        }
    }

    #[test]
    fn ranges_as_fields() {
        assert_eq!(TimeRange::parse("1h").ok(), past(3_600));
        assert_eq!(TimeRange::parse("7d").ok(), past(604_800));
        assert_eq!(TimeRange::parse("last 24h").ok(), past(86_400));
        let between = TimeRange::parse("2026-01-01T00:00:00Z/2026-01-01T02:00:00Z").unwrap();
        let (from, to) = between.resolve(Timestamp::from_millis(0));
        assert_eq!(to.since(from), Duration::from_secs(7_200));
        for wrong in ["soon", "", "0", "2026-01-02T00:00:00Z/2026-01-01T00:00:00Z"] {
            assert!(TimeRange::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn yesterday_is_a_whole_day() {
        let now = Timestamp::parse("2026-03-02T10:30:00Z").unwrap();
        let (from, to) = TimeRange::Day { ago: 1 }.resolve(now);
        assert_eq!(from.to_string(), "2026-03-01T00:00:00.000Z");
        assert_eq!(to.to_string(), "2026-03-02T00:00:00.000Z");
        assert_eq!(TimeRange::Day { ago: 0 }.resolve(now).1, now);
    }

    proptest! {
        #[test]
        fn never_panics_and_what_is_written_reads_back(text in ".{0,60}", seconds in 1_u64..9_000_000) {
            let _ = TimeRange::parse(&text);
            let _ = TimeRange::find_in(&text);
            let range = TimeRange::past(Duration::from_secs(seconds)).unwrap();
            prop_assert_eq!(TimeRange::parse(&range.to_string()).unwrap(), range);
        }
    }
}
