//! A change to record in the ledger.

use std::sync::Arc;

use watchbill_core::ports::{Item, StoreError};
use watchbill_core::repo::{Entity as _, LedgerPeek, decode};
use watchbill_domain::{Event, LogEntry, PublishedEvent, Task, Timestamp};
use watchbill_governance::AuditRecord;

/// Changes of one item that arrived together.
#[derive(Clone, Copy)]
pub struct Changed<'a> {
    pub item: &'a Item,
    /// Version of the first of them; earlier ones arrived before.
    pub first: u64,
}

impl Changed<'_> {
    /// Whether the ledger records changes of this kind of item.
    pub fn is_recordable(kind: &str) -> bool {
        [Task::KIND, PublishedEvent::KIND, AuditRecord::KIND].contains(&kind)
    }

    pub fn read(&self) -> Result<Recorded, StoreError> {
        let item = self.item;
        let what = match &*item.kind {
            Task::KIND => RecordedItem::Task(Box::new(LedgerPeek::of(item)?), Vec::new()),
            PublishedEvent::KIND => {
                RecordedItem::Event(Box::new(decode::<PublishedEvent>(item)?.value.event))
            }
            _ => RecordedItem::AuditRecord(Box::new(decode::<AuditRecord>(item)?.value.clean())),
        };
        Ok(Recorded { key: item.key.partition.clone(), version: self.first, what })
    }
}

pub struct Recorded {
    pub key: Arc<str>,
    /// The first version concerned; the log may contain later ones.
    pub version: u64,
    pub what: RecordedItem,
}

pub enum RecordedItem {
    /// With the log entries that no longer fit in the header, if they were read.
    Task(Box<LedgerPeek>, Vec<LogEntry>),
    Event(Box<Event>),
    AuditRecord(Box<AuditRecord>),
}

impl Recorded {
    /// The last version concerned.
    pub fn last(&self) -> u64 {
        match &self.what {
            RecordedItem::Event(_) | RecordedItem::AuditRecord(_) => self.version,
            RecordedItem::Task(task, _) => {
                task.log.last().map_or(self.version, |entry| entry.version)
            }
        }
    }

    /// Whether log entries above a version have left the header.
    pub fn lacks_older(&self, recorded: u64) -> bool {
        match &self.what {
            RecordedItem::Event(_) | RecordedItem::AuditRecord(_) => false,
            RecordedItem::Task(task, _) => {
                task.log.first().is_some_and(|first| first.version > recorded + 1)
            }
        }
    }

    /// The time of the earliest change above a version. They can't have been recorded before it.
    pub fn happened_after(&self, recorded: u64) -> Option<Timestamp> {
        match &self.what {
            RecordedItem::Event(event) => Some(event.timestamp),
            RecordedItem::AuditRecord(record) => Some(record.at),
            RecordedItem::Task(task, older) => {
                let log = older.iter().chain(&task.log);
                log.filter(|entry| entry.version > recorded).map(|entry| entry.at).min()
            }
        }
    }

    /// The time of the item's first change.
    pub fn began(&self) -> Option<Timestamp> {
        match &self.what {
            RecordedItem::Task(task, _) => Some(task.created_at),
            RecordedItem::Event(_) | RecordedItem::AuditRecord(_) => self.happened_after(0),
        }
    }
}
