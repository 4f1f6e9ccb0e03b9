//! Computes the JSON size of values in bytes without serializing them.

use serde_json::{Map, Value};
use watchbill_domain::Event;

use super::{AuditEntry, FullTask, ReputationLine, TimelineEntry};

/// A page ends after this many bytes of entries. A Lambda returns at most 6 MB, and API Gateway
/// escapes every quote once more; one entry larger than this may be added.
pub(super) const PAGE_BYTES: usize = 1024 * 1024;

/// Bytes for the fixed fields of any entry, names and punctuation included.
pub(super) const FIELDS: usize = 512;

/// The room left in a page. The first entry always fits, so that every page makes progress.
pub(super) struct PageRoom {
    most: usize,
    taken: usize,
}

impl PageRoom {
    pub fn of_page() -> Self {
        Self::of(PAGE_BYTES)
    }

    pub fn of(bytes: usize) -> Self {
        Self { most: bytes, taken: 0 }
    }

    /// Takes this many bytes, if there is room for them.
    pub fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.taken == 0 || self.taken + bytes <= self.most;
        if fits {
            self.taken += bytes;
        }
        fits
    }

    /// The free bytes; a page's first entry may be larger.
    pub fn left(&self) -> usize {
        self.most.saturating_sub(self.taken)
    }

    pub fn taken(&self) -> usize {
        self.taken
    }
}

/// Bytes of a text in JSON, as `serde_json` writes it.
pub(super) fn text(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..0x20 => 6,
        _ => 1,
    });
    2 + escaped.sum::<usize>()
}

/// Bytes of a value in JSON; numbers are rounded up.
pub(super) fn value(of: &Value) -> usize {
    match of {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 24,
        Value::String(of) => text(of),
        Value::Array(of) => 2 + of.iter().map(|one| 1 + value(one)).sum::<usize>(),
        Value::Object(of) => object(of),
    }
}

pub(super) fn object(of: &Map<String, Value>) -> usize {
    2 + of.iter().map(|(name, one)| 2 + text(name) + value(one)).sum::<usize>()
}

fn maybe(of: Option<&String>) -> usize {
    of.map_or(0, |of| text(of))
}

pub(super) fn event(of: &Event) -> usize {
    let ids = [of.event_id.as_str(), of.event_type.as_str(), &of.source_agent, &of.trace_id];
    FIELDS
        + ids.into_iter().map(text).sum::<usize>()
        + of.task_id.as_ref().map_or(0, |id| text(id.as_str()))
        + object(&of.payload)
        + object(&of.metadata)
}

pub(super) fn task(of: &FullTask) -> usize {
    let task = &of.task;
    let texts = [&task.source, &task.trace_id, &task.created_by];
    4 * FIELDS
        + texts.into_iter().map(|of| text(of)).sum::<usize>()
        + 2 * text(task.id.as_str())
        + maybe(task.error.as_ref())
        + object(&task.metadata)
        + object(&of.payload)
        + of.result.as_ref().map_or(0, object)
        + of.children.iter().map(|child| 1 + text(child.as_str())).sum::<usize>()
}

pub(super) fn audit_entry(of: &AuditEntry) -> usize {
    let texts = [&of.kind, &of.actor, &of.subject, &of.text];
    FIELDS
        + texts.into_iter().map(|of| text(of)).sum::<usize>()
        + of.task_id.as_ref().map_or(0, |id| text(id.as_str()))
        + maybe(of.trace_id.as_ref())
        + object(&of.details)
}

pub(super) fn reputation_line(of: &ReputationLine) -> usize {
    FIELDS + text(of.task.as_str()) + text(&of.trace_id) + maybe(of.reason.as_ref())
}

pub(super) fn timeline_entry(of: &TimelineEntry) -> usize {
    FIELDS + text(&of.what) + text(&of.text) + maybe(of.by.as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_always_fits_and_what_is_beyond_the_page_does_not() {
        let mut room = PageRoom::of_page();
        assert!(room.takes(2 * PAGE_BYTES) && !room.takes(1));
        let mut room = PageRoom::of_page();
        assert!(room.takes(PAGE_BYTES - 1) && !room.takes(2) && room.takes(1) && !room.takes(1));
    }

    proptest! {
        /// Never less than the serialized size, and exact for texts.
        #[test]
        fn nothing_weighs_less_than_it_is(words in any::<String>(), n in any::<i64>(), x in any::<f64>()) {
            prop_assert_eq!(text(&words), serde_json::to_vec(&words).unwrap().len());
            let whole = json!({ words.clone(): [n, x, null, true, { "in": words }], "": {} });
            prop_assert!(value(&whole) >= whole.to_string().len());
        }
    }
}
