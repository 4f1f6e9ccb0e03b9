//! Invisible parts of a text, and the text without them: control characters, terminal
//! sequences, zero-width characters and full-width letters.

use std::borrow::Cow;

/// Whether [`visible`] may change anything. Plain ASCII is checked several bytes at a time.
pub(super) fn any(text: &str) -> bool {
    let odd = |b: &u8| (*b < b' ') & !matches!(*b, b'\n' | b'\t' | b'\r') | (*b >= 0x7f);
    let mut chunks = text.as_bytes().chunks(64);
    // Folded without a branch, so that the compiler can vectorise it.
    chunks.any(|chunk| chunk.iter().fold(false, |any, b| any | odd(b)))
        && text.chars().any(is_hidden)
}

pub(super) fn is_hidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t' | '\r') || is_unseen(c) || ascii_of(c).is_some()
}

/// Zero-width or direction-only: format characters, variation selectors, tags.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e01ef}')
}

/// The plain form of a full-width character.
fn ascii_of(c: char) -> Option<char> {
    matches!(c, '\u{ff01}'..='\u{ff5e}').then(|| char::from((c as u32 - 0xfee0) as u8))
}

/// The visible text. Line breaks and tabs stay.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if !any(text) {
        return Cow::Borrowed(text);
    }
    without(text, |c| ascii_of(c).or_else(|| (!is_hidden(c)).then_some(c)))
}

/// The text without control characters and terminal sequences. Line feeds and tabs stay.
pub fn without_controls(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Cow::Borrowed(text);
    }
    without(text, |c| (!c.is_control() || matches!(c, '\n' | '\t')).then_some(c))
}

fn without(text: &str, keep: impl Fn(char) -> Option<char>) -> Cow<'_, str> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\u{1b}' | '\u{9b}' => sequence(rest.as_bytes()),
            _ => {
                plain.extend(keep(c));
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Cow::Owned(plain)
}

/// Longest terminal sequence. If it is longer, what follows the escape character is text.
const MAX_SEQUENCE: usize = 256;

/// Length of the terminal sequence at the start of a text (ECMA-48): colours and cursor (`ESC [
/// … letter`), titles and links (`ESC ] … BEL`), or the escape character alone.
fn sequence(text: &[u8]) -> usize {
    let (alone, kind, from) = match text {
        [0x1b, kind, ..] => (1, *kind, 2),
        [0xc2, 0x9b, ..] => (2, b'[', 2),
        _ => return 1,
    };
    let rest = &text[from..text.len().min(MAX_SEQUENCE)];
    let end = match kind {
        b'[' => {
            let end = rest.iter().position(|b| !(0x20..=0x3f).contains(b));
            end.filter(|end| (0x40..=0x7e).contains(&rest[*end])).map(|end| end + 1)
        }
        b']' => rest.iter().position(|b| matches!(b, 0x07 | 0x1b)).map(|end| match rest[end..] {
            [0x1b, b'\\', ..] => end + 2,
            [0x1b, ..] => end,
            _ => end + 1,
        }),
        _ => None,
    };
    end.map_or(alone, |end| from + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_removed_and_the_rest_stays() {
        for (given, expected) in [
            ("pass\u{200b}word", "password"),
            ("\u{1b}[1mpass\u{1b}[0;31mword\u{1b}[0m", "password"),
            ("\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{1b}\\ end", "link end"),
            ("a\0b\u{9b}1mc", "abc"),
            ("ｐａｓｓ：１", "pass:1"),
            ("one\ntwo\tthree\r\n", "one\ntwo\tthree\r\n"),
            ("grüße, 世界 🙂", "grüße, 世界 🙂"),
            ("\u{1b}[12", "[12"),
        ] {
            assert_eq!(visible(given), expected, "{given:?}");
        }
    }

    #[test]
    fn controls_go_with_the_whole_of_their_sequence() {
        assert_eq!(without_controls("gh\u{1b}[0mp_x\r\ny\u{200b}"), "ghp_x\ny\u{200b}");
        assert!(matches!(without_controls("a\n\tb"), Cow::Borrowed(_)));
    }
}
