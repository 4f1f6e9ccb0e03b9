//! A change that the ledger is to hold.

use std::sync::Arc;

use watchbill_core::ports::{Item, StoreError};
use watchbill_core::repo::{Entity as _, LedgerPeek, decode};
use watchbill_domain::{Event, LogEntry, PublishedEvent, Task, Timestamp};
use watchbill_governance::Record;

/// Changes of one item, as far as they came together.
#[derive(Clone, Copy)]
pub struct Changed<'a> {
    pub item: &'a Item,
    /// Version of the first of them: all before it had their own turn.
    pub first: u64,
}

impl Changed<'_> {
    /// Whether the ledger is to hold changes of this kind of item.
    pub fn is_recordable(kind: &str) -> bool {
        [Task::KIND, PublishedEvent::KIND, Record::KIND].contains(&kind)
    }

    pub fn read(&self) -> Result<Recorded, StoreError> {
        let item = self.item;
        let what = match &*item.kind {
            Task::KIND => Subject::Task(Box::new(LedgerPeek::of(item)?), Vec::new()),
            PublishedEvent::KIND => {
                Subject::Event(Box::new(decode::<PublishedEvent>(item)?.value.event))
            }
            _ => Subject::Record(Box::new(decode::<Record>(item)?.value.clean())),
        };
        Ok(Recorded { key: item.key.partition.clone(), version: self.first, what })
    }
}

pub struct Recorded {
    pub key: Arc<str>,
    /// The first version that it is about; the log may hold later ones.
    pub version: u64,
    pub what: Subject,
}

pub enum Subject {
    /// With the log entries that left the header, where they were read.
    Task(Box<LedgerPeek>, Vec<LogEntry>),
    Event(Box<Event>),
    Record(Box<Record>),
}

impl Recorded {
    /// The last version that it is about.
    pub fn last(&self) -> u64 {
        match &self.what {
            Subject::Event(_) | Subject::Record(_) => self.version,
            Subject::Task(task, _) => task.log.last().map_or(self.version, |entry| entry.version),
        }
    }

    /// Whether log entries above a version have left the header.
    pub fn lacks_older(&self, recorded: u64) -> bool {
        match &self.what {
            Subject::Event(_) | Subject::Record(_) => false,
            Subject::Task(task, _) => {
                task.log.first().is_some_and(|first| first.version > recorded + 1)
            }
        }
    }

    /// When the earliest of its changes above a version happened. They can't have been
    /// recorded before.
    pub fn happened_after(&self, recorded: u64) -> Option<Timestamp> {
        match &self.what {
            Subject::Event(event) => Some(event.timestamp),
            Subject::Record(record) => Some(record.at),
            Subject::Task(task, older) => {
                let log = older.iter().chain(&task.log);
                log.filter(|entry| entry.version > recorded).map(|entry| entry.at).min()
            }
        }
    }

    /// When the first of all its changes happened.
    pub fn began(&self) -> Option<Timestamp> {
        match &self.what {
            Subject::Task(task, _) => Some(task.created_at),
            Subject::Event(_) | Subject::Record(_) => self.happened_after(0),
        }
    }
}
