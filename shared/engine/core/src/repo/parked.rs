//! Parked changes: changes that the ledger or the event bus could not accept yet, kept until
//! they are replayed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchbill_domain::{TenantId, Timestamp};

use super::codec::Entity;
use super::keys;
use crate::ports::{Key, ListEntry};

/// Changes of one item that are recorded later, or whose events are sent later. It holds no
/// copy of them: the item's own change log and the ledger do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParkedKey {
    pub tenant: TenantId,
    /// The item's partition.
    pub partition: Arc<str>,
    /// The first version that may be missing from the ledger, if any is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The last version that was added.
    pub last: u64,
    /// Ledger batches from which events of this item are still to be sent, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsent: Vec<u64>,
    /// The first batch from which unsent events are unknown, because the parked item was
    /// unreadable. Zero: from the item's first change on. They are found before anything is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsent_from: Option<u64>,
    /// It is stored under a key of its own, because the store cannot read the item under the
    /// usual key and so cannot replace it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub aside: bool,
    pub since: Timestamp,
    /// How often a replay of this item failed.
    #[serde(default)]
    pub failures: u32,
    /// Not retried before.
    pub next: Timestamp,
    /// Why it could not be recorded or sent.
    pub reason: String,
}

impl ParkedKey {
    /// Replaces an unreadable item: every change that may be missing counts as missing. Changes
    /// that are recorded already are found in the ledger, and events that were sent already are
    /// sent again under the same ids.
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

    /// Whether anything is parked. An item stored aside is kept even when nothing is parked any
    /// more, to record that in place of the unreadable one.
    pub fn is_open(&self) -> bool {
        self.first.is_some() || self.holds_events()
    }

    /// Whether events of it are still to be sent; later events wait behind them.
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

    /// By the time of the next retry, so that items that keep failing come after the others.
    fn list2(&self) -> Option<ListEntry> {
        if !self.is_open() {
            return None;
        }
        let partition = keys::parked_list(&self.tenant);
        Some(ListEntry { partition, sort: self.next.sortable().into() })
    }
}

/// Marks that a tenant has parked changes. Each such tenant has one due item, however many
/// changes it has parked, so that a tenant with a lasting fault cannot fill the sweeper's
/// pages. The sweeper *asks*: its write reaches the recorder through the change feed, and the
/// recorder replays and *answers*.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParkedTenant {
    pub tenant: TenantId,
    pub since: Timestamp,
    /// The number of [`ParkedKey`]s: each commit that adds or removes one updates it.
    pub keys: u64,
    /// The bus accepts nothing of this tenant: the newest batches of its ledger are still to be
    /// published.
    #[serde(default)]
    pub unpublished: bool,
    /// `keys` is too low, because this item replaced an unreadable one. From this time on the
    /// list, which no longer lags, shows whether anything is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<Timestamp>,
    /// As for [`ParkedKey::aside`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub aside: bool,
    /// How often a replay was requested, and the last of these requests that was answered.
    #[serde(default)]
    pub asked: u64,
    #[serde(default)]
    pub answered: u64,
    /// Consecutive replays without progress.
    #[serde(default)]
    pub failures: u32,
    /// When the sweeper asks next.
    pub next: Timestamp,
    pub reason: String,
}

impl ParkedTenant {
    /// Whether a requested replay has not been answered.
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
