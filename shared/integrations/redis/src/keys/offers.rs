//! The shared queue: tasks of ours for the peer's workers.

use watchbill_wire::peer::PeerError;

use super::queue::{QUEUE, task};
use super::{Offer, RedisKeys};
use crate::batch::{Batch, Key, Kind, Lua, lua};

/// Ids with the seconds, of the server's clock, at which they were put into the queue.
const FED: Key = Key::fixed("watchbill:{orchestrator:tasks}:fed", Kind::Sorted);
/// By id, the assignment under which it was put into the queue.
const ASSIGNMENTS: Key = Key::fixed("watchbill:{orchestrator:tasks}:fed:assignments", Kind::Hash);

const AT_ONCE: usize = 500;

static OFFER_TASK: Lua = lua!("offer_task");
static OFFER_QUEUE: Lua = lua!("offer_queue");
static AGAIN_TASK: Lua = lua!("again_task");
static AGAIN_QUEUE: Lua = lua!("again_queue");
static OFFERED: Lua = lua!("offered");
static WITHDRAW: Lua = lua!("withdraw");

fn write(batch: &mut Batch, script: &'static Lua, offer: &Offer) {
    batch.script(script, &[&task(&offer.id)]).arg(offer.assignment).arg(&[
        &offer.data,
        &offer.status,
        &offer.created_at,
        &offer.priority,
    ]);
}

impl RedisKeys {
    /// Tasks first, then the queue: what a worker finds there it can read.
    pub async fn offer(&self, offers: &[Offer]) -> Result<Vec<Result<(), String>>, PeerError> {
        let mut batch = Batch::new();
        for offer in offers {
            write(&mut batch, &OFFER_TASK, offer);
        }
        let mut stands = Vec::with_capacity(offers.len());
        for (offer, answer) in offers.iter().zip(self.line.each(batch).await?) {
            stands.push(match answer.and_then(|value| self.line.read(value)) {
                Ok(0u8..=1) => Ok(()),
                Ok(_) => Err(format!(
                    "the key {} holds a task of another program, which bears the same id",
                    task(&offer.id)
                )),
                Err(PeerError::Foreign(reason)) => Err(reason),
                Err(error) => return Err(error),
            });
        }
        let ours = offers.iter().zip(&stands).filter(|(_, stands)| stands.is_ok());
        let ours: Vec<&Offer> = ours.map(|(offer, _)| offer).collect();
        let mut batch = Batch::new();
        for offers in ours.chunks(AT_ONCE) {
            let step = batch.script(&OFFER_QUEUE, &[&QUEUE, &FED, &ASSIGNMENTS]);
            for offer in offers {
                step.arg(&offer.id).arg(offer.score).arg(offer.assignment);
            }
        }
        self.line.all(batch).await?;
        Ok(stands)
    }

    pub async fn offered(&self) -> Result<Vec<(String, u64)>, PeerError> {
        let mut batch = Batch::new();
        batch.script(&OFFERED, &[&FED]);
        self.line.one(batch).await
    }

    pub async fn offer_again(&self, offer: &Offer) -> Result<(), PeerError> {
        let mut batch = Batch::new();
        write(&mut batch, &AGAIN_TASK, offer);
        let not_begun: bool = self.line.one(batch).await?;
        if !not_begun {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch
            .script(&AGAIN_QUEUE, &[&QUEUE, &FED, &ASSIGNMENTS])
            .arg(&offer.id)
            .arg(offer.score)
            .arg(offer.assignment);
        self.line.all(batch).await.map(drop)
    }

    pub async fn withdraw(&self, ids: &[String]) -> Result<(), PeerError> {
        let mut batch = Batch::new();
        for ids in ids.chunks(AT_ONCE) {
            batch.script(&WITHDRAW, &[&QUEUE, &FED, &ASSIGNMENTS]).arg(ids);
        }
        self.line.all(batch).await.map(drop)
    }
}
