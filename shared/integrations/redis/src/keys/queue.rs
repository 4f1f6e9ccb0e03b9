//! The shared queue: tasks of the peer's programs that come over to us.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;
use watchbill_wire::peer::{PeerError, PeerTask, Queued, Wrote};

use super::rejected::{REJECTED, entry};
use super::{Failure, RedisKeys, Rejected, TaskWrite};
use crate::batch::{Batch, Key, Kind, Lua, lua};

pub(crate) const QUEUE: Key = Key::fixed("orchestrator:tasks", Kind::Sorted);
const PROCESSING: Key = Key::fixed("orchestrator:tasks:processing", Kind::Set);
/// Ids with the ends of their leases, in ms of the server's clock.
const TAKEN: Key = Key::fixed("watchbill:{orchestrator:tasks}:taken", Kind::Sorted);
/// By id, who holds the lease.
const TAKERS: Key = Key::fixed("watchbill:{orchestrator:tasks}:takers", Kind::Hash);

/// Ids in one run of a script: nobody else is served meanwhile, so it must be short.
const AT_ONCE: usize = 500;
/// Of a set's members, in one answer.
const PAGE: usize = 500;

static TAKE: Lua = lua!("take");
static RETAKE: Lua = lua!("retake");
static REJECT: Lua = lua!("reject");
static FAIL: Lua = lua!("fail");
static WRITE: Lua = lua!("write");

/// A task's own key.
pub(super) fn task(id: &str) -> Key {
    Key::new(format!("orchestrator:task:{id}"), Kind::Hash)
}

/// A name that any of these programs could write or read.
fn id_of(member: &[u8]) -> Option<&str> {
    std::str::from_utf8(member).ok()
}

impl RedisKeys {
    pub async fn peek(&self, from: usize, most: usize) -> Result<Vec<Queued>, PeerError> {
        if most == 0 {
            return Ok(Vec::new());
        }
        loop {
            let mut batch = Batch::new();
            batch.plain("ZRANGE", &[&QUEUE]).arg(from).arg(from + most - 1).arg("WITHSCORES");
            let page: Vec<(Vec<u8>, f64)> = self.line.one(batch).await?;
            let mut queued = Vec::with_capacity(page.len());
            let mut odd = Vec::new();
            for (member, score) in page {
                match id_of(&member) {
                    Some(id) => queued.push(Queued { id: id.to_owned(), score }),
                    None => odd.push(member),
                }
            }
            if odd.is_empty() {
                return Ok(queued);
            }
            self.clear(odd).await?;
        }
    }

    pub async fn depth(&self) -> Result<u64, PeerError> {
        let mut batch = Batch::new();
        batch.plain("ZCARD", &[&QUEUE]);
        self.line.one(batch).await
    }

    pub async fn read(&self, ids: &[String]) -> Result<Vec<PeerTask>, PeerError> {
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
                    Ok(PeerTask::Unreadable { reason: foreign.to_string(), data: None })
                }
            })
            .collect()
    }

    pub async fn take(
        &self,
        ids: &[String],
        taker: &str,
        lease: Duration,
    ) -> Result<Vec<String>, PeerError> {
        let mut batch = Batch::new();
        for ids in ids.chunks(AT_ONCE) {
            batch.script(&TAKE, &[&QUEUE, &TAKEN, &TAKERS]).arg(taker).arg(millis(lease)).arg(ids);
        }
        let mut taken = Vec::with_capacity(ids.len());
        for value in self.line.all(batch).await? {
            taken.extend(self.line.read::<Vec<String>>(value)?);
        }
        self.mark_worked_on(&taken).await?;
        Ok(taken)
    }

    pub async fn retake(
        &self,
        taker: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<String>, PeerError> {
        let mut batch = Batch::new();
        batch.script(&RETAKE, &[&TAKEN, &TAKERS]).arg(taker).arg(millis(lease)).arg(most);
        let taken: Vec<String> = self.line.one(batch).await?;
        self.mark_worked_on(&taken).await?;
        Ok(taken)
    }

    pub async fn settle(&self, ids: &[String]) -> Result<(), PeerError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.plain("ZREM", &[&TAKEN]).arg(ids);
        batch.plain("HDEL", &[&TAKERS]).arg(ids);
        self.line.all(batch).await.map(drop)
    }

    pub async fn reject(&self, rejected: &Rejected, failure: &Failure) -> Result<bool, PeerError> {
        self.put_aside(rejected, Some(failure)).await
    }

    pub async fn write(&self, writes: &[TaskWrite]) -> Result<Vec<Wrote>, PeerError> {
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
                Ok(0) => Wrote::Older,
                Ok(1) => Wrote::Written,
                Ok(2u8..) => Wrote::Lost,
                Err(PeerError::Foreign(reason)) => {
                    tracing::warn!(reason, "a task could not be written back");
                    Wrote::Foreign
                }
                Err(error) => return Err(error),
            });
        }
        let ended: Vec<_> =
            writes.iter().filter(|one| one.ended).map(|one| one.id.clone()).collect();
        // Also for what was older: the write before may have died half-way.
        self.forget(&ended).await?;
        Ok(wrote)
    }

    pub async fn worked_on(&self, cursor: u64) -> Result<(u64, Vec<String>), PeerError> {
        let mut batch = Batch::new();
        batch.plain("SSCAN", &[&PROCESSING]).arg(cursor).arg("COUNT").arg(PAGE);
        let (next, members): (u64, Vec<Vec<u8>>) = self.line.one(batch).await?;
        // Others put what they like there; what is no id is none of ours.
        let ids = members.iter().filter_map(|member| id_of(member));
        Ok((next, ids.map(str::to_owned).collect()))
    }

    pub async fn forget(&self, ids: &[String]) -> Result<(), PeerError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        // The lease first: what is taken again is put among those that are worked on again.
        batch.plain("ZREM", &[&TAKEN]).arg(ids);
        batch.plain("HDEL", &[&TAKERS]).arg(ids);
        batch.plain("SREM", &[&PROCESSING]).arg(ids);
        self.line.all(batch).await.map(drop)
    }
}

/// Of a task's hash what is read.
const FIELDS: &[&str] = &["data", "status", "watchbill_fed", "watchbill_version"];

/// What stands in a task's hash, in the order of [`FIELDS`].
fn found([data, status, fed, version]: [Option<Vec<u8>>; 4]) -> PeerTask {
    let unreadable = |reason: &str, data| PeerTask::Unreadable { reason: reason.to_owned(), data };
    let Some(data) = data else {
        return match status {
            None => PeerTask::Missing,
            Some(_) => unreadable("the field data is missing", None),
        };
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let Some(status) = text(status.unwrap_or_default()) else {
        return unreadable("the field status is no UTF-8", Some(data));
    };
    match String::from_utf8(data) {
        Ok(data) => {
            let fed = fed.and_then(text).and_then(|number| number.parse().ok());
            PeerTask::Found { data, status, fed, written: version.is_some() }
        }
        Err(error) => unreadable("the field data is no UTF-8", Some(error.into_bytes())),
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl RedisKeys {
    async fn mark_worked_on(&self, ids: &[String]) -> Result<(), PeerError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.plain("SADD", &[&PROCESSING]).arg(ids);
        self.line.all(batch).await.map(drop)
    }

    /// Moves out of the queue what no program can name.
    async fn clear(&self, odd: Vec<Vec<u8>>) -> Result<(), PeerError> {
        for member in odd {
            let rejected = Rejected {
                queue: QUEUE.name.into_owned(),
                member,
                reason: "the id is no UTF-8".to_owned(),
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

    /// In one step, where one server has all of the keys.
    async fn put_aside(
        &self,
        rejected: &Rejected,
        failure: Option<&Failure>,
    ) -> Result<bool, PeerError> {
        if self.line.address().is_cluster() {
            return self.put_aside_by_steps(rejected, failure).await;
        }
        let theirs = id_of(&rejected.member).filter(|_| failure.is_some()).map(task);
        let ours = [QUEUE, TAKEN, TAKERS, REJECTED, PROCESSING];
        let keys: Vec<&Key> = ours.iter().chain(&theirs).collect();
        let mut batch = Batch::new();
        let step = batch.script(&REJECT, &keys).arg(&rejected.member).arg(entry(rejected));
        tell(step, rejected, failure);
        self.line.one(batch).await
    }

    /// In a cluster its clients are told first, and the id leaves the queue last: whoever comes
    /// after a half of it does it all again, so they may be told twice, and never not at all.
    async fn put_aside_by_steps(
        &self,
        rejected: &Rejected,
        failure: Option<&Failure>,
    ) -> Result<bool, PeerError> {
        let member = &rejected.member;
        let mut batch = Batch::new();
        batch.plain("ZSCORE", &[&QUEUE]).arg(member);
        batch.plain("ZSCORE", &[&TAKEN]).arg(member);
        if self.line.all(batch).await?.iter().all(|score| *score == Value::Nil) {
            return Ok(false);
        }
        if let Some(id) = id_of(member).filter(|_| failure.is_some()) {
            let mut batch = Batch::new();
            tell(batch.script(&FAIL, &[&task(id)]), rejected, failure);
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

/// What the clients of a rejected task are told, as both scripts read it.
fn tell(step: &mut redis::Pipeline, rejected: &Rejected, failure: Option<&Failure>) {
    let seen = rejected.data.as_deref().unwrap_or_default();
    let data = failure.map_or("", |failure| &failure.data);
    step.arg(seen).arg(&rejected.at).arg(data);
    for message in failure.into_iter().flat_map(|failure| &failure.messages) {
        step.arg(&message.channel).arg(&message.text);
    }
}
