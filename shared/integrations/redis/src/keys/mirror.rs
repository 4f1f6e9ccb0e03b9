//! Approvals and cost, for the peer's programs. These write under the same keys, and decide by
//! the sums: a sum is added to and never lowered, an approval of theirs stays as it is, and
//! keys that they began keep the expiry that they gave them.

use watchbill_wire::peer::{Cost, CostOf, PeerError};

use super::RedisKeys;
use crate::batch::{Batch, Key, Kind, Lua, lua};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// Seconds, as the peer's own programs keep them.
const PENDING_FOR: u64 = DAY;
const HISTORY_FOR: u64 = 30 * DAY;
/// Approvals in the history's list.
const HISTORY: i64 = 1_000;
const LIST: Key = Key::fixed("hitl:history:list", Kind::List);

static ADD_COST: Lua = lua!("add_cost");
static SHOW: Lua = lua!("show");
static HIDE: Lua = lua!("hide");

fn pending(id: &str) -> Key {
    Key::new(format!("hitl:pending:{id}"), Kind::Text)
}

/// The key of a sum, and how long it is kept where we begin it: as long as by its owner.
fn sum_of(sum: &CostOf) -> (Key, u64) {
    let (name, kept) = match sum {
        CostOf::Day(day) => (format!("cost:daily:{day}"), 7 * DAY),
        CostOf::Hour(hour) => (format!("cost:hourly:{hour}"), DAY),
        CostOf::Trace(trace) => (format!("cost:task:{trace}"), 30 * DAY),
    };
    (Key::new(name, Kind::Hash), kept)
}

impl RedisKeys {
    /// A key of ours in the slot of one of theirs. Nothing in a cluster where their name has a
    /// brace of which no tag can be made.
    fn beside(&self, theirs: &Key, what: &str, kind: Kind) -> Option<Key> {
        let tagged = theirs.name.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        let name = match tagged {
            Some((tag, _)) if !tag.is_empty() => format!("watchbill:{}:{what}", theirs.name),
            _ if theirs.name.contains('}') && self.line.address().is_cluster() => {
                tracing::warn!(key = %theirs, "not shown in this cluster: its name has a '}}'");
                return None;
            }
            _ => format!("watchbill:{{{}}}:{what}", theirs.name),
        };
        Some(Key::new(name, kind))
    }

    async fn show(&self, theirs: &Key, json: &str, kept: u64) -> Result<bool, PeerError> {
        let Some(mark) = self.beside(theirs, "shown", Kind::Text) else { return Ok(false) };
        let mut batch = Batch::new();
        batch.script(&SHOW, &[theirs, &mark]).arg(json).arg(kept);
        self.line.one(batch).await
    }
}

impl RedisKeys {
    pub async fn approval_waits(&self, id: &str, json: &str) -> Result<bool, PeerError> {
        self.show(&pending(id), json, PENDING_FOR).await
    }

    pub async fn approval_decided(&self, id: &str, json: &str) -> Result<bool, PeerError> {
        let history = Key::new(format!("hitl:history:{id}"), Kind::Text);
        // It is in the history before it leaves the waiting ones, so it is never nowhere.
        let shown = self.show(&history, json, HISTORY_FOR).await?;
        if shown {
            let mut batch = Batch::new();
            batch.plain("LREM", &[&LIST]).arg(0).arg(id);
            batch.plain("LPUSH", &[&LIST]).arg(id);
            batch.plain("LTRIM", &[&LIST]).arg(0).arg(HISTORY - 1);
            self.line.together(batch).await?;
        }
        let waiting = pending(id);
        if let Some(mark) = self.beside(&waiting, "shown", Kind::Text) {
            let mut batch = Batch::new();
            batch.script(&HIDE, &[&waiting, &mark]);
            self.line.all(batch).await?;
        }
        Ok(shown)
    }

    pub async fn add_cost(&self, sum: &CostOf, part: &str, so_far: Cost) -> Result<(), PeerError> {
        let (theirs, kept) = sum_of(sum);
        let Some(added) = self.beside(&theirs, "added", Kind::Hash) else { return Ok(()) };
        // An older build's note of a task stood in the sum; days it kept for 90 days, hours for 8.
        let (old_note, old_life) = match sum {
            CostOf::Day(_) => (String::new(), 80 * DAY),
            CostOf::Hour(_) => (String::new(), 7 * DAY),
            CostOf::Trace(_) => {
                let task = part.split_once(' ').map_or(part, |(_, task)| task);
                (format!("watchbill:{task}"), 0)
            }
        };
        let mut batch = Batch::new();
        batch
            .script(&ADD_COST, &[&theirs, &added])
            .arg(part)
            .arg(so_far.tokens)
            .arg(so_far.usd)
            .arg(so_far.requests.map(|n| n.to_string()).unwrap_or_default())
            .arg(kept)
            // What is added later must find it.
            .arg(3 * kept)
            .arg(old_note)
            .arg(old_life);
        self.line.all(batch).await.map(drop)
    }
}
