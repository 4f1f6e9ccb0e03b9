//! Reduces a message to its template: the part that stays the same when the event recurs.

/// Maximum characters of a message that are read.
const MAX_CHARS: usize = 600;

/// Masks numbers, ids, hex, UUIDs, addresses, paths and quoted texts.
pub fn template(message: &str) -> String {
    let message = match message.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => &message[..end],
        None => message,
    };
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(c) = rest.chars().next() {
        if (c == '"' || c == '\'' || c == '`')
            && let Some(length) = quoted(rest, c, &out)
        {
            out.push_str("<str>");
            rest = &rest[length..];
        } else if is_break(c) {
            if !(c.is_whitespace() && out.ends_with(' ')) {
                out.push(if c.is_whitespace() { ' ' } else { c });
            }
            rest = &rest[c.len_utf8()..];
        } else {
            let length = url_length(rest).or_else(|| rest.find(is_break)).unwrap_or(rest.len());
            push_token(&rest[..length], &mut out);
            rest = &rest[length..];
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// The length of a URL at the start of `rest`. `=` and `,` do not end it as they end other
/// tokens.
fn url_length(rest: &str) -> Option<usize> {
    let end =
        rest.find(|c: char| c.is_whitespace() || "<>\"'`|()".contains(c)).unwrap_or(rest.len());
    let scheme = rest[..end].find("://")?;
    rest[..scheme].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+').then_some(end)
}

fn is_break(c: char) -> bool {
    c.is_whitespace() || "=,;()[]{}|<>\"'`".contains(c)
}

/// Length of a quoted text including both quotes. An apostrophe within a word opens no quote.
fn quoted(rest: &str, quote: char, before: &str) -> Option<usize> {
    if quote == '\'' && before.ends_with(char::is_alphanumeric) {
        return None;
    }
    let inner = &rest[1..];
    let end = inner.find(quote)?;
    if quote == '\'' && inner[end + 1..].starts_with(char::is_alphanumeric) {
        return None;
    }
    Some(end + 2)
}

fn push_token(token: &str, out: &mut String) {
    // Punctuation at the end belongs to the sentence.
    let core = token.trim_end_matches([':', '.', ',', '!', '?']);
    let (core, tail) = token.split_at(core.len());
    let mask = if core.contains("://") {
        Some("<url>")
    } else if core.contains('@') && core.contains('.') {
        Some("<email>")
    } else if is_path(core) {
        Some("<path>")
    } else if core.bytes().any(|b| b.is_ascii_digit()) || is_hex(core) {
        digits_mask(core)
    } else {
        None
    };
    match mask {
        Some(mask) => out.push_str(mask),
        None => push_without_numbers(core, out),
    }
    out.push_str(tail);
}

fn is_path(token: &str) -> bool {
    let slashes = token.bytes().filter(|b| *b == b'/').count();
    (token.starts_with('/') && token.len() > 1)
        || token.starts_with("./")
        || token.starts_with("~/")
        || (slashes >= 2 && !token.bytes().next().is_some_and(|b| b.is_ascii_digit()))
        || (token.len() > 3 && token.as_bytes().get(1..3) == Some(b":\\"))
}

fn is_hex(token: &str) -> bool {
    let digits = token.strip_prefix("0x").unwrap_or(token);
    let long = digits.len() >= if digits.len() < token.len() { 1 } else { 12 };
    long && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn digits_mask(token: &str) -> Option<&'static str> {
    if is_uuid(token) {
        return Some("<id>");
    }
    if is_hex(token)
        || (token.len() >= 7
            && token.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
            && token.bytes().any(|b| b.is_ascii_alphabetic()))
    {
        return Some("<hex>");
    }
    if is_ip(token) {
        return Some("<ip>");
    }
    // 12ms, 1.5, 30%, -4, 10:02:11
    let rest = token.trim_start_matches(['-', '+', '$']);
    let number = rest.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%');
    let plain = !number.is_empty()
        && rest.len() - number.len() <= 3
        && number.bytes().all(|b| b.is_ascii_digit() || b".:-/_".contains(&b));
    if plain {
        return Some("<n>");
    }
    // Long mixtures of letters and digits are ids: req-8f3a9c2b41
    let mixed = token.bytes().filter(u8::is_ascii_digit).count();
    (token.len() >= 16 && mixed >= 4 && !token.contains(['/', ':', '.'])).then_some("<id>")
}

fn is_uuid(token: &str) -> bool {
    token.len() == 36
        && token.bytes().enumerate().all(|(n, b)| match n {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn is_ip(token: &str) -> bool {
    let host = token.rsplit_once(':').map_or(token, |(host, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) && !host.contains(':') { host } else { token }
    });
    host.parse::<std::net::IpAddr>().is_ok()
}

/// `worker-12` → `worker-<n>`.
fn push_without_numbers(token: &str, out: &mut String) {
    let mut in_number = false;
    for c in token.chars() {
        if c.is_ascii_digit() {
            if !in_number {
                out.push_str("<n>");
            }
            in_number = true;
        } else {
            in_number = false;
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn variable_parts_are_masked() {
        for (message, expected) in [
            ("connect to 10.0.0.1:5432 failed after 30ms", "connect to <ip> failed after <n>"),
            ("user 42 not found", "user <n> not found"),
            ("job 6f9619ff-8b86-d011-b42d-00cf4fc964ff died", "job <id> died"),
            ("commit deadbeef1234 broke", "commit <hex> broke"),
            ("can't open /var/lib/x/y.db: denied", "can't open <path>: denied"),
            ("key \"abc def\" missing, value='x'", "key <str> missing, value=<str>"),
            ("GET https://example.com/a?b=1 gave 502", "GET <url> gave <n>"),
            ("worker-12 lost 0x7ffe", "worker-<n> lost <hex>"),
            ("mail to bob@example.com bounced", "mail to <email> bounced"),
            ("request req-8f3a9c2b41d07e failed", "request <id> failed"),
            ("took 1.5s, 30% of it at 10:02:11", "took <n>, <n> of it at <n>"),
            ("plain words only", "plain words only"),
            ("", ""),
        ] {
            assert_eq!(template(message), expected, "{message}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_ends_short(message in "\\PC{0,900}") {
            let one = template(&message);
            prop_assert!(one.len() <= 4 * MAX_CHARS * 5);
        }

        #[test]
        fn numbers_do_not_make_new_templates(a in 0_u64.., b in 0_u64..) {
            prop_assert_eq!(
                template(&format!("took {a} ms for item {a}")),
                template(&format!("took {b} ms for item {b}"))
            );
        }
    }
}
