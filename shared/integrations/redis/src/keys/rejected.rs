//! Entries of the list `watchbill:rejected`, where people find unreadable items.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Rejected;
use crate::batch::{Key, Kind};

/// Newest first. Only people remove entries.
pub(super) const REJECTED: Key = Key::fixed("watchbill:rejected", Kind::List);

/// An entry; it keeps the original bytes.
pub(super) fn entry(rejected: &Rejected) -> String {
    let mut entry = json!({
        "queue": rejected.queue,
        "reason": rejected.reason,
        "at": rejected.at,
    });
    let data = rejected.data.as_ref().map(|data| ("data", data));
    for (name, bytes) in [("member", &rejected.member)].into_iter().chain(data) {
        match std::str::from_utf8(bytes) {
            Ok(text) => entry[name] = text.into(),
            Err(_) => entry[format!("{name}_base64")] = STANDARD.encode(bytes).into(),
        }
    }
    entry.to_string()
}
