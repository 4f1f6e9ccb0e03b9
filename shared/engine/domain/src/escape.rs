//! Escapes ids of the legacy queue so that they can't be mistaken for another id or a part of a
//! path. Approval ids use `~` (`approval_<task_id>~2`). `#`, `?`, `/` and `%` have a meaning in
//! URLs and keys, as does `\`, which URL parsers treat as `/`. A space at an end is lost where
//! a gateway passes on a decoded path. Each of these, and `=`, becomes `=HH`, so that the
//! original id can be recovered.

use std::borrow::Cow;

/// Characters that no new id may contain.
const REFUSED: &[char] = &['#', '?', '/', '%', '~', '\\'];

fn is_escaped(byte: u8) -> bool {
    byte == b'=' || REFUSED.contains(&char::from(byte))
}

fn has_blank_end(text: &str) -> bool {
    text.starts_with(' ') || text.ends_with(' ')
}

/// The first character of a text that no new id may contain.
pub fn refused_in_ids(text: &str) -> Option<char> {
    text.chars().find(|c| REFUSED.contains(c)).or_else(|| has_blank_end(text).then_some(' '))
}

/// Escapes an id of the legacy queue for storage here.
pub fn escape_id(id: &str) -> Cow<'_, str> {
    if !id.bytes().any(is_escaped) && !has_blank_end(id) {
        return id.into();
    }
    let mut out = String::with_capacity(id.len() + 8);
    for (at, c) in id.char_indices() {
        let at_end = at == 0 || at + 1 == id.len();
        match u8::try_from(c) {
            Ok(byte) if is_escaped(byte) || byte == b' ' && at_end => {
                out.push('=');
                for nibble in [byte >> 4, byte & 15] {
                    out.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
                }
            }
            _ => out.push(c),
        }
    }
    out.into()
}

/// The character that the escape at the start of a text stands for.
fn escaped_at(text: &str) -> Option<char> {
    let hex = text.get(1..3)?;
    let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let byte = hex.bytes().all(upper).then(|| u8::from_str_radix(hex, 16).ok())??;
    (is_escaped(byte) || byte == b' ').then_some(char::from(byte))
}

/// Number of characters of an id, each escaped one counted once. So a legacy id of the greatest
/// length still fits.
pub(super) fn length(id: &str) -> usize {
    let escaped = id.match_indices('=').filter(|(place, _)| escaped_at(&id[*place..]).is_some());
    id.chars().count() - 2 * escaped.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_path_or_an_id_is_escaped_and_nothing_else() {
        assert_eq!(escape_id("a#b?c/d%e~f=g\\h"), "a=23b=3Fc=2Fd=25e=7Ef=3Dg=5Ch");
        assert_eq!(escape_id("Ünï-1 _:.@"), "Ünï-1 _:.@");
        assert_eq!(escape_id(" a b "), "=20a b=20");
        assert_eq!(escape_id(" "), "=20");
        assert_eq!(refused_in_ids(" a"), Some(' '));
        assert_eq!(refused_in_ids("a "), Some(' '));
        assert_eq!(refused_in_ids("a b"), None);
        assert_eq!(refused_in_ids("a=b/c~"), Some('/'));
        assert_eq!(refused_in_ids("a=2F"), None);
    }

    #[test]
    fn only_what_is_escaped_here_counts_as_one_character() {
        for id in ["a=", "a=2", "a=2f", "a=41", "=é2F", "a=zz"] {
            assert_eq!(length(id), id.chars().count(), "{id}");
        }
        assert_eq!(length("a=2Fb=41"), 6);
    }
}
