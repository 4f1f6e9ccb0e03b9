//! The time in which a reaction runs once for a subject. Events that fold are counted while
//! the task that was made for one of them is open, however long that is.

use std::time::Duration;

use watchbill_core::ports::{Expect, Write};
use watchbill_core::reactions::{Reacted, Reaction};
use watchbill_core::repo::{Versioned, Window, encode, window_key};
use watchbill_core::service::{Core, NewTask, ServiceError};
use watchbill_domain::{Event, TaskId, TenantId, Timestamp};

/// Where events fold and the reaction names no window.
pub const FOLD_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Tasks of folded events that are named in the next task.
const MAX_NAMED: usize = 5;
/// A window whose events fold is forgotten after so long without one, also if its task is open.
const KEEP_FOLD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub struct Windows<'a> {
    pub core: &'a Core,
    pub tenant: &'a TenantId,
    pub reaction: &'a Reaction,
    pub event: &'a Event,
    pub window: Duration,
}

pub enum Taken {
    /// The task is to be made, with the write that takes the window.
    Now { write: Write, new: Box<NewTask> },
    /// Another event's task stands for this one too.
    Before,
    /// Someone else changed the window.
    Retry,
}

impl Windows<'_> {
    /// Takes the subject's window, unless it is taken.
    pub async fn take(&self, reacted: &Reacted, new: &NewTask) -> Result<Taken, ServiceError> {
        let now = self.core.clock().now();
        let key = window_key(self.tenant, &self.reaction.name, &reacted.subject);
        let there: Option<Versioned<Window>> = self.core.context().load(&key).await?;
        if let Some(there) = &there {
            if reacted.folds && there.value.event == self.event.event_id {
                return Ok(Taken::Before);
            }
            let running = there.value.at.plus(self.window) > now;
            if running || (reacted.folds && self.is_open(&there.value).await?) {
                tracing::debug!(
                    reaction = %self.reaction.name, subject = %reacted.subject,
                    event = %self.event.event_id,
                    "reaction {} ran for its subject lately", self.reaction.name
                );
                return if reacted.folds {
                    self.count(there, now).await
                } else {
                    Ok(Taken::Before)
                };
            }
        }
        let mut new = Box::new(new.clone());
        if let Some(there) = there.as_ref().filter(|_| reacted.folds) {
            tell(&mut new, self.event, &there.value);
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
        let expect = there.map_or(Expect::Absent, |there| Expect::Version(there.version));
        let write = Write::Put { item: encode(&taken, None), expect };
        Ok(Taken::Now { write, new })
    }

    async fn is_open(&self, window: &Window) -> Result<bool, ServiceError> {
        let Some(task) = &window.task else { return Ok(false) };
        let stored = self.core.tasks().stored(self.tenant, task).await?;
        Ok(stored.is_some_and(|stored| !stored.value.status.is_terminal()))
    }

    async fn count(
        &self,
        there: &Versioned<Window>,
        now: Timestamp,
    ) -> Result<Taken, ServiceError> {
        let id = &self.event.event_id;
        if there.value.event == *id || there.value.last.as_ref() == Some(id) {
            return Ok(Taken::Before);
        }
        let mut folded_tasks = there.value.folded_tasks.clone();
        let task = self.event.task_id.as_ref().filter(|task| !folded_tasks.contains(task));
        folded_tasks.extend(task.filter(|_| folded_tasks.len() < MAX_NAMED).cloned());
        let counted = Window {
            folded: there.value.folded + 1,
            folded_tasks,
            last: Some(id.clone()),
            expires: now.plus(KEEP_FOLD.max(self.window * 2)),
            ..there.value.clone()
        };
        let item = encode(&counted, there.unknown.as_deref());
        let writes = vec![Write::Put { item, expect: Expect::Version(there.version) }];
        match self.core.context().transact(writes).await? {
            Ok(()) => Ok(Taken::Before),
            Err(_) => Ok(Taken::Retry),
        }
    }
}

/// Says in the task how many events it stands for, its own and those since the last task, and
/// which tasks they are about: the first few, and how many more.
fn tell(new: &mut NewTask, event: &Event, before: &Window) {
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
