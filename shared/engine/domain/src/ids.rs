//! Identifiers of tasks, events, approvals and tenants, and how they are derived.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Timestamp, escape};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} has {length} characters; the maximum is {most}")]
    TooLong { what: &'static str, length: usize, most: usize },
    #[error("{what} '{value}' may only contain lower-case letters, digits, '-' and '_'")]
    BadTenant { what: &'static str, value: String },
    #[error("{what} contains a control character")]
    Control { what: &'static str },
    #[error(
        "{what} contains '{character}': leave out # ? / % ~ and \\, which have a meaning in ids \
         and URLs, and spaces at either end"
    )]
    Refused { what: &'static str, character: char },
}

fn check(what: &'static str, text: &str, most: usize) -> Result<(), IdError> {
    let length = escape::length(text);
    if length == 0 {
        return Err(IdError::Empty { what });
    }
    if length > most {
        return Err(IdError::TooLong { what, length, most });
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Control { what });
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $most:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                shared_text(from).map(Self)
            }
        }

        impl $name {
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check($what, text, $most)?;
                Ok(Self(text.into()))
            }

            /// Like `parse`, for the id of something new. An item that was stored before may
            /// have any id, see [`refused_in_ids`](super::refused_in_ids).
            pub fn parse_new(text: &str) -> Result<Self, IdError> {
                if let Some(character) = super::refused_in_ids(text) {
                    return Err(IdError::Refused { what: $what, character });
                }
                Self::parse(text)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                Self((&*id.as_hyphenated().encode_lower(&mut text)).into())
            }
        }
    };
}

text_id!(
    /// A task's id. Ours are UUIDs; ids of the legacy queue are up to 128 printable characters.
    TaskId, "task_id", 128
);
text_id!(
    /// An event's id, derived from what happened so that a repeat is recognisable.
    EventId, "event_id", 128
);
text_id!(
    /// `approval_<task_id>`, then `approval_<task_id>~2` and so on. An older build wrote `_2`
    /// there, which can collide with another task's first approval.
    ApprovalId, "approval_id", 160
);

impl ApprovalId {
    /// The id of the `n`-th approval of a task, counted from 1. It is unique because the number
    /// follows the last `~`. A task of an older build may have a `~` in its own id; then its
    /// first approval has a number too.
    pub fn of(task: &TaskId, n: u32) -> Self {
        match n {
            0 | 1 if !task.as_str().contains('~') => Self(format!("approval_{task}").into()),
            n => Self(format!("approval_{task}~{}", n.max(1)).into()),
        }
    }
}

/// The owner of the data: the first part of every key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TenantId(Arc<str>);

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        shared_text(from).map(Self)
    }
}

/// Reads a text directly into its shared form. Ids are read at every step of every task, and
/// through a `String` each would be copied twice.
pub(super) fn shared_text<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
    struct Text;

    impl serde::de::Visitor<'_> for Text {
        type Value = Arc<str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Arc<str>, E> {
            Ok(text.into())
        }
    }

    from.deserialize_str(Text)
}

impl TenantId {
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check("tenant", text, 64)?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if !text.chars().all(fits) {
            return Err(IdError::BadTenant { what: "tenant", value: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        // Length first, so that ("ab", "c") and ("a", "bc") differ.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// A UUIDv8 that depends only on the parts: the same cause gives the same id.
pub fn derived_uuid(parts: &[&str]) -> Uuid {
    let hash = digest(parts);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// A UUIDv8 that depends on the parts and begins with a time in milliseconds. Such ids sort by
/// time, and [`EventId::millis`] reads the time back.
pub fn timed_uuid(at: Timestamp, parts: &[&str]) -> Uuid {
    let hash = digest(parts);
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&(at.millis().max(0) as u64).to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&hash[..10]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl EventId {
    /// The time within an id made by [`timed_uuid`]. Returns `None` for any other id.
    pub fn millis(&self) -> Option<Timestamp> {
        let id = Uuid::parse_str(&self.0).ok()?;
        if id.get_version_num() != 8 {
            return None;
        }
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&id.as_bytes()[..6]);
        Some(Timestamp::from_millis(u64::from_be_bytes(bytes) as i64))
    }
}

/// Makes any text safe as a part of a key: `#`, `/`, `%`, space, control and non-ASCII
/// characters become %XX, so that no text can imitate another key.
pub fn escape_key_part(text: &str) -> std::borrow::Cow<'_, str> {
    let plain = |b: u8| (0x21..0x7f).contains(&b) && b != b'#' && b != b'/' && b != b'%';
    if text.bytes().all(plain) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_depend_on_every_part_and_its_border() {
        assert_eq!(derived_uuid(&["a", "b"]), derived_uuid(&["a", "b"]));
        assert_ne!(derived_uuid(&["ab", "c"]), derived_uuid(&["a", "bc"]));
        assert_eq!(derived_uuid(&["a"]).get_version_num(), 8);
    }

    #[test]
    fn a_timed_id_gives_its_time_back() {
        let at = Timestamp::from_millis(1_760_954_400_123);
        let id = EventId::from(timed_uuid(at, &["x"]));
        assert_eq!(id.millis(), Some(at));
        assert_eq!(EventId::parse("evt-1").unwrap().millis(), None);
    }

    #[test]
    fn foreign_ids_cannot_leave_their_place_in_a_key() {
        assert_eq!(escape_key_part("a#b/c%d é\n"), "a%23b%2Fc%25d%20%C3%A9%0A");
        assert_eq!(escape_key_part("plain-1"), "plain-1");
        assert!(TaskId::parse(&"x".repeat(129)).is_err());
        assert!(TaskId::parse("a\0b").is_err());
        assert!(TenantId::parse("Acme").is_err());
    }
}
