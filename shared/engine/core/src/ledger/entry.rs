//! The ledger's entries, and the events they stand for.

use serde::{Deserialize, Serialize};
use watchbill_domain::{
    ChangeKind, Event, EventId, EventType, LogEntry, LoggedEvent, TaskEntry, TaskId, Timestamp,
};
use watchbill_governance::AuditRecord;

use crate::repo::LedgerPeek;

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Task(TaskEntry),
    /// An event that a caller published: only the event.
    Published(Event),
    /// An audit record that is not a task change.
    AuditRecord(Box<AuditRecord>),
}

/// The ledger entries of a task's changes with versions above `recorded`. `older` are log
/// entries that were moved out of the header.
pub fn entries_of(task: LedgerPeek, older: Vec<LogEntry>, recorded: u64) -> Vec<Entry> {
    older
        .into_iter()
        .chain(task.log)
        .filter(|change| change.version > recorded)
        .map(|change| {
            Entry::Task(TaskEntry {
                task: task.id.clone(),
                task_type: task.task_type,
                priority: task.priority,
                agent: task.agent,
                trace_id: task.trace_id.clone(),
                hops: task.hops,
                created_at: (change.what == ChangeKind::Completed).then_some(task.created_at),
                change,
            })
        })
        .collect()
}

impl Entry {
    /// The events of this line; their ids depend only on item, version and position.
    pub fn events(&self) -> Vec<Event> {
        self.events_where(|_| true)
    }

    /// The same, but only events of the wanted types.
    pub fn events_where(&self, wanted: impl Fn(&EventType) -> bool) -> Vec<Event> {
        match self {
            Entry::Published(event) if wanted(&event.event_type) => vec![event.clone()],
            Entry::Published(_) => Vec::new(),
            Entry::AuditRecord(record) => record.events_where(wanted),
            Entry::Task(entry) => (0..entry.change.events.len())
                .filter(|place| wanted(&entry.change.events[*place].event_type))
                .map(|place| entry.event(place))
                .collect(),
        }
    }
}

impl Entry {
    /// The number of events of this line.
    pub fn event_count(&self) -> usize {
        match self {
            Entry::Published(_) => 1,
            Entry::AuditRecord(record) => record.events.len(),
            Entry::Task(entry) => entry.change.events.len(),
        }
    }

    /// Its events by position; only the wanted ones are built.
    pub fn events_if(
        &self,
        wanted: impl Fn(&EventType, Option<&TaskId>) -> bool,
    ) -> Vec<Option<Event>> {
        match self {
            Entry::Published(event) => {
                let fits = wanted(&event.event_type, event.task_id.as_ref());
                vec![fits.then(|| event.clone())]
            }
            Entry::AuditRecord(record) => {
                let fits = |event: &Event| wanted(&event.event_type, event.task_id.as_ref());
                let events = record.events_where(|_| true).into_iter();
                events.map(|event| Some(event).filter(&fits)).collect()
            }
            Entry::Task(entry) => {
                let events = entry.change.events.iter().enumerate();
                let of = |(place, logged): (usize, &LoggedEvent)| {
                    wanted(&logged.event_type, Some(&entry.task)).then(|| entry.event(place))
                };
                events.map(of).collect()
            }
        }
    }

    /// The position of an event among those of this line.
    pub fn place_of(&self, id: &EventId) -> Option<usize> {
        // Ids that we create contain the time, so most lines need no hash.
        let ours = |at: Timestamp| id.millis() == Some(at.max(Timestamp::from_millis(0)));
        match self {
            Entry::Published(event) => (event.event_id == *id).then_some(0),
            Entry::AuditRecord(record) if ours(record.at) => {
                record.events_where(|_| true).iter().position(|event| event.event_id == *id)
            }
            Entry::Task(entry) if ours(entry.change.at) => {
                (0..entry.change.events.len()).find(|place| entry.event_id(*place) == *id)
            }
            Entry::AuditRecord(_) | Entry::Task(_) => None,
        }
    }
}
