//! The port's shared queue.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_wire::TaskView;
use watchbill_wire::legacy::{
    ExportedTask, ImportError, LegacyError, LegacyEvent, LegacyTask, LegacyTasks, Origin, Queued,
    ReadTask, RejectedTask, WorkerUpdate, WriteBack, WriteOutcome,
};

use super::RedisLegacyQueue;
use super::channels::messages;
use crate::forms::{
    self, Rejection, addressee, compose_task, iso, merge_task, read_legacy_task, read_word, score,
};
use crate::keys::{Failure, QUEUE, Rejected, TaskOffer, TaskWrite};

#[async_trait]
impl LegacyTasks for RedisLegacyQueue {
    fn origin<'a>(&self, task: &'a TaskView) -> Option<Origin<'a>> {
        forms::origin(task)
    }

    async fn peek(&self, from: usize, most: usize) -> Result<Vec<Queued>, LegacyError> {
        self.keys.peek(from, most).await
    }

    async fn depth(&self) -> Result<u64, LegacyError> {
        self.keys.depth().await
    }

    async fn read(&self, ids: &[String]) -> Result<Vec<LegacyTask>, LegacyError> {
        self.keys.read(ids).await
    }

    async fn read_tasks(&self, ids: &[String]) -> Result<Vec<Option<ReadTask>>, LegacyError> {
        let stored = self.keys.read(ids).await?;
        Ok(ids.iter().zip(stored).map(|(id, stored)| read_task(id, stored)).collect())
    }

    async fn read_words(&self, ids: &[String]) -> Result<Vec<WorkerUpdate>, LegacyError> {
        let word = |stored| match stored {
            LegacyTask::Found { data, status, .. } => read_word(&data, &status),
            LegacyTask::Missing => WorkerUpdate::Missing,
            LegacyTask::Unreadable { reason, .. } => WorkerUpdate::Unreadable { reason },
        };
        Ok(self.keys.read(ids).await?.into_iter().map(word).collect())
    }

    async fn take(
        &self,
        ids: &[String],
        taker: &str,
        lease: Duration,
    ) -> Result<Vec<String>, LegacyError> {
        self.keys.take(ids, taker, lease).await
    }

    async fn reclaim(
        &self,
        taker: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<String>, LegacyError> {
        self.keys.reclaim(taker, lease, most).await
    }

    async fn ack(&self, ids: &[String]) -> Result<(), LegacyError> {
        self.keys.ack(ids).await
    }

    fn rejection(&self, rejected: &RejectedTask) -> LegacyEvent {
        rejection(rejected).record
    }

    async fn reject(&self, rejected: &RejectedTask) -> Result<bool, LegacyError> {
        let Rejection { data, event, record } = rejection(rejected);
        let messages = messages(record.event.event_type.as_str(), event);
        let failure = Failure { data, messages: messages.into() };
        let entry = Rejected {
            queue: QUEUE.name.to_string(),
            member: rejected.id.clone().into_bytes(),
            reason: rejected.reason.clone(),
            data: rejected.data.clone(),
            at: iso(rejected.at),
        };
        self.keys.reject(&entry, &failure).await
    }

    async fn write(&self, writes: &[WriteBack<'_>]) -> Result<Vec<WriteOutcome>, LegacyError> {
        let writes: Vec<_> = writes.iter().map(write_of).collect();
        self.keys.write(&writes).await
    }

    async fn worked_on(&self, cursor: u64) -> Result<(u64, Vec<String>), LegacyError> {
        self.keys.worked_on(cursor).await
    }

    async fn forget(&self, ids: &[String]) -> Result<(), LegacyError> {
        self.keys.forget(ids).await
    }

    async fn offer(&self, tasks: &[ExportedTask]) -> Result<Vec<Result<(), String>>, LegacyError> {
        let offers: Vec<_> = tasks.iter().map(offer_of).collect();
        self.keys.offer(&offers).await
    }

    async fn offered(&self) -> Result<Vec<(String, u64)>, LegacyError> {
        self.keys.offered().await
    }

    async fn offer_again(&self, task: &ExportedTask) -> Result<(), LegacyError> {
        self.keys.offer_again(&offer_of(task)).await
    }

    async fn withdraw(&self, ids: &[String]) -> Result<(), LegacyError> {
        self.keys.withdraw(ids).await
    }
}

fn read_task(id: &str, stored: LegacyTask) -> Option<ReadTask> {
    match stored {
        LegacyTask::Missing => None,
        LegacyTask::Found { data, status, fed, .. } => Some(match read_legacy_task(id, &data) {
            Ok(task) => {
                let to = Some(task.addressee());
                ReadTask { status, fed, to, task: Ok((task, data)) }
            }
            Err(reason) => {
                let to = addressee(&data);
                let data = Some(data.into_bytes());
                ReadTask { status, fed, to, task: Err(ImportError { reason, data }) }
            }
        }),
        LegacyTask::Unreadable { reason, data } => {
            let text = data.as_deref().map(String::from_utf8_lossy);
            let to = text.as_deref().and_then(addressee);
            let task = Err(ImportError { reason, data });
            Some(ReadTask { status: String::new(), fed: None, to, task })
        }
    }
}

fn rejection(rejected: &RejectedTask) -> Rejection {
    let text = rejected.data.as_deref().and_then(|data| std::str::from_utf8(data).ok());
    Rejection::new(&rejected.id, text, &rejected.reason, rejected.at)
}

fn write_of(write: &WriteBack<'_>) -> TaskWrite {
    let WriteBack { task, over, at } = *write;
    TaskWrite {
        id: task.peer_id().to_owned(),
        version: task.version,
        data: merge_task(over, task),
        status: task.status.as_str().to_owned(),
        updated_at: iso(at),
        created_at: iso(task.created_at),
        priority: task.priority.as_str().to_owned(),
        ended: task.status.is_terminal(),
    }
}

fn offer_of(fed: &ExportedTask) -> TaskOffer {
    let ExportedTask { task, assigned_to } = fed;
    TaskOffer {
        id: task.task_id.to_string(),
        score: score(task.priority),
        data: compose_task(task, assigned_to),
        status: task.status.as_str().to_owned(),
        created_at: iso(task.created_at),
        priority: task.priority.as_str().to_owned(),
        assignment: u32::try_from(task.version).unwrap_or(u32::MAX),
    }
}
