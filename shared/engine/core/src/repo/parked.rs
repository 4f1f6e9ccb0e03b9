//! Parked changes: what the ledger or the event bus could not take yet, kept until it is replayed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchbill_domain::{TenantId, Timestamp};

use super::codec::Entity;
use super::keys;
use crate::ports::{Key, ListEntry};

/// Changes of one item that are recorded later, or whose events go out later. It holds no copy
/// of them: the item's own change log and the ledger do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParkedKey {
    pub tenant: TenantId,
    /// The item's partition.
    pub partition: Arc<str>,
    /// The first version that may be missing from the ledger, if any is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The last version that joined.
    pub last: u64,
    /// Ledger batches from which events of this item are still to be sent, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsent: Vec<u64>,
    /// Which batches those are is not known from this one on: what was parked could not be
    /// read. Zero: from the item's first change on. They are looked for before anything is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsent_from: Option<u64>,
    /// It stands under a key of its own, because the store can't read what stands under the
    /// usual one, and so can't replace it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub aside: bool,
    pub since: Timestamp,
    /// How often a replay of this item failed.
    #[serde(default)]
    pub failures: u32,
    /// Not tried again before.
    pub next: Timestamp,
    /// Why it could not be recorded or sent.
    pub reason: String,
}

impl ParkedKey {
    /// In the place of one that can't be read: whatever of the item may be missing counts as
    /// missing. What is recorded already is found in the ledger, and events that went out go out
    /// again under their ids.
    pub fn instead(tenant: &TenantId, partition: &Arc<str>, now: Timestamp) -> Self {
        Self {
            tenant: tenant.clone(),
            partition: partition.clone(),
            first: Some(1),
            last: 0,
            unsent: Vec::new(),
            unsent_from: Some(0),
            aside: false,
            since: now,
            failures: 0,
            next: now,
            reason: String::new(),
        }
    }

    /// Whether anything is parked. One that stands aside is kept when nothing is any more: it
    /// says so in the place of the one that can't be read.
    pub fn is_open(&self) -> bool {
        self.first.is_some() || self.holds_events()
    }

    /// Whether events of it are still to be sent, behind which later ones wait.
    pub fn holds_events(&self) -> bool {
        !self.unsent.is_empty() || self.unsent_from.is_some()
    }
}

impl Entity for ParkedKey {
    const KIND: &'static str = "parked";

    fn key(&self) -> Key {
        match self.aside {
            false => keys::parked_key(&self.tenant, &self.partition),
            true => keys::parked_key_aside(&self.tenant, &self.partition),
        }
    }

    /// By the time of the next try, so that those that keep failing stand behind the others.
    fn list2(&self) -> Option<ListEntry> {
        if !self.is_open() {
            return None;
        }
        let partition = keys::parked_list(&self.tenant);
        Some(ListEntry { partition, sort: self.next.sortable().into() })
    }
}

/// That a tenant has parked changes. One item for each such tenant is due, however many changes
/// it has parked, so that a tenant whose fault lasts can't fill the sweeper's pages. The sweeper
/// *asks*: the change that this makes reaches the recorder by the feed, which replays and
/// *answers*.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParkedTenant {
    pub tenant: TenantId,
    pub since: Timestamp,
    /// How many [`ParkedKey`]s there are: each commit that adds or removes one counts here.
    pub keys: u64,
    /// The bus takes nothing of this tenant: the newest batches of its ledger are still to be
    /// published.
    #[serde(default)]
    pub unpublished: bool,
    /// `keys` lacks some: the item was made in the place of one that could not be read. Whether
    /// anything is parked is said by the list, from this moment on, when it shows all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<Timestamp>,
    /// As for [`ParkedKey::aside`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub aside: bool,
    /// How often a replay was asked for, and the last of these that was answered.
    #[serde(default)]
    pub asked: u64,
    #[serde(default)]
    pub answered: u64,
    /// Replays in a row that achieved nothing.
    #[serde(default)]
    pub failures: u32,
    /// When the sweeper asks next.
    pub next: Timestamp,
    pub reason: String,
}

impl ParkedTenant {
    /// Whether a replay was asked for that nobody has answered.
    pub fn is_asked(&self) -> bool {
        self.asked > self.answered
    }

    /// Whether anything is parked. As for [`ParkedKey::is_open`].
    pub fn is_open(&self) -> bool {
        self.keys > 0 || self.unpublished || self.uncounted.is_some()
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Entity for ParkedTenant {
    const KIND: &'static str = "parked_tenant";

    fn key(&self) -> Key {
        match self.aside {
            false => keys::parked_tenant_key(&self.tenant),
            true => keys::parked_tenant_key_aside(&self.tenant),
        }
    }

    fn list(&self) -> Option<ListEntry> {
        let partition = keys::PARKED.into();
        self.is_open().then(|| ListEntry { partition, sort: self.tenant.as_str().into() })
    }

    fn due(&self) -> Option<Timestamp> {
        self.is_open().then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they were first stored: later builds read them.
    #[test]
    fn stored_forms_are_read() {
        let key = r#"{"tenant":"default","partition":"T#default#task#a","first":2,"last":4,
            "unsent":[7,9],"since":1760954400000,"failures":1,"next":1760954410000,
            "reason":"no ledger"}"#;
        let key: ParkedKey = serde_json::from_str(key).unwrap();
        assert_eq!((key.first, key.last, &key.unsent[..]), (Some(2), 4, &[7, 9][..]));
        assert_eq!(&*key.key().partition, "T#default#park#task#a");
        assert_eq!(keys::parked_partition(&key.key()), Some(key.partition.clone()));
        let least = r#"{"tenant":"default","partition":"T#default#evt#a","last":1,
            "since":1760954400000,"next":1760954410000,"reason":""}"#;
        let least: ParkedKey = serde_json::from_str(least).unwrap();
        assert_eq!((least.first, least.unsent.len()), (None, 0));
        let tenant = r#"{"tenant":"default","since":1760954400000,"keys":3,"unpublished":true,
            "asked":2,"answered":1,"failures":4,"next":1760954410000,"reason":"no ledger"}"#;
        let tenant: ParkedTenant = serde_json::from_str(tenant).unwrap();
        assert!(tenant.is_asked() && tenant.unpublished && tenant.keys == 3);
        assert_eq!(tenant.due(), Some(tenant.next));
        assert!(!tenant.aside && tenant.uncounted.is_none() && !key.aside);
    }
}
