//! Encodes items as DynamoDB attributes and decodes them.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use watchbill_core::ports::{
    CommitError, Item, Key, ListEntry, NewItem, StoreError, WriteId, due_shard,
};
use watchbill_domain::Timestamp;

use super::unnamed;

pub(super) const COUNTER: &str = "c_";

/// DynamoDB's key limits, in bytes.
const MAX_PARTITION_KEY: usize = 2048;
const MAX_SORT_KEY: usize = 1024;

/// DynamoDB's limit for an item including attribute names: 400 KB.
const MAX_ITEM_BYTES: usize = 400 * 1024;

/// The most bytes of a number, as we write them.
const NUMBER: usize = 21;

/// An attribute value of the SDK or of stream events.
pub(super) trait Attribute {
    fn text(&self) -> Option<&str>;
    fn number(&self) -> Option<&str>;
    fn binary(&self) -> Option<&[u8]>;
}

impl Attribute for AttributeValue {
    fn text(&self) -> Option<&str> {
        self.as_s().ok().map(String::as_str)
    }

    fn number(&self) -> Option<&str> {
        self.as_n().ok().map(String::as_str)
    }

    fn binary(&self) -> Option<&[u8]> {
        self.as_b().ok().map(AsRef::as_ref)
    }
}

impl Attribute for serde_dynamo::AttributeValue {
    fn text(&self) -> Option<&str> {
        match self {
            Self::S(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self) -> Option<&str> {
        match self {
            Self::N(number) => Some(number),
            _ => None,
        }
    }

    fn binary(&self) -> Option<&[u8]> {
        match self {
            Self::B(bytes) => Some(bytes),
            _ => None,
        }
    }
}

pub(super) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn write_id(id: WriteId) -> AttributeValue {
    AttributeValue::B(Blob::new(id.0.to_be_bytes()))
}

pub(super) fn key_map(key: &Key) -> HashMap<String, AttributeValue> {
    HashMap::from([("pk".to_owned(), text(&key.partition)), ("sk".to_owned(), text(&key.sort))])
}

/// Whether DynamoDB can hold this key. If not, there is no such item.
pub(super) fn storable(key: &Key) -> bool {
    fits(&key.partition, &key.sort)
}

pub(super) fn fits(partition: &str, sort: &str) -> bool {
    (1..=MAX_PARTITION_KEY).contains(&partition.len()) && (1..=MAX_SORT_KEY).contains(&sort.len())
}

fn check_pair(what: &str, key: &Key, partition: &str, sort: &str) -> Result<(), CommitError> {
    if fits(partition, sort) {
        return Ok(());
    }
    let (partition, sort) = (partition.len(), sort.len());
    Err(CommitError::Illegal {
        reason: format!(
            "{what} of {key:.80} has a partition of {partition} and a sort of {sort} bytes; \
             DynamoDB allows 1 to {MAX_PARTITION_KEY} and 1 to {MAX_SORT_KEY}: shorten the \
             names in it"
        ),
    })
}

pub(super) fn check_key(key: &Key) -> Result<(), CommitError> {
    check_pair("the key", key, &key.partition, &key.sort)
}

/// The attributes `x` (seconds) and `xm` (ms, unless whole seconds).
pub(super) fn expiry(expires: Option<Timestamp>) -> [(&'static str, Option<AttributeValue>); 2] {
    let fractional = expires.filter(|at| at.millis().rem_euclid(1000) != 0);
    let seconds = expires.map(|at| at.millis().div_euclid(1000) + i64::from(fractional.is_some()));
    [("x", seconds.map(number)), ("xm", fractional.map(|at| number(at.millis())))]
}

/// A new item's attributes except key and version.
pub(super) type Fields = Vec<(&'static str, Option<AttributeValue>)>;

/// `None` means that the attribute must be absent.
pub(super) fn encode(item: NewItem, id: WriteId) -> Result<Fields, CommitError> {
    let key = &item.key;
    check_key(key)?;
    for entry in [&item.list, &item.list2].into_iter().flatten() {
        check_pair("a list entry", key, &entry.partition, &entry.sort)?;
    }
    let list = |entry: &Option<ListEntry>| match entry {
        Some(entry) => (Some(text(&entry.partition)), Some(text(&entry.sort))),
        None => (None, None),
    };
    let ((l1, l1s), (l2, l2s)) = (list(&item.list), list(&item.list2));
    let [x, xm] = expiry(item.expires);
    let mut fields = vec![
        ("w", Some(write_id(id))),
        ("k", Some(text(&item.kind))),
        ("s", Some(number(item.schema))),
        ("l1", l1),
        ("l1s", l1s),
        ("l2", l2),
        ("l2s", l2s),
        ("ds", item.due.map(|_| text(&shard_name(due_shard(&key.partition))))),
        ("d", item.due.map(|at| number(at.millis()))),
        x,
        xm,
    ];
    check_size(key, &fields, item.body.len())?;
    let body = Some(item.body).filter(|body| !body.is_empty());
    fields.push(("b", body.map(|body| AttributeValue::B(Blob::new(body)))));
    Ok(fields)
}

fn check_size(key: &Key, fields: &Fields, body: usize) -> Result<(), CommitError> {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        _ => NUMBER,
    };
    let field = |(name, field): &(&str, Option<AttributeValue>)| {
        field.as_ref().map_or(0, |field| name.len() + value(field))
    };
    let keys = "pksk".len() + key.partition.len() + key.sort.len();
    let size =
        keys + "v".len() + NUMBER + "b".len() + body + fields.iter().map(field).sum::<usize>();
    if size <= MAX_ITEM_BYTES {
        return Ok(());
    }
    Err(CommitError::Illegal {
        reason: format!(
            "the item {key} has {size} bytes, DynamoDB allows {MAX_ITEM_BYTES}: store large bodies \
             as blobs"
        ),
    })
}

pub(super) fn shard_name(shard: u8) -> String {
    format!("{shard:02}")
}

type Row<V> = HashMap<String, V>;

pub(super) fn key_of<V: Attribute>(row: &Row<V>) -> Result<Key, String> {
    let part = |name| {
        row.get(name)
            .and_then(Attribute::text)
            .ok_or_else(|| format!("it has no string attribute '{name}'"))
    };
    Ok(Key::new(part("pk")?, part("sk")?))
}

pub(super) fn decode<V: Attribute>(row: &Row<V>) -> Result<Item, StoreError> {
    let key = key_of(row).map_err(unnamed)?;
    decode_with(row, key.clone()).map_err(|reason| StoreError::Corrupt { key, reason })
}

/// Ignores attributes that a newer version added.
fn decode_with<V: Attribute>(row: &Row<V>, key: Key) -> Result<Item, String> {
    let write_id = field(row, "w", Attribute::binary)?.ok_or("it has no attribute 'w'")?;
    let write_id = <[u8; 16]>::try_from(write_id)
        .map_err(|_| format!("'w' has {} bytes instead of 16", write_id.len()))?;
    let millis = integer::<i64, V>(row, "xm")?;
    let seconds = integer::<i64, V>(row, "x")?;
    let expires = seconds.map(|seconds| millis.unwrap_or(seconds.saturating_mul(1000)));
    Ok(Item {
        key,
        version: integer(row, "v")?.ok_or("it has no attribute 'v'")?,
        write_id: WriteId(u128::from_be_bytes(write_id)),
        kind: field(row, "k", Attribute::text)?.ok_or("it has no attribute 'k'")?.into(),
        schema: integer(row, "s")?.unwrap_or(0),
        body: field(row, "b", Attribute::binary)?.map_or_else(Bytes::new, Bytes::copy_from_slice),
        list: list_entry(row, "l1", "l1s")?,
        list2: list_entry(row, "l2", "l2s")?,
        due: integer(row, "d")?.map(Timestamp::from_millis),
        expires: expires.map(Timestamp::from_millis),
        counters: counters(row)?,
    })
}

/// An attribute read by `kind`: `None` if absent, an error if the type is wrong.
fn field<'r, V: Attribute, T: ?Sized>(
    row: &'r Row<V>,
    name: &str,
    kind: impl Fn(&'r V) -> Option<&'r T>,
) -> Result<Option<&'r T>, String> {
    let Some(value) = row.get(name) else { return Ok(None) };
    kind(value).map(Some).ok_or_else(|| format!("'{name}' has the wrong type"))
}

pub(super) fn integer<T: std::str::FromStr, V: Attribute>(
    row: &Row<V>,
    name: &str,
) -> Result<Option<T>, String> {
    let Some(digits) = field(row, name, Attribute::number)? else { return Ok(None) };
    digits
        .parse()
        .map(Some)
        .map_err(|_| format!("'{name}' is {digits}, not an integer in its range"))
}

fn list_entry<V: Attribute>(
    row: &Row<V>,
    partition: &str,
    sort: &str,
) -> Result<Option<ListEntry>, String> {
    let pair = (field(row, partition, Attribute::text)?, field(row, sort, Attribute::text)?);
    Ok(match pair {
        (Some(partition), Some(sort)) => {
            Some(ListEntry { partition: partition.into(), sort: sort.into() })
        }
        _ => None,
    })
}

fn counters<V: Attribute>(row: &Row<V>) -> Result<BTreeMap<String, i64>, String> {
    let mut counters = BTreeMap::new();
    for (attribute, value) in row {
        let Some(name) = attribute.strip_prefix(COUNTER) else { continue };
        let digits = value.number().ok_or_else(|| format!("'{attribute}' is not a number"))?;
        // DynamoDB adds with 38 digits; the port's sums saturate as i64.
        let sum: i128 =
            digits.parse().map_err(|_| format!("'{attribute}' is {digits}, not an integer"))?;
        let sum = sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        counters.insert(name.to_owned(), sum);
    }
    Ok(counters)
}
