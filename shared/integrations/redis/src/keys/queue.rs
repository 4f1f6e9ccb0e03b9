//! Imports tasks of legacy programs from the shared queue.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;
use watchbill_wire::legacy::{LegacyError, LegacyTask, Queued, WriteOutcome};

use super::rejected::{REJECTED, entry};
use super::{Failure, RedisKeys, Rejected, TaskWrite};
use crate::batch::{Batch, Key, Kind, Lua, lua};

pub(crate) const QUEUE: Key = Key::fixed("orchestrator:tasks", Kind::Sorted);
const PROCESSING: Key = Key::fixed("orchestrator:tasks:processing", Kind::Set);
/// Ids with the ends of their leases, in ms of the server's clock.
const TAKEN: Key = Key::fixed("watchbill:{orchestrator:tasks}:taken", Kind::Sorted);
/// By id, the lease holder.
const TAKERS: Key = Key::fixed("watchbill:{orchestrator:tasks}:takers", Kind::Hash);

/// Ids per script run. It must be short, because the server does nothing else meanwhile.
const BATCH_SIZE: usize = 500;
/// Set members per answer.
const PAGE_SIZE: usize = 500;

static TAKE: Lua = lua!("take");
static RECLAIM: Lua = lua!("reclaim");
static REJECT: Lua = lua!("reject");
static FAIL: Lua = lua!("fail");
static WRITE: Lua = lua!("write");

pub(super) fn task(id: &str) -> Key {
    Key::new(format!("orchestrator:task:{id}"), Kind::Hash)
}

/// An id that these programs can write and read.
fn id_of(member: &[u8]) -> Option<&str> {
    std::str::from_utf8(member).ok()
}

impl RedisKeys {
    pub async fn peek(&self, from: usize, most: usize) -> Result<Vec<Queued>, LegacyError> {
        if most == 0 {
            return Ok(Vec::new());
        }
        loop {
            let mut batch = Batch::new();
            batch.plain("ZRANGE", &[&QUEUE]).arg(from).arg(from + most - 1).arg("WITHSCORES");
            let page: Vec<(Vec<u8>, f64)> = self.line.one(batch).await?;
            let mut queued = Vec::with_capacity(page.len());
            let mut unreadable = Vec::new();
            for (member, score) in page {
                match id_of(&member) {
                    Some(id) => queued.push(Queued { id: id.to_owned(), score }),
                    None => unreadable.push(member),
                }
            }
            if unreadable.is_empty() {
                return Ok(queued);
            }
            self.clear(unreadable).await?;
        }
    }

    pub async fn depth(&self) -> Result<u64, LegacyError> {
        let mut batch = Batch::new();
        batch.plain("ZCARD", &[&QUEUE]);
        self.line.one(batch).await
    }

    pub async fn read(&self, ids: &[String]) -> Result<Vec<LegacyTask>, LegacyError> {
        let mut batch = Batch::new();
        for id in ids {
            batch.plain("HMGET", &[&task(id)]).arg(FIELDS);
        }
        let answers = self.line.each(batch).await?;
        answers
            .into_iter()
            .map(|answer| match answer {
                Ok(value) => self.line.read(value).map(found),
                Err(foreign) => {
                    Ok(LegacyTask::Unreadable { reason: foreign.to_string(), data: None })
                }
            })
            .collect()
    }

    pub async fn take(
        &self,
        ids: &[String],
        taker: &str,
        lease: Duration,
    ) -> Result<Vec<String>, LegacyError> {
        let mut batch = Batch::new();
        for ids in ids.chunks(BATCH_SIZE) {
            batch.script(&TAKE, &[&QUEUE, &TAKEN, &TAKERS]).arg(taker).arg(millis(lease)).arg(ids);
        }
        let mut taken = Vec::with_capacity(ids.len());
        for value in self.line.all(batch).await? {
            taken.extend(self.line.read::<Vec<String>>(value)?);
        }
        self.mark_worked_on(&taken).await?;
        Ok(taken)
    }

    pub async fn reclaim(
        &self,
        taker: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<String>, LegacyError> {
        let mut batch = Batch::new();
        batch.script(&RECLAIM, &[&TAKEN, &TAKERS]).arg(taker).arg(millis(lease)).arg(most);
        let taken: Vec<String> = self.line.one(batch).await?;
        self.mark_worked_on(&taken).await?;
        Ok(taken)
    }

    pub async fn ack(&self, ids: &[String]) -> Result<(), LegacyError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.plain("ZREM", &[&TAKEN]).arg(ids);
        batch.plain("HDEL", &[&TAKERS]).arg(ids);
        self.line.all(batch).await.map(drop)
    }

    pub async fn reject(
        &self,
        rejected: &Rejected,
        failure: &Failure,
    ) -> Result<bool, LegacyError> {
        self.put_aside(rejected, Some(failure)).await
    }

    pub async fn write(&self, writes: &[TaskWrite]) -> Result<Vec<WriteOutcome>, LegacyError> {
        let mut batch = Batch::new();
        for one in writes {
            batch.script(&WRITE, &[&task(&one.id)]).arg(one.version).arg(&[
                &one.data,
                &one.status,
                &one.updated_at,
                &one.created_at,
                &one.priority,
            ]);
        }
        let mut wrote = Vec::with_capacity(writes.len());
        for answer in self.line.each(batch).await? {
            wrote.push(match answer.and_then(|value| self.line.read(value)) {
                Ok(0) => WriteOutcome::Older,
                Ok(1) => WriteOutcome::Written,
                Ok(2u8..) => WriteOutcome::Lost,
                Err(LegacyError::Foreign(reason)) => {
                    tracing::warn!(reason, "a task could not be written back");
                    WriteOutcome::Foreign
                }
                Err(error) => return Err(error),
            });
        }
        let ended: Vec<_> =
            writes.iter().filter(|one| one.ended).map(|one| one.id.clone()).collect();
        // Also for older versions: the previous write may have failed half-way.
        self.forget(&ended).await?;
        Ok(wrote)
    }

    pub async fn worked_on(&self, cursor: u64) -> Result<(u64, Vec<String>), LegacyError> {
        let mut batch = Batch::new();
        batch.plain("SSCAN", &[&PROCESSING]).arg(cursor).arg("COUNT").arg(PAGE_SIZE);
        let (next, members): (u64, Vec<Vec<u8>>) = self.line.one(batch).await?;
        // Others may add anything there; a member that is no id is not ours.
        let ids = members.iter().filter_map(|member| id_of(member));
        Ok((next, ids.map(str::to_owned).collect()))
    }

    pub async fn forget(&self, ids: &[String]) -> Result<(), LegacyError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        // The lease goes first: a task claimed again is added to the processing set again.
        batch.plain("ZREM", &[&TAKEN]).arg(ids);
        batch.plain("HDEL", &[&TAKERS]).arg(ids);
        batch.plain("SREM", &[&PROCESSING]).arg(ids);
        self.line.all(batch).await.map(drop)
    }
}

/// The fields that are read of a task's hash.
const FIELDS: &[&str] = &["data", "status", "watchbill_fed", "watchbill_version"];

/// A task from its hash, with the fields in the order of [`FIELDS`].
fn found([data, status, fed, version]: [Option<Vec<u8>>; 4]) -> LegacyTask {
    let unreadable =
        |reason: &str, data| LegacyTask::Unreadable { reason: reason.to_owned(), data };
    let Some(data) = data else {
        return match status {
            None => LegacyTask::Missing,
            Some(_) => unreadable("the field data is missing", None),
        };
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let Some(status) = text(status.unwrap_or_default()) else {
        return unreadable("the field status is not UTF-8", Some(data));
    };
    match String::from_utf8(data) {
        Ok(data) => {
            let fed = fed.and_then(text).and_then(|number| number.parse().ok());
            LegacyTask::Found { data, status, fed, written: version.is_some() }
        }
        Err(error) => unreadable("the field data is not UTF-8", Some(error.into_bytes())),
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl RedisKeys {
    async fn mark_worked_on(&self, ids: &[String]) -> Result<(), LegacyError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.plain("SADD", &[&PROCESSING]).arg(ids);
        self.line.all(batch).await.map(drop)
    }

    /// Moves members that no program can name out of the queue.
    async fn clear(&self, members: Vec<Vec<u8>>) -> Result<(), LegacyError> {
        for member in members {
            let rejected = Rejected {
                queue: QUEUE.name.into_owned(),
                member,
                reason: "the id is not UTF-8".to_owned(),
                data: None,
                at: self.line.options().clock.now().to_string(),
            };
            self.put_aside(&rejected, None).await?;
            self.rejected.fetch_add(1, Ordering::Relaxed);
            let (member, reason) = (String::from_utf8_lossy(&rejected.member), &rejected.reason);
            tracing::warn!(%member, reason, "moved a member of the queue to watchbill:rejected");
        }
        Ok(())
    }

    /// Moves a member in one step if one server has all keys.
    async fn put_aside(
        &self,
        rejected: &Rejected,
        failure: Option<&Failure>,
    ) -> Result<bool, LegacyError> {
        if self.line.address().is_cluster() {
            return self.put_aside_by_steps(rejected, failure).await;
        }
        let theirs = id_of(&rejected.member).filter(|_| failure.is_some()).map(task);
        let ours = [QUEUE, TAKEN, TAKERS, REJECTED, PROCESSING];
        let keys: Vec<&Key> = ours.iter().chain(&theirs).collect();
        let mut batch = Batch::new();
        let step = batch.script(&REJECT, &keys).arg(&rejected.member).arg(entry(rejected));
        add_failure(step, rejected, failure);
        self.line.one(batch).await
    }

    /// In a cluster, clients are notified first and the id leaves the queue last. After a
    /// partial run the next one does everything again, so clients may be notified twice but
    /// never not at all.
    async fn put_aside_by_steps(
        &self,
        rejected: &Rejected,
        failure: Option<&Failure>,
    ) -> Result<bool, LegacyError> {
        let member = &rejected.member;
        let mut batch = Batch::new();
        batch.plain("ZSCORE", &[&QUEUE]).arg(member);
        batch.plain("ZSCORE", &[&TAKEN]).arg(member);
        if self.line.all(batch).await?.iter().all(|score| *score == Value::Nil) {
            return Ok(false);
        }
        if let Some(id) = id_of(member).filter(|_| failure.is_some()) {
            let mut batch = Batch::new();
            add_failure(batch.script(&FAIL, &[&task(id)]), rejected, failure);
            if !self.line.one::<bool>(batch).await? {
                return Ok(false);
            }
        }
        let mut batch = Batch::new();
        batch.plain("LPUSH", &[&REJECTED]).arg(entry(rejected));
        self.line.all(batch).await?;
        let mut batch = Batch::new();
        batch.plain("ZREM", &[&QUEUE]).arg(member);
        batch.plain("ZREM", &[&TAKEN]).arg(member);
        batch.plain("HDEL", &[&TAKERS]).arg(member);
        batch.plain("SREM", &[&PROCESSING]).arg(member);
        self.line.all(batch).await.map(|_| true)
    }
}

/// Adds what a rejected task's clients are sent, as both scripts read it.
fn add_failure(step: &mut redis::Pipeline, rejected: &Rejected, failure: Option<&Failure>) {
    let data_seen = rejected.data.as_deref().unwrap_or_default();
    let data = failure.map_or("", |failure| &failure.data);
    step.arg(data_seen).arg(&rejected.at).arg(data);
    for message in failure.into_iter().flat_map(|failure| &failure.messages) {
        step.arg(&message.channel).arg(&message.text);
    }
}
