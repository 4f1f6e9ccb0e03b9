//! Approvals and cost, for the peer's dashboards. Sums of a day are kept for 90 days, those
//! of an hour for 8, those of a trace for 90 since its last change.

use async_trait::async_trait;
use watchbill_core::ports::{Cost, PeerError, PeerMirror};

use super::RedisPeer;
use super::batch::{Batch, Key, Kind, Lua, lua};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// Seconds, as the peer's own programs keep them.
const PENDING_FOR: u64 = DAY;
const HISTORY_FOR: u64 = 30 * DAY;
/// Approvals in the history's list.
const HISTORY: i64 = 1_000;
const LIST: Key = Key::fixed("hitl:history:list", Kind::List);

static COST_OF_TASK: Lua = lua!("cost_of_task");

fn pending(id: &str) -> Key {
    Key::new(format!("hitl:pending:{id}"), Kind::Text)
}

#[async_trait]
impl PeerMirror for RedisPeer {
    async fn approval_waits(&self, id: &str, json: &str) -> Result<(), PeerError> {
        let mut batch = Batch::new();
        batch.plain("SET", &[&pending(id)]).arg(json).arg("EX").arg(PENDING_FOR);
        self.line.all(batch).await.map(drop)
    }

    async fn approval_decided(&self, id: &str, json: &str) -> Result<(), PeerError> {
        let history = Key::new(format!("hitl:history:{id}"), Kind::Text);
        let mut batch = Batch::new();
        // It is in the history before it leaves the waiting ones, so it is never nowhere.
        batch.plain("SET", &[&history]).arg(json).arg("EX").arg(HISTORY_FOR);
        batch.plain("LREM", &[&LIST]).arg(0).arg(id);
        batch.plain("LPUSH", &[&LIST]).arg(id);
        batch.plain("LTRIM", &[&LIST]).arg(0).arg(HISTORY - 1);
        batch.plain("DEL", &[&pending(id)]);
        self.line.together(batch).await
    }

    async fn cost_of(&self, period: &str, cost: Cost) -> Result<(), PeerError> {
        // `2026-01-31` is a day, `2026-01-31-23` an hour.
        let (name, kept) = match period.split('-').count() {
            4 => (format!("cost:hourly:{period}"), 8 * DAY),
            _ => (format!("cost:daily:{period}"), 90 * DAY),
        };
        let key = Key::new(name, Kind::Hash);
        let mut batch = Batch::new();
        let step = batch.plain("HSET", &[&key]);
        step.arg("tokens").arg(cost.tokens).arg("usd").arg(cost.usd);
        if let Some(requests) = cost.requests {
            step.arg("requests").arg(requests);
        }
        batch.plain("EXPIRE", &[&key]).arg(kept);
        self.line.all(batch).await.map(drop)
    }

    async fn cost_of_task(&self, trace: &str, task: &str, cost: Cost) -> Result<(), PeerError> {
        let key = Key::new(format!("cost:task:{trace}"), Kind::Hash);
        let mut batch = Batch::new();
        batch
            .script(&COST_OF_TASK, &[&key])
            .arg(format!("watchbill:{task}"))
            .arg(cost.tokens)
            .arg(cost.usd)
            .arg(cost.requests.unwrap_or_default())
            .arg(90 * DAY);
        self.line.all(batch).await.map(drop)
    }
}
