//! The severity of log lines.

/// The severity of a line. Worse is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

/// Words that only occur in messages of failures. For lines without a level.
const FAILURES: &[&str] = &[
    "exception",
    "panicked at",
    "traceback (most recent",
    "segfault",
    "segmentation fault",
    "out of memory",
    "oom-kill",
    "killed process",
    "no space left",
    "connection refused",
    "timed out",
    "permission denied",
    "access denied",
    "unable to ",
    "failed",
    "failure",
    "fatal",
    "error:",
    "error ",
    "errors ",
    "cannot ",
    "could not ",
    "refused",
    "unhandled",
    "unreachable",
];

/// Phrases that look like a failure and are none.
const HARMLESS: &[&str] =
    &["0 errors", "no errors", "no error", "without error", "0 failed", "error=0"];

impl LogLevel {
    pub fn is_error(self) -> bool {
        self >= LogLevel::Error
    }

    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Fatal => "fatal",
        }
    }

    /// Parses a level's name in any case, or a number as pino and bunyan write it.
    pub fn parse(word: &str) -> Option<Self> {
        let mut lower = [0_u8; 9];
        let lower = lower.get_mut(..word.len())?;
        lower.copy_from_slice(word.as_bytes());
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"trace" | b"debug" | b"verbose" | b"fine" | b"dbg" | b"10" | b"20" => LogLevel::Debug,
            b"info" | b"inf" | b"notice" | b"log" | b"30" => LogLevel::Info,
            b"warn" | b"warning" | b"wrn" | b"40" => LogLevel::Warn,
            b"error" | b"err" | b"severe" | b"eror" | b"50" => LogLevel::Error,
            b"fatal" | b"critical" | b"crit" | b"emerg" | b"panic" | b"alert" | b"60" => {
                LogLevel::Fatal
            }
            _ => return None,
        })
    }

    /// Finds a level in the head of a line: in capitals among the first words, in brackets, or
    /// as `level=…`.
    pub fn in_head(text: &str) -> Option<Self> {
        let mut head = 0;
        for word in text.split([' ', '\t', '|']).filter(|word| !word.is_empty()).take(8) {
            head += word.len() + 1;
            if head > 160 {
                return None;
            }
            let value = ["level=", "lvl=", "severity=", "loglevel="]
                .iter()
                .find_map(|key| word.strip_prefix(key));
            if let Some(value) = value {
                return Self::parse(value.trim_matches('"'));
            }
            let enclosed = word.starts_with(['[', '<', '(']) || word.ends_with(':');
            // Glog's format, `E0102 03:04:05`, is unlike any other word.
            let mut parts = word.split(|c: char| !c.is_ascii_alphabetic()).filter(|p| p.len() > 2);
            let found = parts.find_map(|part| {
                let capitals = part.bytes().all(|b| b.is_ascii_uppercase());
                (capitals || enclosed).then(|| Self::parse(part)).flatten()
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Infers the level of a line that names none.
    pub fn inferred(text: &str) -> Self {
        let window: String = text.chars().take(400).collect::<String>().to_ascii_lowercase();
        let fails = FAILURES.iter().any(|word| window.contains(word)) || window.ends_with("error");
        if fails && !HARMLESS.iter().any(|word| window.contains(word)) {
            LogLevel::Error
        } else {
            LogLevel::Info
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_in_heads() {
        for (text, expected) in [
            ("ERROR could not", Some(LogLevel::Error)),
            ("[error] 12#0: *1 connect() failed", Some(LogLevel::Error)),
            ("[main] WARN c.e.App - slow", Some(LogLevel::Warn)),
            ("level=info msg=\"no error\"", Some(LogLevel::Info)),
            ("app[12]: Error: boom", Some(LogLevel::Error)),
            ("<critical> it burns", Some(LogLevel::Fatal)),
            ("an error happened", None),
            ("all is well", None),
            ("", None),
        ] {
            assert_eq!(LogLevel::in_head(text), expected, "{text}");
        }
        assert_eq!(LogLevel::inferred("connect failed"), LogLevel::Error);
        assert_eq!(LogLevel::inferred("done, 0 errors"), LogLevel::Info);
    }
}
