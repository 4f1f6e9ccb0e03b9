use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Batch, Entry, TaskEntry};
use crate::domain::{Agent, Priority, Status, Timestamp, What};
use crate::service::{QueueStats, Stats, StatsRow};

/// Counts of tasks by agent, priority and status, folded over the ledger in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsFold {
    /// `agent/priority/status` → tasks.
    counts: BTreeMap<String, i64>,
    as_of: Option<Timestamp>,
}

impl StatsFold {
    pub fn apply(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            if let Entry::Task(entry) = entry {
                self.apply_entry(entry);
            }
        }
        self.as_of = Some(batch.recorded_at);
    }

    fn apply_entry(&mut self, entry: &TaskEntry) {
        let change = &entry.change;
        if change.what == What::Created {
            self.add(entry, change.status, 1);
        } else if let Some(before) = change.before {
            self.add(entry, before, -1);
            self.add(entry, change.status, 1);
        }
    }

    fn add(&mut self, entry: &TaskEntry, status: Status, delta: i64) {
        let name = format!("{}/{}/{status}", entry.agent, entry.priority);
        *self.counts.entry(name).or_default() += delta;
    }

    pub fn stats(&self) -> Stats {
        let rows: Vec<StatsRow> = self
            .counts
            .iter()
            .filter_map(|(name, count)| {
                let mut parts = name.split('/');
                Some(StatsRow {
                    agent: Agent::parse(parts.next()?).ok()?,
                    priority: Priority::parse(parts.next()?).ok()?,
                    status: Status::parse(parts.next()?).ok()?,
                    count: u64::try_from(*count).ok().filter(|count| *count > 0)?,
                })
            })
            .collect();
        let sum = |wanted: &[Status]| {
            rows.iter().filter(|row| wanted.contains(&row.status)).map(|row| row.count).sum()
        };
        let queue = QueueStats {
            pending: sum(&[Status::Pending, Status::Assigned]),
            processing: sum(&[Status::InProgress]),
        };
        Stats { queue, rows, as_of: self.as_of }
    }
}
