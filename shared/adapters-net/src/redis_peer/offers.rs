//! The shared queue: tasks of ours for the peer's workers.

use watchbill_core::ports::{Offer, PeerError};

use super::RedisPeer;
use super::batch::{Batch, Key, Kind, Lua, lua};
use super::queue::{QUEUE, task};

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

impl RedisPeer {
    /// Tasks first, then the queue: what a worker finds there it can read.
    pub(super) async fn put_up(&self, offers: &[Offer]) -> Result<(), PeerError> {
        let mut batch = Batch::new();
        for offer in offers {
            write(&mut batch, &OFFER_TASK, offer);
        }
        self.line.all(batch).await?;
        let mut batch = Batch::new();
        for offers in offers.chunks(AT_ONCE) {
            let step = batch.script(&OFFER_QUEUE, &[&QUEUE, &FED, &ASSIGNMENTS]);
            for offer in offers {
                step.arg(&offer.id).arg(offer.score).arg(offer.assignment);
            }
        }
        self.line.all(batch).await.map(drop)
    }

    pub(super) async fn standing(&self) -> Result<Vec<(String, u64)>, PeerError> {
        let mut batch = Batch::new();
        batch.script(&OFFERED, &[&FED]);
        self.line.one(batch).await
    }

    pub(super) async fn put_up_again(&self, offer: &Offer) -> Result<(), PeerError> {
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

    pub(super) async fn take_back(&self, ids: &[String]) -> Result<(), PeerError> {
        let mut batch = Batch::new();
        for ids in ids.chunks(AT_ONCE) {
            batch.script(&WITHDRAW, &[&QUEUE, &FED, &ASSIGNMENTS]).arg(ids);
        }
        self.line.all(batch).await.map(drop)
    }
}
