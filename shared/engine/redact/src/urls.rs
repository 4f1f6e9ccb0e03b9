//! The user in a URL, with the password: `postgres://app:secret@db/x`.

use std::borrow::Cow;

use super::edit::TextEdit;

/// A user without a password that is at least this long is a token.
const MIN_TOKEN: usize = 16;

/// Hides each user that contains a secret. A URL is read up to the next one.
pub(super) fn apply(text: &str) -> Cow<'_, str> {
    let mut edit = TextEdit::of(text);
    for (place, mark) in text.match_indices("://") {
        let from = place + mark.len();
        let schemed = place > 0 && text.as_bytes()[place - 1].is_ascii_alphanumeric();
        if schemed
            && from > edit.done()
            && let Some(length) = user(part(&text[from..]))
        {
            edit.hide(from, from + length);
        }
    }
    edit.finish()
}

/// Whether a user may follow.
pub(super) fn may(text: &[u8], _: usize, to: usize) -> bool {
    for (place, b) in text[to..].iter().enumerate() {
        match b {
            b'@' => return true,
            b':' if text[to + place..].starts_with(b"://") => return false,
            b if is_end(*b) => return false,
            _ => {}
        }
    }
    false
}

fn is_end(b: u8) -> bool {
    b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b'<' | b'>' | b'\\' | b'`')
}

/// The part that may belong to this URL: at most up to the next one.
fn part(rest: &str) -> &str {
    let bytes = rest.as_bytes();
    let ends = |at: &usize| is_end(bytes[*at]) || bytes[*at..].starts_with(b"://");
    &rest[..(0..bytes.len()).find(ends).unwrap_or(bytes.len())]
}

/// Length of the user, up to the `@`. A password may contain characters that should have been
/// escaped: `/`, `@`, `#`, `?`.
fn user(part: &str) -> Option<usize> {
    let name = part.find(['/', '?', '#', '@', ':'])?;
    match part.as_bytes()[name] {
        b'@' => return (name >= MIN_TOKEN).then_some(name),
        b':' => {}
        _ => return None,
    }
    let password = &part[name + 1..];
    let slash = password.find('/').unwrap_or(password.len());
    let within = password[..slash].rfind('@');
    if let Some(within) = within
        && is_host(&password[within + 1..slash])
    {
        return Some(name + 1 + within);
    }
    // `host:8080/@scope/x`, `host:8080/?mail=a@b.c`
    let port = password[..slash].bytes().all(|b| b.is_ascii_digit()) && slash <= 5;
    let port = port
        || password.find(['?', '#']).is_some_and(|end| {
            end < slash && end <= 5 && password[..end].bytes().all(|b| b.is_ascii_digit())
        });
    if within.is_none() && port {
        return None;
    }
    let from = within.map_or(0, |within| within + 1);
    let far = password[from..].rfind('@').filter(|at| {
        let between = &password[from..from + at];
        !between.ends_with('/') && !between.contains(['=', '&'])
    });
    far.map(|at| from + at).or(within).map(|at| name + 1 + at)
}

fn is_host(name: &str) -> bool {
    let host = name.split([':', '?', '#']).next().unwrap_or(name);
    host.contains('.') || name.contains(':') || host == "localhost" || host.starts_with('[')
}
