use std::borrow::Cow;
use std::io::{self, Write};

use super::{json, text};

/// Writes on without secrets. Each call of `write` is taken as a whole, as loggers write an
/// event at once: a secret that is cut in two by its writer is not found.
pub struct CleanWriter<W>(W);

impl<W: Write> CleanWriter<W> {
    pub fn new(inner: W) -> Self {
        Self(inner)
    }
}

impl<W: Write> Write for CleanWriter<W> {
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

/// Has panics told on standard error without secrets: their texts may quote anything.
pub fn clean_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // Nobody reads it if this fails.
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
            CleanWriter::new(&mut out).write_all(line.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
