//! The statistics projection: counts of tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use watchbill_domain::{Agent, ChangeKind, Priority, Status, TaskEntry, Timestamp};

use super::{Batch, Entry};

/// Counts of open work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// `pending` + `assigned`.
    pub pending: u64,
    /// `in_progress`.
    pub processing: u64,
}

/// Counts by agent, priority and status, of one tenant.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub queue: QueueStats,
    pub rows: Vec<StatsRow>,
    /// The recording time of the newest batch that is counted.
    pub as_of: Option<Timestamp>,
    /// When they were read.
    pub read_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsRow {
    pub agent: Agent,
    pub priority: Priority,
    pub status: Status,
    pub count: u64,
}

/// Counts of tasks by agent, priority and status, projected from the ledger in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsFold {
    #[serde(with = "rows")]
    counts: BTreeMap<(Agent, Priority, Status), i64>,
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
        if change.what == ChangeKind::Created {
            self.add(entry, change.status, 1);
        } else if let Some(before) = change.before {
            self.add(entry, before, -1);
            self.add(entry, change.status, 1);
        }
    }

    fn add(&mut self, entry: &TaskEntry, status: Status, delta: i64) {
        *self.counts.entry((entry.agent, entry.priority, status)).or_default() += delta;
    }

    pub fn stats(&self) -> Stats {
        let rows: Vec<StatsRow> = self
            .counts
            .iter()
            .filter_map(|((agent, priority, status), count)| {
                let count = u64::try_from(*count).ok().filter(|count| *count > 0)?;
                let (agent, priority, status) = (*agent, *priority, *status);
                Some(StatsRow { agent, priority, status, count })
            })
            .collect();
        let sum = |wanted: &[Status]| {
            rows.iter().filter(|row| wanted.contains(&row.status)).map(|row| row.count).sum()
        };
        let queue = QueueStats {
            pending: sum(&[Status::Pending, Status::Assigned]),
            processing: sum(&[Status::InProgress]),
        };
        Stats { queue, rows, as_of: self.as_of, read_at: Timestamp::default() }
    }
}

/// JSON keys can only be strings, so the counts are stored as rows.
mod rows {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use watchbill_domain::{Agent, Priority, Status};

    type Counts = BTreeMap<(Agent, Priority, Status), i64>;

    pub fn serialize<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(counts.iter().map(|((a, p, s), count)| (a, p, s, count)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
        let rows = Vec::<(Agent, Priority, Status, i64)>::deserialize(from)?;
        Ok(rows.into_iter().map(|(a, p, s, count)| ((a, p, s), count)).collect())
    }
}
