//! Splits a file's text into entries: a line with the stack trace that belongs to it.

use std::borrow::Cow;

use serde_json::{Map, Value};
use watchbill_domain::Timestamp;
use watchbill_redact as redact;

use super::level::LogLevel;
use super::time::{TimeContext, find_time, find_time_value};

/// Maximum lines kept of one stack trace.
const STACK: usize = 40;
/// Maximum bytes read of a line; the rest is data.
const LINE: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    pub at: Option<Timestamp>,
    pub level: LogLevel,
    /// Without time and level, if these were recognised.
    pub message: Cow<'a, str>,
    /// The lines that follow it: frames, causes.
    pub stack: Vec<Cow<'a, str>>,
    pub service: Option<String>,
    /// Number of its first line, counted from 1.
    pub line: usize,
}

/// Every entry of a text, in order.
pub fn entries<'a>(text: &'a str, context: &TimeContext) -> Vec<Entry<'a>> {
    let mut all: Vec<Entry<'a>> = Vec::new();
    let mut traceback = false;
    for (n, line) in text.lines().enumerate() {
        let line = cut(line);
        if line.trim().is_empty() {
            continue;
        }
        let opens_traceback = line.starts_with("Traceback (most recent call last)");
        let continues = traceback || opens_traceback || is_continuation(line);
        let stamp = if continues && line.starts_with([' ', '\t']) {
            None
        } else {
            find_time(line, context)
        };
        if stamp.is_none()
            && !line.starts_with('{')
            && let Some(last) = all.last_mut()
            && (continues || (last.at.is_some() && !has_own_head(line)))
        {
            // The line that ends a Python traceback names the exception.
            traceback = opens_traceback || (traceback && line.starts_with([' ', '\t']));
            if last.stack.len() < STACK {
                last.stack.push(Cow::Borrowed(line.trim_end()));
            }
            if last.level < LogLevel::Error && LogLevel::inferred(line).is_error() && continues {
                last.level = LogLevel::Error;
            }
            continue;
        }
        traceback = opens_traceback;
        let json = if line.starts_with('{') { from_json(line, n + 1, context) } else { None };
        all.push(json.unwrap_or_else(|| from_text(line, n + 1, context)));
    }
    all
}

/// Cuts lines to the maximum length. Longer ones are redacted first, because a cut could leave
/// an unrecognisable half of a secret.
pub fn bounded(text: &str) -> Cow<'_, str> {
    if text.lines().all(|line| line.len() <= LINE) {
        return Cow::Borrowed(text);
    }
    let lines = text.lines().map(|line| match line.len() <= LINE {
        true => Cow::Borrowed(line),
        false => Cow::Owned(cut(&redact::text(line)).to_owned()),
    });
    Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
}

fn cut(line: &str) -> &str {
    if line.len() <= LINE {
        return line;
    }
    let mut end = LINE;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

fn is_continuation(line: &str) -> bool {
    let trimmed = line.trim_start();
    (line.len() > trimmed.len() && !trimmed.starts_with('{'))
        || trimmed.starts_with("Caused by:")
        || trimmed.starts_with("... ")
        || trimmed.starts_with("goroutine ")
        || trimmed.starts_with("stack backtrace:")
        || trimmed.starts_with("note: run with `RUST_BACKTRACE")
        || trimmed.starts_with("During handling of the above exception")
        || trimmed.starts_with("The above exception was")
}

/// Whether a line without a time begins a new entry.
fn has_own_head(line: &str) -> bool {
    LogLevel::in_head(line).is_some() && !line.contains("Error:") && !line.contains("Exception")
}

fn from_text<'a>(line: &'a str, number: usize, context: &TimeContext) -> Entry<'a> {
    let stamp = find_time(line, context);
    let rest = match stamp {
        // Text before the time (a level, an address) is part of the message.
        Some(stamp) if line[..stamp.begin].trim_matches(['[', ' ', '<', '"']).is_empty() => {
            Cow::Borrowed(
                line[stamp.end..].trim_start_matches([']', ' ', '\t', '-', '|', '"', ',']),
            )
        }
        Some(stamp) => {
            let head = line[..stamp.begin].trim_end_matches(['[', ' ']);
            let tail = line[stamp.end..].trim_start_matches([']', ' ', '-', '"']);
            Cow::Owned(format!("{head} {tail}"))
        }
        None => Cow::Borrowed(line.trim_start()),
    };
    let level = access_level(&rest)
        .or_else(|| LogLevel::in_head(&rest))
        .unwrap_or_else(|| LogLevel::inferred(&rest));
    let at = stamp.map(|stamp| stamp.at);
    Entry { at, level, message: rest, stack: Vec::new(), service: None, line: number }
}

/// The level of an access log line (`"GET / HTTP/1.1" 502 …`): 5xx is a server error.
fn access_level(text: &str) -> Option<LogLevel> {
    let after = text.split_once(" HTTP/").map(|(_, rest)| rest)?;
    let status = after.split_once("\" ").map(|(_, rest)| rest.get(..3))??;
    match status.parse::<u16>().ok()? {
        500..=599 => Some(LogLevel::Error),
        400..=499 => Some(LogLevel::Warn),
        100..=399 => Some(LogLevel::Info),
        _ => None,
    }
}

fn from_json<'a>(line: &str, number: usize, context: &TimeContext) -> Option<Entry<'a>> {
    let map: Map<String, Value> = serde_json::from_str(line).ok()?;
    let first = |names: &[&str]| names.iter().find_map(|name| map.get(*name));
    let text = |names: &[&str]| first(names).and_then(Value::as_str).map(str::to_owned);
    let at = first(&["timestamp", "time", "ts", "@timestamp", "datetime", "date", "t", "asctime"])
        .and_then(|value| find_time_value(value, context));
    let error = first(&["err", "error", "exception", "exc_info"]);
    let error_text = error.and_then(|error| match error {
        Value::String(text) => Some(text.clone()),
        Value::Object(inner) => inner
            .get("message")
            .or_else(|| inner.get("msg"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        _ => None,
    });
    let mut message = text(&["message", "msg", "@message", "event", "text", "log"]);
    if let Some(error) = error_text {
        message = Some(match message {
            Some(message) if !message.contains(&error) => format!("{message}: {error}"),
            Some(message) => message,
            None => error,
        });
    }
    let message = message?;
    let level = first(&["level", "severity", "lvl", "loglevel", "levelname", "log.level"])
        .and_then(|value| match value {
            Value::String(text) => LogLevel::parse(text),
            other => LogLevel::parse(&other.to_string()),
        })
        .unwrap_or_else(|| LogLevel::inferred(&message));
    let inner_stack = error.and_then(|e| e.get("stack")).and_then(Value::as_str).map(str::to_owned);
    let stack = text(&["stack", "stack_trace", "stacktrace", "trace", "traceback"]).or(inner_stack);
    let stack = stack.map(|stack| {
        stack.lines().take(STACK).map(|line| Cow::Owned(cut(line).to_owned())).collect()
    });
    Some(Entry {
        at,
        level,
        message: Cow::Owned(cut(&message).to_owned()),
        stack: stack.unwrap_or_default(),
        service: text(&["service", "app", "service.name", "application", "component"]),
        line: number,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context() -> TimeContext {
        TimeContext { now: Timestamp::parse("2026-01-05T12:00:00Z").unwrap(), utc_offset: 0 }
    }

    #[test]
    fn stack_traces_stay_with_their_line() {
        let text = "2026-01-02 03:04:05 ERROR [main] boom\n\
            java.lang.NullPointerException: x is null\n\
            \tat com.example.A.f(A.java:7)\n\
            Caused by: java.io.IOException: gone\n\
            \t... 3 more\n\
            2026-01-02 03:04:06 INFO fine\n\
            2026-01-02 03:04:07 handling request\n\
            Traceback (most recent call last):\n\
            \x20 File \"/app/a.py\", line 3, in f\n\
            ValueError: bad\n\
            2026-01-02 03:04:08 INFO fine again\n";
        let all = entries(text, &context());
        let found: Vec<_> = all.iter().map(|e| (e.level, e.stack.len(), e.line)).collect();
        assert_eq!(
            found,
            [
                (LogLevel::Error, 4, 1),
                (LogLevel::Info, 0, 6),
                (LogLevel::Error, 3, 7),
                (LogLevel::Info, 0, 11)
            ]
        );
        assert_eq!(all[0].message, "ERROR [main] boom");
        assert_eq!(all[2].stack[2], "ValueError: bad");
    }

    #[test]
    fn a_long_line_is_redacted_before_it_is_cut() {
        let key = format!("ghp_{}", "a1".repeat(18));
        for from in LINE - 40..LINE {
            let long = format!("{} {key} end", "x".repeat(from));
            let text = format!("first\n{long}\nlast");
            let cut = bounded(&text);
            assert!(!cut.contains("ghp_"), "{from}");
            assert!(cut.lines().all(|line| line.len() <= LINE), "{from}");
            assert!(cut.starts_with("first\nxx") && cut.ends_with("\nlast"), "{from}");
        }
        assert!(matches!(bounded("ghp_\nb"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_lines_and_access_logs() {
        let text = concat!(
            r#"{"ts":1767323045.5,"level":"error","msg":"query failed","err":{"message":"refused","stack":"Error\n at f (a.js:1:2)"},"service":"api"}"#,
            "\n",
            r#"{"time":"2026-01-02T03:04:06Z","severity":"INFO","message":"ok"}"#,
            "\n",
            r#"{"time":1767323045123,"level":50,"msg":"pino"}"#,
            "\n{not json at all\n",
            r#"1.2.3.4 - - [02/Jan/2026:03:04:05 +0000] "GET /a HTTP/1.1" 502 12 "-" "curl""#,
        );
        let all = entries(text, &context());
        assert_eq!(all.len(), 5);
        assert_eq!(
            (all[0].message.as_ref(), all[0].level),
            ("query failed: refused", LogLevel::Error)
        );
        assert_eq!((all[0].stack.len(), all[0].service.as_deref()), (2, Some("api")));
        assert_eq!(all[1].level, LogLevel::Info);
        assert_eq!((all[2].level, all[2].at.is_some()), (LogLevel::Error, true));
        assert_eq!(all[4].level, LogLevel::Error);
        assert_eq!(
            all[4].message,
            r#"1.2.3.4 - - "GET /a HTTP/1.1" 502 12 "-" "curl""#.replacen("\"GET", "GET", 1)
        );
    }

    proptest! {
        #[test]
        fn any_text_can_be_parsed(text in "(\\PC|\n|\t){0,400}") {
            let lines = text.lines().count();
            prop_assert!(entries(&text, &context()).len() <= lines);
        }

        #[test]
        fn any_json_line_can_be_parsed(body in "[\"a-z0-9:,{}\\[\\] ]{0,80}") {
            entries(&format!("{{{body}"), &context());
        }
    }
}
