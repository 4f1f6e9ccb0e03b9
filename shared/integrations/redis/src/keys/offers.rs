//! Exports our tasks to the shared queue for legacy workers.

use watchbill_wire::legacy::LegacyError;

use super::queue::{QUEUE, task};
use super::{RedisKeys, TaskOffer};
use crate::batch::{Batch, Key, Kind, Lua, lua};

/// Ids with the seconds, by the server's clock, at which they were enqueued.
const FED: Key = Key::fixed("watchbill:{orchestrator:tasks}:fed", Kind::Sorted);
/// By id, the assignment under which it was enqueued.
const ASSIGNMENTS: Key = Key::fixed("watchbill:{orchestrator:tasks}:fed:assignments", Kind::Hash);

const BATCH_SIZE: usize = 500;

static OFFER_TASK: Lua = lua!("offer_task");
static OFFER_QUEUE: Lua = lua!("offer_queue");
static REOFFER_TASK: Lua = lua!("again_task");
static REOFFER_QUEUE: Lua = lua!("again_queue");
static OFFERED: Lua = lua!("offered");
static WITHDRAW: Lua = lua!("withdraw");

fn write(batch: &mut Batch, script: &'static Lua, offer: &TaskOffer) {
    batch.script(script, &[&task(&offer.id)]).arg(offer.assignment).arg(&[
        &offer.data,
        &offer.status,
        &offer.created_at,
        &offer.priority,
    ]);
}

impl RedisKeys {
    /// Writes the tasks before the queue, so that workers can read every task they find there.
    pub async fn offer(
        &self,
        offers: &[TaskOffer],
    ) -> Result<Vec<Result<(), String>>, LegacyError> {
        let mut batch = Batch::new();
        for offer in offers {
            write(&mut batch, &OFFER_TASK, offer);
        }
        let mut results = Vec::with_capacity(offers.len());
        for (offer, answer) in offers.iter().zip(self.line.each(batch).await?) {
            results.push(match answer.and_then(|value| self.line.read(value)) {
                Ok(0u8..=1) => Ok(()),
                Ok(_) => Err(format!(
                    "the key {} holds a task of another program with the same id",
                    task(&offer.id)
                )),
                Err(LegacyError::Foreign(reason)) => Err(reason),
                Err(error) => return Err(error),
            });
        }
        let ours = offers.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let ours: Vec<&TaskOffer> = ours.map(|(offer, _)| offer).collect();
        let mut batch = Batch::new();
        for offers in ours.chunks(BATCH_SIZE) {
            let step = batch.script(&OFFER_QUEUE, &[&QUEUE, &FED, &ASSIGNMENTS]);
            for offer in offers {
                step.arg(&offer.id).arg(offer.score).arg(offer.assignment);
            }
        }
        self.line.all(batch).await?;
        Ok(results)
    }

    pub async fn offered(&self) -> Result<Vec<(String, u64)>, LegacyError> {
        let mut batch = Batch::new();
        batch.script(&OFFERED, &[&FED]);
        self.line.one(batch).await
    }

    pub async fn offer_again(&self, offer: &TaskOffer) -> Result<(), LegacyError> {
        let mut batch = Batch::new();
        write(&mut batch, &REOFFER_TASK, offer);
        let not_begun: bool = self.line.one(batch).await?;
        if !not_begun {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch
            .script(&REOFFER_QUEUE, &[&QUEUE, &FED, &ASSIGNMENTS])
            .arg(&offer.id)
            .arg(offer.score)
            .arg(offer.assignment);
        self.line.all(batch).await.map(drop)
    }

    pub async fn withdraw(&self, ids: &[String]) -> Result<(), LegacyError> {
        let mut batch = Batch::new();
        for ids in ids.chunks(BATCH_SIZE) {
            batch.script(&WITHDRAW, &[&QUEUE, &FED, &ASSIGNMENTS]).arg(ids);
        }
        self.line.all(batch).await.map(drop)
    }
}
