//! Parked changes: what the ledger or the event bus could not take yet, kept until it is replayed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec::Entity;
use super::keys;
use crate::domain::{TenantId, Timestamp};
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
    pub since: Timestamp,
    /// How often a replay of this item failed.
    #[serde(default)]
    pub failures: u32,
    /// Not tried again before.
    pub next: Timestamp,
    /// Why it could not be recorded or sent.
    pub reason: String,
}

impl Entity for ParkedKey {
    const KIND: &'static str = "parked";

    fn key(&self) -> Key {
        keys::parked_key(&self.tenant, &self.partition)
    }

    /// By the time of the next try, so that those that keep failing stand behind the others.
    fn list2(&self) -> Option<ListEntry> {
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
}

impl Entity for ParkedTenant {
    const KIND: &'static str = "parked_tenant";

    fn key(&self) -> Key {
        keys::parked_tenant_key(&self.tenant)
    }

    fn list(&self) -> Option<ListEntry> {
        Some(ListEntry { partition: keys::PARKED.into(), sort: self.tenant.as_str().into() })
    }

    fn due(&self) -> Option<Timestamp> {
        Some(self.next)
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
        let least = r#"{"tenant":"default","partition":"T#default#evt#a","last":1,
            "since":1760954400000,"next":1760954410000,"reason":""}"#;
        let least: ParkedKey = serde_json::from_str(least).unwrap();
        assert_eq!((least.first, least.unsent.len()), (None, 0));
        let tenant = r#"{"tenant":"default","since":1760954400000,"keys":3,"unpublished":true,
            "asked":2,"answered":1,"failures":4,"next":1760954410000,"reason":"no ledger"}"#;
        let tenant: ParkedTenant = serde_json::from_str(tenant).unwrap();
        assert!(tenant.is_asked() && tenant.unpublished && tenant.keys == 3);
        assert_eq!(tenant.due(), Some(tenant.next));
    }
}
