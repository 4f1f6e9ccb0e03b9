//! Whether any rule can match at all: one walk over the text, before any pattern is tried.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::rules::RULES;

/// A bit for each rule.
pub(super) type Mask = u32;
const _: () = assert!(RULES.len() <= Mask::BITS as usize, "each rule has its bit");

struct Filter {
    words: AhoCorasick,
    /// By word.
    rules: Vec<u8>,
}

static FILTER: LazyLock<Filter> = LazyLock::new(|| {
    let words =
        || RULES.iter().enumerate().flat_map(|(n, rule)| rule.words.iter().map(move |w| (n, w)));
    let built = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .kind(Some(AhoCorasickKind::DFA))
        .build(words().map(|(_, word)| word));
    Filter {
        words: built.expect("a hundred short words fit into an automaton"),
        rules: words().map(|(rule, _)| rule as u8).collect(),
    }
});

/// The rules that may match in this text, or in one that was escaped into it.
pub(super) fn of(text: &[u8]) -> Mask {
    found(text).fold(0, |mask, rule| mask | 1 << rule)
}

/// Whether any rule may match.
pub(super) fn any(text: &[u8]) -> bool {
    found(text).next().is_some()
}

fn found(text: &[u8]) -> impl Iterator<Item = usize> {
    FILTER.words.find_overlapping_iter(text).filter_map(move |word| {
        let place = usize::from(FILTER.rules[word.pattern().as_usize()]);
        let rule = &RULES[place];
        let starts = !rule.starts || begins_a_word(&text[..word.start()]);
        let may = starts && rule.needs.is_none_or(|byte| text[word.end()..].contains(&byte));
        may.then_some(place)
    })
}

/// Nothing that belongs to the same word stands before; the letter of an escape does not.
fn begins_a_word(before: &[u8]) -> bool {
    match before {
        [.., last] if !last.is_ascii_alphanumeric() => true,
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] | [] => true,
        [.., b'\\', b'u', a, b, c, d] => [a, b, c, d].iter().all(|b| b.is_ascii_hexdigit()),
        _ => false,
    }
}
