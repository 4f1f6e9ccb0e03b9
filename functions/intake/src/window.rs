//! The window in which a reaction runs once per subject. Folding events are also counted for as
//! long as the task created for one of them is open.

use std::time::Duration;

use watchbill_core::ports::{Precondition, Write};
use watchbill_core::reactions::{Reaction, TaskFromEvent};
use watchbill_core::repo::{Versioned, Window, encode, window_key};
use watchbill_core::service::{Core, NewTask, ServiceError};
use watchbill_domain::{Event, TaskId, TenantId, Timestamp};

/// Default window of a reaction that folds its events.
pub const FOLD_WINDOW: Duration = Duration::from_secs(15 * 60);
/// How many tasks of folded events the next task names.
const MAX_NAMED: usize = 5;
/// A folding window expires this long after its last event, even if its task is open.
const KEEP_FOLD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub struct Windows<'a> {
    pub core: &'a Core,
    pub tenant: &'a TenantId,
    pub reaction: &'a Reaction,
    pub event: &'a Event,
    pub window: Duration,
}

pub enum WindowResult {
    /// Create the task in the same transaction as this write, which takes the window.
    Now { write: Write, new: Box<NewTask> },
    /// Another event's task covers this event.
    Before,
    /// Another process changed the window; claim again.
    Retry,
}

impl Windows<'_> {
    /// Takes the subject's window unless it is already taken.
    pub async fn claim(
        &self,
        reacted: &TaskFromEvent,
        new: &NewTask,
    ) -> Result<WindowResult, ServiceError> {
        let now = self.core.clock().now();
        let key = window_key(self.tenant, &self.reaction.name, &reacted.subject);
        let before: Option<Versioned<Window>> = self.core.context().load(&key).await?;
        if let Some(before) = &before {
            if reacted.folds && before.value.event == self.event.event_id {
                return Ok(WindowResult::Before);
            }
            let running = before.value.at.plus(self.window) > now;
            if running || (reacted.folds && self.is_open(&before.value).await?) {
                tracing::debug!(
                    reaction = %self.reaction.name, subject = %reacted.subject,
                    event = %self.event.event_id,
                    "the reaction already ran for this subject"
                );
                return if reacted.folds {
                    self.count(before, now).await
                } else {
                    Ok(WindowResult::Before)
                };
            }
        }
        let mut new = Box::new(new.clone());
        if let Some(before) = before.as_ref().filter(|_| reacted.folds) {
            add_folded(&mut new, self.event, &before.value);
        }
        let keep = if reacted.folds { KEEP_FOLD.max(self.window * 2) } else { self.window * 2 };
        let taken = Window {
            tenant: self.tenant.clone(),
            reaction: self.reaction.name.clone(),
            subject: reacted.subject.clone(),
            at: now,
            event: self.event.event_id.clone(),
            task: reacted.folds.then(|| self.core.tasks().id_of(&new)),
            folded: 0,
            folded_tasks: Vec::new(),
            last: None,
            expires: now.plus(keep),
        };
        let expect =
            before.map_or(Precondition::Absent, |before| Precondition::Version(before.version));
        let write = Write::Put { item: encode(&taken, None), expect };
        Ok(WindowResult::Now { write, new })
    }

    async fn is_open(&self, window: &Window) -> Result<bool, ServiceError> {
        let Some(task) = &window.task else { return Ok(false) };
        let stored = self.core.tasks().stored(self.tenant, task).await?;
        Ok(stored.is_some_and(|stored| !stored.value.status.is_terminal()))
    }

    async fn count(
        &self,
        before: &Versioned<Window>,
        now: Timestamp,
    ) -> Result<WindowResult, ServiceError> {
        let id = &self.event.event_id;
        if before.value.event == *id || before.value.last.as_ref() == Some(id) {
            return Ok(WindowResult::Before);
        }
        let mut folded_tasks = before.value.folded_tasks.clone();
        let task = self.event.task_id.as_ref().filter(|task| !folded_tasks.contains(task));
        folded_tasks.extend(task.filter(|_| folded_tasks.len() < MAX_NAMED).cloned());
        let counted = Window {
            folded: before.value.folded + 1,
            folded_tasks,
            last: Some(id.clone()),
            expires: now.plus(KEEP_FOLD.max(self.window * 2)),
            ..before.value.clone()
        };
        let item = encode(&counted, before.unknown.as_deref());
        let writes = vec![Write::Put { item, expect: Precondition::Version(before.version) }];
        match self.core.context().transact(writes).await? {
            Ok(()) => Ok(WindowResult::Before),
            Err(_) => Ok(WindowResult::Retry),
        }
    }
}

/// Adds to the task how many events it covers (its own and those since the last task) and the
/// first few tasks that they concern, with the number of the others.
fn add_folded(new: &mut NewTask, event: &Event, before: &Window) {
    let folded = before.folded;
    if folded == 0 {
        return;
    }
    new.payload.insert("count".into(), (folded + 1).into());
    let named = &before.folded_tasks;
    let ids: Vec<&str> = named.iter().map(TaskId::as_str).collect();
    let all: Vec<&str> = event.task_id.iter().map(TaskId::as_str).chain(ids.clone()).collect();
    if !ids.is_empty() {
        new.payload.insert("task_ids".into(), all.into());
    }
    if let Some(serde_json::Value::String(message)) = new.payload.get_mut("message") {
        message.push_str(&format!(" (and {folded} more since the last alert"));
        let left = folded.saturating_sub(ids.len() as u64);
        match (ids.is_empty(), left) {
            (true, _) => {}
            (false, 0) => message.push_str(&format!(": {}", ids.join(", "))),
            (false, left) => message.push_str(&format!(": {} and {left} others", ids.join(", "))),
        }
        message.push(')');
    }
}
