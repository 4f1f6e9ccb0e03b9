//! A domain's lists. The scripts touch lists with several names, which must be on one server,
//! so clusters are not supported.

use std::time::Duration;

use watchbill_wire::legacy::{LegacyError, WriteOutcome};

use super::queue::millis;
use super::rejected::{REJECTED, entry};
use super::{ClaimedMessage, DomainWrite, RedisKeys, Rejected};
use crate::batch::{Batch, Key, Kind, Lua, lua};

static TAKE: Lua = lua!("domain_take");
static BEGIN: Lua = lua!("domain_begin");
static WRITE: Lua = lua!("domain_write");
static REFUSE: Lua = lua!("domain_refuse");

struct Lists {
    pending: Key,
    active: Key,
    /// Messages with the ends of their leases, in ms of the server's clock.
    taken: Key,
    /// The message of each task, byte for byte.
    begun: Key,
}

impl Lists {
    fn of(domain: &str) -> Self {
        let active = format!("tasks:active:{domain}");
        Self {
            pending: Key::new(format!("tasks:pending:{domain}"), Kind::List),
            taken: Key::new(format!("watchbill:{active}:taken"), Kind::Sorted),
            begun: Key::new(format!("watchbill:{active}:begun"), Kind::Hash),
            active: Key::new(active, Kind::List),
        }
    }
}

fn results(id: &str) -> Key {
    Key::new(format!("results:{id}"), Kind::Hash)
}

impl RedisKeys {
    fn lists(&self, domain: &str) -> Result<Lists, LegacyError> {
        if self.line.address().is_cluster() {
            let text = format!(
                "{}: a cluster does not support domains; remove '{domain}' from REDIS_DOMAINS, \
                 or use a single server",
                self.line.address()
            );
            return Err(LegacyError::Refused(text));
        }
        Ok(Lists::of(domain))
    }
}

impl RedisKeys {
    pub async fn take_messages(
        &self,
        domain: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<ClaimedMessage>, LegacyError> {
        let lists = self.lists(domain)?;
        let mut batch = Batch::new();
        batch
            .script(&TAKE, &[&lists.pending, &lists.active, &lists.taken])
            .arg(millis(lease))
            .arg(most);
        let taken: Vec<(Vec<u8>, bool)> = self.line.one(batch).await?;
        Ok(taken.into_iter().map(|(message, again)| ClaimedMessage { message, again }).collect())
    }

    pub async fn begin(&self, domain: &str, id: &str, message: &[u8]) -> Result<(), LegacyError> {
        let lists = self.lists(domain)?;
        let mut batch = Batch::new();
        batch.script(&BEGIN, &[&lists.active, &lists.taken, &lists.begun]).arg(id).arg(message);
        self.line.all(batch).await.map(drop)
    }

    pub async fn settle_message(&self, domain: &str, message: &[u8]) -> Result<(), LegacyError> {
        let mut batch = Batch::new();
        batch.plain("ZREM", &[&self.lists(domain)?.taken]).arg(message);
        self.line.all(batch).await.map(drop)
    }

    pub async fn refuse(
        &self,
        domain: &str,
        rejected: &Rejected,
        result: Option<&DomainWrite>,
    ) -> Result<(), LegacyError> {
        let lists = self.lists(domain)?;
        let more = [Some(REJECTED), result.map(|result| results(&result.id))];
        let keys = [&lists.active, &lists.taken, &lists.begun].into_iter();
        let keys: Vec<&Key> = keys.chain(more.iter().flatten()).collect();
        let mut batch = Batch::new();
        let step = batch.script(&REFUSE, &keys).arg(&rejected.member).arg(entry(rejected));
        if let Some(result) = result {
            step.arg(result.publish.as_deref().unwrap_or_default());
            for (field, value) in &result.fields {
                step.arg(field).arg(value);
            }
        }
        self.line.all(batch).await.map(drop)
    }

    pub async fn write_result(
        &self,
        domain: &str,
        write: &DomainWrite,
    ) -> Result<WriteOutcome, LegacyError> {
        let lists = self.lists(domain)?;
        let results = results(&write.id);
        let logs = Key::new(format!("results:{}:logs", write.id), Kind::List);
        let mut batch = Batch::new();
        let step = batch
            .script(&WRITE, &[&results, &logs, &lists.active, &lists.taken, &lists.begun])
            .arg(&write.id)
            .arg(write.version)
            .arg(u8::from(write.done))
            .arg(u8::from(write.publish.is_some()))
            .arg(write.publish.as_deref().unwrap_or_default())
            .arg(write.fields.len());
        for (field, value) in &write.fields {
            step.arg(field).arg(value);
        }
        step.arg(&write.logs);
        match self.line.one(batch).await {
            Ok(true) => Ok(WriteOutcome::Written),
            Ok(false) => Ok(WriteOutcome::Older),
            Err(error) => Err(error),
        }
    }

    pub async fn open_tasks(&self, domain: &str) -> Result<Vec<String>, LegacyError> {
        let mut batch = Batch::new();
        batch.plain("HKEYS", &[&self.lists(domain)?.begun]);
        self.line.one(batch).await
    }

    pub async fn pending(&self, domain: &str) -> Result<u64, LegacyError> {
        let mut batch = Batch::new();
        batch.plain("LLEN", &[&self.lists(domain)?.pending]);
        self.line.one(batch).await
    }
}
