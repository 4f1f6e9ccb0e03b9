use super::core::Core;
use super::{ServiceError, TimelineEntry, TimelineKind};
use crate::domain::{LogEntry, Note, Task, TaskId, TenantId, What};
use crate::ports::Item;
use crate::repo::{self, Overflow, Step, decode};

impl Core {
    /// Everything that is known of a task's way, in order.
    pub async fn timeline(
        &self,
        tenant: &TenantId,
        id: &TaskId,
    ) -> Result<Vec<TimelineEntry>, ServiceError> {
        let items = self.store().collect(&repo::task_partition(tenant, id), "").await?;
        let head = items.iter().find(|item| &*item.key.sort == repo::HEAD);
        let Some(head) = head else {
            return Err(ServiceError::NotFound { what: "task", id: id.to_string() });
        };
        let task = decode::<Task>(head)?.value;
        let mut entries = Vec::new();
        // Changes stand in the order of their versions, also where the clock was set back.
        let mut reached = task.created_at;
        for change in older_log(&items)?.iter().chain(&task.log) {
            reached = reached.max(change.at);
            entries.push((reached, of_change(change)));
            entries.extend(change.events.iter().map(|event| {
                let entry = TimelineEntry {
                    kind: TimelineKind::Event,
                    what: event.event_type.to_string(),
                    text: String::new(),
                    duration_ms: None,
                    ..of_change(change)
                };
                (reached, entry)
            }));
        }
        for item in items.iter().filter(|item| item.key.sort.starts_with(repo::STEPS)) {
            let step = decode::<Step>(item)?.value;
            entries.extend(of_step(&step).into_iter().map(|entry| (entry.at, entry)));
        }
        entries.extend(task.notes.iter().map(|note| (note.at, of_note(note))));
        // Stable: a change before the events it gave.
        entries.sort_by_key(|(at, _)| *at);
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }
}

/// Log entries that had to leave the header, oldest first.
pub fn older_log(items: &[Item]) -> Result<Vec<LogEntry>, ServiceError> {
    let mut older = Vec::new();
    for item in items.iter().filter(|item| item.key.sort.starts_with(repo::LOGS)) {
        older.extend(decode::<Overflow>(item)?.value.entries);
    }
    older.sort_by_key(|entry| entry.version);
    Ok(older)
}

fn of_change(change: &LogEntry) -> TimelineEntry {
    let approval = matches!(change.what, What::Approved | What::Rejected | What::Expired);
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

fn of_note(note: &Note) -> TimelineEntry {
    TimelineEntry {
        at: note.at,
        kind: TimelineKind::Step,
        what: note.step.clone(),
        by: None,
        text: note.text.clone(),
        version: None,
        status: None,
        duration_ms: Some(note.ms),
    }
}

fn of_step(step: &Step) -> Vec<TimelineEntry> {
    let entry = |at, text: String| TimelineEntry {
        at,
        kind: TimelineKind::Step,
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
        entries.push(entry(outcome.at, outcome.in_words()));
    }
    entries
}
