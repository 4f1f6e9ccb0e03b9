//! Multi-line YAML values under a secret's name: block scalars (`|`, `>`), lists and indented
//! lines. Escaped line breaks count, too.

use std::borrow::Cow;

use super::edit::TextEdit;
use super::names::{self, NameKind};

/// Hides such lines.
pub(super) fn apply(text: &str) -> Cow<'_, str> {
    if !text.contains('\n') && !text.contains("\\n") {
        return Cow::Borrowed(text);
    }
    let mut edit = TextEdit::of(text);
    let mut block: Option<Block> = None;
    for (from, line) in lines(text) {
        if let Some(block) = &block
            && let Some(inner) = block.holds(line)
        {
            block.hide(&mut edit, from, line, inner);
            continue;
        }
        // A blank line doesn't end a block.
        if !line.trim().is_empty() {
            block = Block::opened_by(line);
        }
    }
    edit.finish()
}

/// Each line without its line break, with its offset.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = text.get(from..).filter(|rest| !rest.is_empty())?;
        let bytes = rest.as_bytes();
        let end = (0..bytes.len()).find(|at| {
            bytes[*at] == b'\n' || bytes[*at] == b'\\' && bytes.get(at + 1) == Some(&b'n')
        });
        let line = (from, &rest[..end.unwrap_or(rest.len())]);
        let mark = end.map_or(0, |end| if bytes[end] == b'\n' { 1 } else { 2 });
        from += line.1.len() + mark;
        Some(line)
    })
}

struct Block {
    /// Indent of its name. Lines of the block are indented further.
    indent: usize,
    kind: NameKind,
    /// Opened by `|` or `>`: every line is text.
    scalar: bool,
    /// The name ends a line of other words: only values that look generated count.
    said: bool,
}

impl Block {
    fn opened_by(line: &str) -> Option<Self> {
        let line = line.trim_end();
        let (indent, content) = content(line);
        let (before, scalar) = match line.rfind(['|', '>']) {
            Some(at) if line[at + 1..].bytes().all(|b| matches!(b, b'+' | b'-' | b'0'..=b'9')) => {
                (line[..at].trim_end(), true)
            }
            _ => (line, false),
        };
        // `password: !vault |`
        let before = match before.rsplit_once(' ') {
            Some((before, tag)) if scalar && tag.starts_with('!') => before.trim_end(),
            _ => before,
        };
        let named = before.strip_suffix(':')?.trim_end_matches(['"', '\'', '\\']);
        let start = named.rfind(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.'));
        let name = &named
            [start.map_or(0, |at| at + named[at..].chars().next().map_or(1, char::len_utf8))..];
        let alone = content.trim_start_matches(['"', '\'']).starts_with(name);
        let kind = names::kind(name);
        (kind != NameKind::Plain).then_some(Self { indent, kind, scalar, said: !scalar && !alone })
    }

    /// Where the content begins, if the line belongs to the block.
    fn holds(&self, line: &str) -> Option<usize> {
        let inner = line.len() - line.trim_start().len();
        let item = !self.scalar && inner == self.indent && line[inner..].starts_with("- ");
        (!line.trim().is_empty() && (inner > self.indent || item)).then_some(inner)
    }

    fn hide(&self, edit: &mut TextEdit<'_>, from: usize, line: &str, inner: usize) {
        let end = line.trim_end().len();
        if self.scalar {
            return edit.hide(from + inner, from + end);
        }
        let said = line[inner..end].trim_start_matches("- ");
        let value = match said.split_once(": ") {
            Some((_, value)) => value.trim_start(),
            None if said.ends_with(':') => return,
            None => said,
        };
        if names::hides(self.kind, value) && (!self.said || names::is_generated(value)) {
            edit.hide(from + end - value.len(), from + end);
        }
    }
}

/// Indent of a line's content, including list marks, and the content.
fn content(line: &str) -> (usize, &str) {
    let content = line.trim_start().trim_start_matches("- ").trim_start();
    (line.len() - content.len(), content)
}
