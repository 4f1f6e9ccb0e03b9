//! Makes untrusted text safe for a terminal, and formats times.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
use watchbill_domain::Timestamp;

/// Control characters could steer the terminal, and direction marks could disguise a line.
/// Titles and log lines need neither.
fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line: unsafe characters and line breaks become blanks.
pub fn line(text: &str) -> String {
    text.chars().map(|c| if is_unfit(c) { ' ' } else { c }).collect()
}

/// Several lines: unsafe characters become blanks.
pub fn lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_unfit(c) { ' ' } else { c }).collect()
}

/// The number of columns on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Cuts to `most` columns, with an ellipsis if something was cut.
pub fn fit(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used + 1 > most {
            break;
        }
        kept.push(c);
    }
    if most > 0 {
        kept.truncate(kept.trim_end().len());
        kept.push('…');
    }
    kept
}

/// Formats as `850ms`, `12s`, `3m 5s`, `2h 10m`, `4d 3h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |a: u64, x: &str, b: u64, y: &str| {
        if b == 0 { format!("{a}{x}") } else { format!("{a}{x} {b}{y}") }
    };
    match seconds {
        0 if time.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", time.as_millis().max(1)),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds / 60 % 60, "m"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

/// Only the largest unit, for a column: `45s`, `3m`, `2h`, `4d`.
pub fn age(of: Timestamp, now: Timestamp) -> String {
    let long = span(Duration::from_secs(now.since(of).as_secs()));
    long.split(' ').next().unwrap_or_default().to_owned()
}

/// `3m ago`, or `in 3m` for the future.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    match at > now {
        true => format!("in {}", age(now, at)),
        false => format!("{} ago", age(at, now)),
    }
}

/// `2026-01-31 08:00:00`, in UTC.
pub fn moment(at: Timestamp) -> String {
    at.to_string().chars().take(19).collect::<String>().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_can_not_control_the_terminal() {
        assert_eq!(line("a\u{1b}[31mb\r\nc\u{9b}d\u{202e}e"), "a [31mb  c d e");
        assert_eq!(lines("a\nb\tc\u{7f}"), "a\nb c ");
    }

    #[test]
    fn cut_by_columns_not_by_bytes() {
        assert_eq!(fit("deploy", 6), "deploy");
        assert_eq!(fit("deploy", 5), "depl…");
        assert_eq!(fit("配置する", 5), "配置…");
        assert_eq!(width(&fit("配置する", 6)), 5);
        assert_eq!(fit("x", 0), "");
    }

    #[test]
    fn spans_are_short() {
        for (ms, text) in [
            (0, "0s"),
            (850, "850ms"),
            (12_900, "12s"),
            (185_000, "3m 5s"),
            (7_800_000, "2h 10m"),
            (356_400_000, "4d 3h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
        let (then, now) = (Timestamp::from_millis(0), Timestamp::from_millis(7_800_000));
        assert_eq!(relative(then, now), "2h ago");
        assert_eq!(relative(now, then), "in 2h");
        assert_eq!(age(now, now), "0s");
        assert_eq!(moment(then), "1970-01-01 00:00:00");
    }
}
