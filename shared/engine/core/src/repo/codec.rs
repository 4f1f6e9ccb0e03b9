//! JSON bodies. Fields that a newer version wrote are detected, kept and written back.

use std::cell::RefCell;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use watchbill_domain::Timestamp;

use crate::ports::{Item, Key, ListEntry, NewItem, StoreError};

/// An entity that is stored as one item.
pub trait Entity: Serialize + DeserializeOwned + Send + Sync {
    /// The item's `kind`.
    const KIND: &'static str;
    /// Version of the format; raise it when an older build would misread the new one.
    const SCHEMA: u16 = 1;

    fn key(&self) -> Key;

    fn list(&self) -> Option<ListEntry> {
        None
    }

    fn list2(&self) -> Option<ListEntry> {
        None
    }

    fn due(&self) -> Option<Timestamp> {
        None
    }

    fn expires(&self) -> Option<Timestamp> {
        None
    }
}

/// An entity as it was read: with its version, and with the fields that this build does not know.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned<E> {
    pub value: E,
    pub version: u64,
    /// Top-level fields that a newer build wrote. They are written back unchanged.
    pub unknown: Option<Box<Map<String, Value>>>,
    /// The item's current due time; may be earlier than the entity's own.
    pub due: Option<Timestamp>,
}

pub fn decode<E: Entity>(item: &Item) -> Result<Versioned<E>, StoreError> {
    if item.schema > E::SCHEMA {
        let key = item.key.clone();
        return Err(StoreError::Newer { key, found: item.schema, known: E::SCHEMA });
    }
    let corrupt =
        |e: serde_json::Error| StoreError::Corrupt { key: item.key.clone(), reason: e.to_string() };
    if *item.kind != *E::KIND {
        let reason = format!("its kind is {}, not {}", item.kind, E::KIND);
        return Err(StoreError::Corrupt { key: item.key.clone(), reason });
    }
    let mut names = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(&item.body);
    let value: E = serde_ignored::deserialize(&mut json, |path| {
        names.push(path.to_string());
    })
    .map_err(corrupt)?;
    let unknown = if names.is_empty() {
        None
    } else {
        let all: Map<String, Value> = serde_json::from_slice(&item.body).map_err(corrupt)?;
        let kept = all.into_iter().filter(|(name, _)| names.iter().any(|n| n == name));
        Some(Box::new(kept.collect::<Map<_, _>>())).filter(|map| !map.is_empty())
    };
    Ok(Versioned { value, version: item.version, unknown, due: item.due })
}

/// The item of an entity. `unknown`: the unknown fields that [`decode`] kept.
pub fn encode<E: Entity>(entity: &E, unknown: Option<&Map<String, Value>>) -> NewItem {
    let body = match unknown {
        None => to_bytes(entity),
        Some(unknown) => {
            let mut value = serde_json::to_value(entity).expect("entities serialize to JSON");
            if let Value::Object(map) = &mut value {
                for (name, kept) in unknown {
                    map.entry(name.clone()).or_insert_with(|| kept.clone());
                }
            }
            to_bytes(&value)
        }
    };
    NewItem {
        key: entity.key(),
        kind: E::KIND.into(),
        schema: E::SCHEMA,
        body,
        list: entity.list(),
        list2: entity.list2(),
        due: entity.due(),
        expires: entity.expires(),
    }
}

thread_local! {
    /// A reused buffer: growing a new one for each body costs more.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The buffer is shrunk to this after a larger body.
const SCRATCH_MOST: usize = 64 * 1024;

fn to_bytes(value: &impl Serialize) -> Bytes {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        serde_json::to_writer(&mut *scratch, value).expect("entities serialize to JSON");
        let body = Bytes::copy_from_slice(scratch);
        scratch.shrink_to(SCRATCH_MOST);
        body
    })
}
