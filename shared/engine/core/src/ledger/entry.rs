use serde::{Deserialize, Serialize};
use watchbill_domain::{
    Event, EventId, EventType, LogEntry, LoggedEvent, TaskEntry, TaskId, Timestamp, What,
};
use watchbill_governance::Record;

use crate::repo::LedgerPeek;

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Task(TaskEntry),
    /// An event that a caller published: nothing but the event.
    Published(Event),
    /// What the audit holds besides changes of tasks.
    Record(Box<Record>),
}

/// The ledger entries of a task's changes with versions above `recorded`. `older` are log
/// entries that had to leave the header.
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
                created_at: (change.what == What::Completed).then_some(task.created_at),
                change,
            })
        })
        .collect()
}

impl Entry {
    /// The events this line stands for; their ids depend on item, version and place alone.
    pub fn events(&self) -> Vec<Event> {
        self.events_where(|_| true)
    }

    /// The same, of the wanted types only.
    pub fn events_where(&self, wanted: impl Fn(&EventType) -> bool) -> Vec<Event> {
        match self {
            Entry::Published(event) if wanted(&event.event_type) => vec![event.clone()],
            Entry::Published(_) => Vec::new(),
            Entry::Record(record) => record.events_where(wanted),
            Entry::Task(entry) => (0..entry.change.events.len())
                .filter(|place| wanted(&entry.change.events[*place].event_type))
                .map(|place| entry.event(place))
                .collect(),
        }
    }
}

impl Entry {
    /// How many events this line stands for.
    pub fn event_count(&self) -> usize {
        match self {
            Entry::Published(_) => 1,
            Entry::Record(record) => record.events.len(),
            Entry::Task(entry) => entry.change.events.len(),
        }
    }

    /// Its events in their places; only those are made that are wanted.
    pub fn events_if(
        &self,
        wanted: impl Fn(&EventType, Option<&TaskId>) -> bool,
    ) -> Vec<Option<Event>> {
        match self {
            Entry::Published(event) => {
                let fits = wanted(&event.event_type, event.task_id.as_ref());
                vec![fits.then(|| event.clone())]
            }
            Entry::Record(record) => {
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

    /// The place of an event among those of this line.
    pub fn place_of(&self, id: &EventId) -> Option<usize> {
        // What we made bears its time, so that most lines need no hash.
        let ours = |at: Timestamp| id.millis() == Some(at.max(Timestamp::from_millis(0)));
        match self {
            Entry::Published(event) => (event.event_id == *id).then_some(0),
            Entry::Record(record) if ours(record.at) => {
                record.events_where(|_| true).iter().position(|event| event.event_id == *id)
            }
            Entry::Task(entry) if ours(entry.change.at) => {
                (0..entry.change.events.len()).find(|place| entry.event_id(*place) == *id)
            }
            Entry::Record(_) | Entry::Task(_) => None,
        }
    }
}
