//! Cursors of lists: the position where a page ends, bound to its list and its tenant.
//!
//! A cursor reads `<kind>-<check>-<place>`. The kind names the list and the cursor's format; the
//! check is a digest over kind, scope and place, so that a garbled cursor, or one made for another
//! tenant or filter, is detected instead of pointing to a wrong position. The check is no access
//! control: a place contains nothing of its tenant and is only looked up in the caller's own.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use watchbill_domain::{TenantId, hex};

use super::ServiceError;
use crate::ports::{Key, ListCursor};

/// Number of characters of a check.
const CHECK: usize = 8;

/// A kind of cursor, with the list it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorKind {
    pub tag: &'static str,
    pub list: &'static str,
}

/// Every kind of cursor. A changed format gets a new tag.
pub mod cursors {
    use super::CursorKind;

    pub const ALL: &[CursorKind] =
        &[TASKS, TIMELINE, PENDING, HISTORY, EVENTS, FOLLOWED, AUDIT, REPUTATION, KEYS];

    pub const TASKS: CursorKind = CursorKind { tag: "t1", list: "/tasks" };
    pub const TIMELINE: CursorKind = CursorKind { tag: "l1", list: "/tasks/{id}/timeline" };
    pub const PENDING: CursorKind = CursorKind { tag: "p1", list: "/approvals/pending" };
    pub const HISTORY: CursorKind = CursorKind { tag: "h1", list: "/approvals/history" };
    pub const EVENTS: CursorKind = CursorKind { tag: "e1", list: "/events" };
    pub const FOLLOWED: CursorKind = CursorKind { tag: "f1", list: "/events with 'after'" };
    pub const AUDIT: CursorKind = CursorKind { tag: "a1", list: "/audit" };
    pub const KEYS: CursorKind = CursorKind { tag: "k1", list: "/keys" };
    pub const REPUTATION: CursorKind = CursorKind { tag: "r1", list: "/agents/{type}/events" };
}

/// Cursors of one list of one tenant.
#[derive(Clone, Debug)]
pub(super) struct Cursors {
    kind: CursorKind,
    scope: String,
}

impl Cursors {
    /// `scope`: which part or filter of the list they are for.
    pub fn new(kind: CursorKind, tenant: &TenantId, scope: &str) -> Self {
        Self { kind, scope: format!("{tenant}\0{scope}") }
    }

    pub fn seal(&self, place: &str) -> String {
        format!("{}-{}-{place}", self.kind.tag, self.check(place))
    }

    /// The place in a cursor, if the cursor belongs to this list.
    pub fn open<'a>(&self, cursor: &'a str) -> Result<&'a str, ServiceError> {
        let mut parts = cursor.splitn(3, '-');
        let (Some(tag), Some(check), Some(place)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(self.refuse(cursor, "it is malformed"));
        };
        if tag != self.kind.tag {
            let of = cursors::ALL.iter().find(|kind| kind.tag == tag);
            let why = match of {
                Some(of) => format!("it is a cursor of {}", of.list),
                None => "it has another version".to_owned(),
            };
            return Err(self.refuse(cursor, &why));
        }
        if check != self.check(place) {
            return Err(self.refuse(cursor, "it is garbled, or of another tenant or filter"));
        }
        Ok(place)
    }

    fn check(&self, place: &str) -> String {
        let mut digest = Sha256::new();
        for part in [self.kind.tag, &self.scope, place] {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        hex(&digest.finalize()[..CHECK / 2])
    }

    pub fn refuse(&self, cursor: &str, why: &str) -> ServiceError {
        let shown: String = cursor.chars().take(64).collect();
        let list = self.kind.list;
        let message =
            format!("'{shown}' is not a cursor of {list}: {why}; leave it out to start over");
        ServiceError::Invalid { field: "cursor", message }
    }

    /// A position in a ledger: the batch, and the number of its entries before the position.
    pub fn seal_batch(&self, seq: u64, before: usize) -> String {
        match before {
            usize::MAX => self.seal(&format!("{seq}.")),
            _ => self.seal(&format!("{seq}.{before}")),
        }
    }

    pub fn open_batch(&self, cursor: &str) -> Result<(u64, usize), ServiceError> {
        let parse = |place: &str| {
            let (seq, before) = place.split_once('.')?;
            let before = if before.is_empty() { usize::MAX } else { before.parse().ok()? };
            Some((seq.parse().ok()?, before))
        };
        parse(self.open(cursor)?).ok_or_else(|| self.refuse(cursor, "it names no position"))
    }

    /// A position in a list of the store, whose items' partitions all begin with `prefix`.
    pub fn seal_list(&self, prefix: &str, place: &ListCursor) -> String {
        let partition = place.key.partition.strip_prefix(prefix).unwrap_or_default();
        let parts = [&*place.sort, partition, &*place.key.sort];
        self.seal(&parts.map(escaped).join("."))
    }

    pub fn open_list(&self, prefix: &str, cursor: &str) -> Result<ListCursor, ServiceError> {
        let parse = |place: &str| {
            let mut parts = place.split('.').map(plain);
            let (sort, partition, key) = (parts.next()??, parts.next()??, parts.next()??);
            let key = Key::new(format!("{prefix}{partition}"), key);
            Some(ListCursor { sort: Arc::from(sort), key }).filter(|_| parts.next().is_none())
        };
        parse(self.open(cursor)?).ok_or_else(|| self.refuse(cursor, "it names no position"))
    }
}

/// Leaves letters, digits, `_` and `-`, encodes all else as `~XX`: the result needs no URL
/// encoding.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => out.push(char::from(byte)),
            _ => {
                out.push('~');
                out.push_str(&hex(&[byte]));
            }
        }
    }
    out
}

fn plain(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'~' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Whether a text has the form of a cursor of these kinds; only its list can validate it.
pub fn has_cursor_form(text: &str, kinds: &[CursorKind]) -> bool {
    let mut parts = text.splitn(3, '-');
    let (tag, check, place) = (parts.next(), parts.next(), parts.next());
    let hex = |text: &str| {
        text.len() == CHECK && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'~' | b'.');
    tag.is_some_and(|tag| kinds.iter().any(|kind| kind.tag == tag))
        && check.is_some_and(hex)
        && place.is_some_and(|place| place.bytes().all(fits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::cursors::{AUDIT, EVENTS, TASKS};
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn message(error: ServiceError) -> String {
        assert!(matches!(error, ServiceError::Invalid { field: "cursor", .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn a_cursor_is_valid_for_its_own_list_and_named_elsewhere() {
        let acme = tenant("acme");
        let audit = Cursors::new(AUDIT, &acme, "");
        let cursor = audit.seal_batch(7, 3);
        assert_eq!(audit.open_batch(&cursor).unwrap(), (7, 3));
        assert!(has_cursor_form(&cursor, &[AUDIT]) && !has_cursor_form(&cursor, &[EVENTS]));
        let whole = audit.seal_batch(7, usize::MAX);
        assert_eq!(audit.open_batch(&whole).unwrap(), (7, usize::MAX));
        for (cursors, said) in [
            (
                Cursors::new(EVENTS, &acme, ""),
                "is not a cursor of /events: it is a cursor of /audit",
            ),
            (Cursors::new(AUDIT, &tenant("other"), ""), "of another tenant"),
            (Cursors::new(AUDIT, &acme, "x"), "of another tenant or filter"),
        ] {
            let error = message(cursors.open_batch(&cursor).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
        let garbled = cursor.replace("7.3", "7.4");
        for (bad, said) in [
            ("7.3", "it is malformed"),
            ("", "it is malformed"),
            ("a9-00000000-7.3", "it has another version"),
            (garbled.as_str(), "garbled"),
            (&audit.seal("7"), "it names no position"),
            (&audit.seal("x.3"), "it names no position"),
        ] {
            let error = message(audit.open_batch(bad).unwrap_err());
            assert!(error.contains(said), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn places_of_lists_come_back(sort in any::<String>(), partition in any::<String>(), key in any::<String>()) {
            let cursors = Cursors::new(TASKS, &tenant("acme"), "list");
            let key = Key::new(format!("T#acme#{partition}"), key);
            let place = ListCursor { sort: sort.into(), key };
            let cursor = cursors.seal_list("T#acme#", &place);
            prop_assert!(has_cursor_form(&cursor, &[TASKS]), "{}", cursor);
            prop_assert_eq!(cursors.open_list("T#acme#", &cursor).unwrap(), place);
        }
    }
}
