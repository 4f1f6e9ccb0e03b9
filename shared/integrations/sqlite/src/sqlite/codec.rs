//! Encodings of keys, list entries, rows, changes and cursors.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Row;
use watchbill_core::ports::{Item, Key, ListCursor, ListEntry, StoreError, WriteId};
use watchbill_domain::Timestamp;

/// Separates the two parts of a key or of a list entry. The first part must not contain it, so
/// that byte order is the order by first part, then second.
const BORDER: u8 = 0;

/// `first`, border, `second` in one column, so that each step down an index takes one
/// comparison.
pub(super) fn join(into: &mut Vec<u8>, first: &str, second: &str) {
    into.clear();
    into.reserve(first.len() + 1 + second.len());
    into.extend_from_slice(first.as_bytes());
    into.push(BORDER);
    into.extend_from_slice(second.as_bytes());
}

pub(super) fn joined(first: &str, second: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    join(&mut bytes, first, second);
    bytes
}

/// Whether a text may be a first part.
pub(super) fn fits_before_border(text: &str) -> bool {
    !text.as_bytes().contains(&BORDER)
}

/// The first byte string after all that start with `first` and the border.
pub(super) fn after_all(first: &str) -> Vec<u8> {
    let mut bytes = first.as_bytes().to_vec();
    bytes.push(BORDER + 1);
    bytes
}

fn split(bytes: &[u8]) -> Option<(&str, &str)> {
    let border = bytes.iter().position(|byte| *byte == BORDER)?;
    let (first, second) = (&bytes[..border], &bytes[border + 1..]);
    Some((std::str::from_utf8(first).ok()?, std::str::from_utf8(second).ok()?))
}

pub(super) fn key_of(bytes: &[u8]) -> Option<Key> {
    split(bytes).map(|(partition, sort)| Key::new(partition, sort))
}

fn list_of(bytes: Option<&[u8]>) -> Option<ListEntry> {
    let (partition, sort) = split(bytes?)?;
    Some(ListEntry { partition: partition.into(), sort: sort.into() })
}

/// The columns of [`read_item`], in its order.
pub(super) const ITEM_COLUMNS: &str =
    "id, key, v, w, kind, schema, list, list2, due, expires, counters, body, sum";

/// A checksum over an item, which detects bytes changed on disk; SQLite has none of its own.
/// CRC-32 detects every burst of up to 32 bits, at gigabytes a second. It is signed, because
/// then a row has the same length with nearly every value.
pub(super) fn sum_of(item: &Item) -> i32 {
    let mut sum = crc32fast::Hasher::new();
    let mut text = |text: &[u8]| {
        sum.update(&(text.len() as u64).to_le_bytes());
        sum.update(text);
    };
    text(item.key.partition.as_bytes());
    text(item.key.sort.as_bytes());
    text(item.kind.as_bytes());
    text(&item.body);
    for entry in [&item.list, &item.list2] {
        match entry {
            Some(entry) => {
                text(entry.partition.as_bytes());
                text(entry.sort.as_bytes());
            }
            None => text(&[]),
        }
    }
    for (name, count) in &item.counters {
        text(name.as_bytes());
        text(&count.to_le_bytes());
    }
    sum.update(&item.version.to_le_bytes());
    sum.update(&item.write_id.0.to_le_bytes());
    sum.update(&item.schema.to_le_bytes());
    for at in [item.due, item.expires] {
        sum.update(&at.map_or(i64::MIN, Timestamp::millis).to_le_bytes());
    }
    sum.finalize().cast_signed()
}

/// The same columns without a long body. 16 KiB are a few pages, and are read faster than
/// handed to another thread.
pub(super) const SHORT_ITEM_COLUMNS: &str = "id, key, v, w, kind, schema, list, list2, due, \
    expires, counters, CASE WHEN length(body) <= 16384 THEN body END, sum";

/// Whether a row of [`SHORT_ITEM_COLUMNS`] lacks its body.
pub(super) fn is_long(row: &Row<'_>) -> rusqlite::Result<bool> {
    Ok(row.get_ref(11)?.as_blob_or_null()?.is_none())
}

/// Reads a row of [`ITEM_COLUMNS`] with its row id. A known `key` need not be built again.
pub(super) fn read_item(row: &Row<'_>, key: Option<&Key>) -> Result<(i64, Item), StoreError> {
    let known = || {
        let in_row = || key_of(row.get_ref(1).ok()?.as_blob().ok()?);
        key.cloned().or_else(in_row).unwrap_or_else(|| Key::new("?", "?"))
    };
    let corrupt = |reason: String| StoreError::Corrupt { key: known(), reason };
    let (id, item) = raw_item(row, key)
        .map_err(|error| corrupt(error.to_string()))?
        .ok_or_else(|| corrupt("its key, write id or counters are invalid".into()))?;
    let written: Option<i32> = row.get(12).map_err(|error| corrupt(error.to_string()))?;
    let found = sum_of(&item);
    if written.is_some_and(|written| written != found) {
        return Err(corrupt(format!(
            "its checksum is {:08x}, but was {:08x} when written: its bytes have changed on disk",
            found,
            written.unwrap_or_default()
        )));
    }
    Ok((id, item))
}

fn raw_item(row: &Row<'_>, key: Option<&Key>) -> rusqlite::Result<Option<(i64, Item)>> {
    let key = match key {
        Some(key) => Some(key.clone()),
        None => key_of(row.get_ref(1)?.as_blob()?),
    };
    let write_id = <[u8; 16]>::try_from(row.get_ref(3)?.as_blob()?);
    let (Some(key), Ok(write_id)) = (key, write_id) else { return Ok(None) };
    let counters = match row.get_ref(10)?.as_str_or_null()? {
        None => BTreeMap::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(counters) => counters,
            Err(_) => return Ok(None),
        },
    };
    let item = Item {
        key,
        version: row.get::<_, i64>(2)?.cast_unsigned(),
        write_id: WriteId(u128::from_be_bytes(write_id)),
        kind: row.get_ref(4)?.as_str()?.into(),
        schema: row.get(5)?,
        list: list_of(row.get_ref(6)?.as_blob_or_null()?),
        list2: list_of(row.get_ref(7)?.as_blob_or_null()?),
        due: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_millis),
        expires: row.get::<_, Option<i64>>(9)?.map(Timestamp::from_millis),
        counters,
        body: Bytes::copy_from_slice(row.get_ref(11)?.as_blob()?),
    };
    Ok(Some((row.get(0)?, item)))
}

/// Appends a change to a row of the table `changes`.
pub(super) fn pack_change(into: &mut Vec<u8>, key: &Key, version: u64) {
    for part in [&key.partition, &key.sort] {
        // SQLite's limits keep keys far below 4 GB.
        into.extend_from_slice(&(part.len() as u32).to_be_bytes());
        into.extend_from_slice(part.as_bytes());
    }
    into.extend_from_slice(&version.to_be_bytes());
}

/// Reads what [`pack_change`] wrote; ends with `None` at an unreadable change.
pub(super) fn unpack_changes(mut packed: &[u8]) -> impl Iterator<Item = Option<(Key, u64)>> {
    std::iter::from_fn(move || {
        if packed.is_empty() {
            return None;
        }
        let one = take_change(&mut packed);
        if one.is_none() {
            packed = &[];
        }
        Some(one)
    })
}

fn take_change(packed: &mut &[u8]) -> Option<(Key, u64)> {
    let mut part = || -> Option<Arc<str>> {
        let (length, rest) = packed.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *packed = rest;
        Some(std::str::from_utf8(text).ok()?.into())
    };
    let (partition, sort) = (part()?, part()?);
    let (version, rest) = packed.split_first_chunk::<8>()?;
    *packed = rest;
    Some((Key { partition, sort }, u64::from_be_bytes(*version)))
}

/// The cursor after an index entry; `None` if the entry can't be read.
pub(super) fn list_cursor(entry: &[u8], key: &Key) -> Option<String> {
    let entry = list_of(Some(entry))?;
    Some(ListCursor::after(&entry, key).to_string())
}

pub(super) fn due_cursor(due: i64, id: i64) -> String {
    format!("{due}.{id}")
}

pub(super) fn read_due_cursor(text: &str) -> Result<(i64, i64), StoreError> {
    let read = || {
        let (due, id) = text.split_once('.')?;
        Some((due.parse().ok()?, id.parse().ok()?))
    };
    read().ok_or_else(|| StoreError::BadCursor(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_parts_are_ordered_as_the_pairs_are() {
        let pairs = [("a", ""), ("a", "0"), ("a", "\u{1}x"), ("a#b", ""), ("ab", "z"), ("b", "")];
        for left in pairs {
            for right in pairs {
                let bytes = joined(left.0, left.1).cmp(&joined(right.0, right.1));
                assert_eq!(bytes, left.cmp(&right), "{left:?} {right:?}");
            }
            assert!(joined(left.0, "\u{10ffff}") < after_all(left.0));
        }
    }

    #[test]
    fn changes_are_read_as_packed_and_a_torn_one_is_seen() {
        let mut packed = Vec::new();
        let keys = [Key::new("T#a#task#1", "0"), Key::new("é", "")];
        pack_change(&mut packed, &keys[0], 7);
        pack_change(&mut packed, &keys[1], u64::MAX);
        let read: Vec<_> = unpack_changes(&packed).collect();
        let [first, second] = keys;
        assert_eq!(read, [Some((first, 7)), Some((second, u64::MAX))]);
        assert_eq!(unpack_changes(&packed[..packed.len() - 1]).last(), Some(None));
    }

    #[test]
    fn cursors_come_back_and_foreign_ones_are_refused() {
        assert_eq!(read_due_cursor(&due_cursor(-5, 9)).unwrap(), (-5, 9));
        assert!(read_due_cursor("1.x").is_err());
    }
}
