//! A task's history, read from its own items.

use std::fmt;

use watchbill_domain::{
    ChangeKind, LogEntry, LoggedEvent, Note, Task, TaskId, TenantId, Timestamp,
};

use super::{Tasks, not_found};
use crate::ports::Item;
use crate::repo::{self, EffectRecord, Overflow, decode};
use crate::service::cursor::Cursors;
use crate::service::cursor::cursors::TIMELINE;
use crate::service::weight::{self, PageRoom};
use crate::service::{ServiceError, TimelineEntry, TimelineKind, TimelinePage};

/// Entries of one page.
const MAX_ENTRIES: usize = 1_000;
/// Versions whose log is read at once: overflow items are named by ten digits of the last
/// version in them, so that a prefix of eight digits covers a hundred.
const BLOCK: u64 = 100;

impl Tasks {
    /// The complete history of a task, in order. A task with many changes has a long one: for
    /// responses to callers, read it page by page.
    pub async fn timeline(
        &self,
        tenant: &TenantId,
        id: &TaskId,
    ) -> Result<Vec<TimelineEntry>, ServiceError> {
        let (mut entries, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.timeline_page(tenant, id, cursor).await?;
            entries.extend(page.entries);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(entries);
            }
        }
    }

    /// A page of the history, oldest first.
    pub async fn timeline_page(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        cursor: Option<String>,
    ) -> Result<TimelinePage, ServiceError> {
        let task = self.stored(tenant, id).await?.ok_or_else(|| not_found(id))?.value;
        let cursors = Cursors::new(TIMELINE, tenant, id.as_str());
        let from = match cursor {
            None => TimelinePosition { version: 0, reached: task.created_at },
            Some(cursor) => TimelinePosition::parse(cursors.open(&cursor)?)
                .ok_or_else(|| cursors.refuse(&cursor, "it names no position"))?,
        };
        let (changes, next, mut unreadable) = self.changes_of(&task, from).await?;
        // Other entries come after the last change before them.
        let begins = changes.first().map_or(from.reached, |(reached, _)| *reached);
        let until = next.map(|next| next.reached);
        let in_page = |at: Timestamp| {
            (from.version == 0 || at >= begins) && until.is_none_or(|until| at < until)
        };
        let mut entries: Vec<(Timestamp, TimelineEntry)> = Vec::new();
        for (reached, change) in changes {
            entries.push((reached, of_change(&change)));
            entries.extend(change.events.iter().map(|event| (reached, of_event(&change, event))));
        }
        let partition = repo::task_partition(tenant, id);
        for item in self.context.store().collect_each(&partition, repo::STEPS).await? {
            let step = item.and_then(|item| decode::<EffectRecord>(&item));
            let Some(step) = self.context.past_unreadable(step)? else {
                unreadable += 1;
                continue;
            };
            let step = of_step(&step.value).into_iter();
            entries.extend(step.filter(|entry| in_page(entry.at)).map(|entry| (entry.at, entry)));
        }
        let notes = task.notes.iter().filter(|note| in_page(note.at));
        entries.extend(notes.map(|note| (note.at, of_note(note))));
        // Stable: a change comes before its events.
        entries.sort_by_key(|(at, _)| *at);
        let entries: Vec<TimelineEntry> = entries.into_iter().map(|(_, entry)| entry).collect();
        let bytes = entries.iter().map(weight::timeline_entry).sum();
        let next_cursor = next.map(|next| cursors.seal(&next.to_string()));
        Ok(TimelinePage { entries, next_cursor, unreadable, bytes })
    }

    /// A page of changes, each with the latest time so far, the position of the next one, and
    /// the number of unreadable items among them. Changes are in version order, even where the
    /// clock was set back.
    async fn changes_of(
        &self,
        task: &Task,
        from: TimelinePosition,
    ) -> Result<(Vec<(Timestamp, LogEntry)>, Option<TimelinePosition>, usize), ServiceError> {
        let (mut page, mut room, mut unreadable) = (Vec::new(), PageRoom::of_page(), 0);
        let (mut reached, mut entries) = (from.reached, 0);
        let in_header = task.log.first().map_or(u64::MAX, |change| change.version);
        let partition = repo::task_partition(&task.tenant, &task.id);
        let mut version = from.version;
        let mut log = task.log.clone();
        loop {
            let changes = if version < in_header {
                let block = format!("{}{:08}", repo::LOGS, version / BLOCK);
                version = (version / BLOCK + 1) * BLOCK;
                let mut items = Vec::new();
                for item in self.context.store().collect_each(&partition, &block).await? {
                    match self.context.past_unreadable(item)? {
                        Some(item)
                            if self
                                .context
                                .past_unreadable(decode::<Overflow>(&item))?
                                .is_some() =>
                        {
                            items.push(item);
                        }
                        _ => unreadable += 1,
                    }
                }
                // Entries that left the header since are still in the copy that was read.
                older_log(&items)?.into_iter().filter(|c| c.version < in_header).collect()
            } else {
                version = u64::MAX;
                std::mem::take(&mut log)
            };
            for change in changes.into_iter().filter(|change| change.version >= from.version) {
                reached = reached.max(change.at);
                let count = 1 + change.events.len();
                let bytes = weight::timeline_entry(&of_change(&change)) * count;
                let full = !page.is_empty() && entries + count > MAX_ENTRIES;
                if full || !room.takes(bytes) {
                    let next = TimelinePosition { version: change.version, reached };
                    return Ok((page, Some(next), unreadable));
                }
                entries += count;
                page.push((reached, change));
            }
            if version == u64::MAX {
                return Ok((page, None, unreadable));
            }
        }
    }
}

/// Where a page of a task's changes begins.
#[derive(Clone, Copy)]
struct TimelinePosition {
    version: u64,
    /// The latest time before it.
    reached: Timestamp,
}

impl TimelinePosition {
    fn parse(text: &str) -> Option<Self> {
        let (version, reached) = text.split_once('.')?;
        let reached = Timestamp::from_millis(reached.parse().ok()?);
        Some(Self { version: version.parse().ok()?, reached })
    }
}

impl fmt::Display for TimelinePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version, self.reached.millis())
    }
}

/// Log entries that were moved out of the header, oldest first.
pub fn older_log(items: &[Item]) -> Result<Vec<LogEntry>, ServiceError> {
    let mut older = Vec::new();
    for item in items.iter().filter(|item| item.key.sort.starts_with(repo::LOGS)) {
        older.extend(decode::<Overflow>(item)?.value.entries);
    }
    older.sort_by_key(|entry| entry.version);
    Ok(older)
}

fn of_change(change: &LogEntry) -> TimelineEntry {
    let approval =
        matches!(change.what, ChangeKind::Approved | ChangeKind::Rejected | ChangeKind::Expired);
    let status = match change.before {
        Some(before) => format!("{before} → {}", change.status),
        None => change.status.to_string(),
    };
    let text = match &change.note {
        Some(note) => format!("{status}: {note}"),
        None => status,
    };
    TimelineEntry {
        at: change.at,
        kind: if approval { TimelineKind::Approval } else { TimelineKind::Change },
        what: change.what.as_str().to_owned(),
        by: Some(change.by.clone()).filter(|by| !by.is_empty()),
        text,
        version: Some(change.version),
        status: Some(change.status),
        duration_ms: None,
    }
}

fn of_event(change: &LogEntry, event: &LoggedEvent) -> TimelineEntry {
    TimelineEntry {
        kind: TimelineKind::Event,
        what: event.event_type.to_string(),
        text: String::new(),
        duration_ms: None,
        ..of_change(change)
    }
}

fn of_note(note: &Note) -> TimelineEntry {
    TimelineEntry {
        at: note.at,
        kind: TimelineKind::EffectRecord,
        what: note.step.clone(),
        by: None,
        text: note.text.clone(),
        version: None,
        status: None,
        duration_ms: Some(note.ms),
    }
}

fn of_step(step: &EffectRecord) -> Vec<TimelineEntry> {
    let entry = |at, text: String| TimelineEntry {
        at,
        kind: TimelineKind::EffectRecord,
        what: step.key.clone(),
        by: None,
        text,
        version: None,
        status: None,
        duration_ms: None,
    };
    let mut entries =
        vec![entry(step.intended_at, format!("intends: {} {}", step.what, step.target))];
    if let Some(outcome) = &step.outcome {
        entries.push(entry(outcome.at, outcome.describe()));
    }
    entries
}
