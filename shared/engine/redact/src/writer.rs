//! Removes secrets from log output and from panic messages.

use std::borrow::Cow;
use std::io::{self, Write};

use super::{json, text};

/// Passes on its input without secrets. Each call of `write` is cleaned on its own, as loggers
/// write one event per call. A secret that is split between two calls is not found.
pub struct RedactingWriter<W>(W);

impl<W: Write> RedactingWriter<W> {
    pub fn new(inner: W) -> Self {
        Self(inner)
    }
}

impl<W: Write> Write for RedactingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let said = String::from_utf8_lossy(bytes);
        let clean = match said.starts_with('{') {
            true => json(&said),
            false => text(&said),
        };
        match clean {
            Cow::Borrowed(clean) if clean.len() == bytes.len() => self.0.write_all(bytes)?,
            clean => self.0.write_all(clean.as_bytes())?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Prints panics to standard error without secrets: their messages may quote anything.
pub fn clean_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // If this fails, there is no other output to use.
        let _ = writeln!(io::stderr(), "{}", text(&panic.to_string()));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_lines_are_written_clean() {
        for (line, expected) in [
            ("INFO all is well\n", "INFO all is well\n"),
            ("WARN password=hunter2 refused\n", "WARN password=*** refused\n"),
            (
                "{\"message\":\"said\\npassword=hunter2\"}\n",
                "{\"message\":\"said\\npassword=***\"}\n",
            ),
        ] {
            let mut out = Vec::new();
            RedactingWriter::new(&mut out).write_all(line.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
