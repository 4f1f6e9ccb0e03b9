use std::sync::Arc;

use watchbill_core::domain::{Event, LogEntry, Timestamp};
use watchbill_core::govern::Record;
use watchbill_core::repo::LedgerPeek;

/// A change that the ledger is to hold.
pub struct Recorded {
    pub key: Arc<str>,
    /// The first version that it is about; the log may hold later ones.
    pub version: u64,
    pub what: Subject,
}

pub enum Subject {
    Task(Box<LedgerPeek>),
    Event(Box<Event>),
    Record(Box<Record>),
}

impl Recorded {
    pub fn task(key: Arc<str>, version: u64, task: LedgerPeek) -> Self {
        Self { key, version, what: Subject::Task(Box::new(task)) }
    }

    pub fn event(key: Arc<str>, version: u64, event: Event) -> Self {
        Self { key, version, what: Subject::Event(Box::new(event)) }
    }

    pub fn record(key: Arc<str>, version: u64, record: Record) -> Self {
        Self { key, version, what: Subject::Record(Box::new(record.clean())) }
    }

    /// The last version that it is about.
    pub fn last(&self) -> u64 {
        match &self.what {
            Subject::Event(_) | Subject::Record(_) => self.version,
            Subject::Task(task) => task.log.last().map_or(self.version, |entry| entry.version),
        }
    }

    /// When the change happened, or a moment before it where the header no longer says.
    pub fn at(&self) -> Timestamp {
        match &self.what {
            Subject::Event(event) => event.timestamp,
            Subject::Record(record) => record.at,
            Subject::Task(task) => {
                let of_version = |entry: &&LogEntry| entry.version <= self.version;
                task.log.iter().rev().find(of_version).map_or(task.created_at, |entry| entry.at)
            }
        }
    }
}
