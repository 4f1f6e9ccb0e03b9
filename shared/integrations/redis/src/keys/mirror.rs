//! Approvals and cost for legacy programs, which write the same keys and decide by the sums. So
//! a sum only grows, their approvals are not changed, and keys that they created keep their
//! expiry.

use watchbill_wire::legacy::{Cost, CostOf, LegacyError};

use super::RedisKeys;
use crate::batch::{Batch, Key, Kind, Lua, lua};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// Expiry in seconds, as in the legacy programs.
const PENDING_FOR: u64 = DAY;
const HISTORY_FOR: u64 = 30 * DAY;
/// The most approvals in the history list.
const HISTORY: i64 = 1_000;
const LIST: Key = Key::fixed("hitl:history:list", Kind::List);

static ADD_COST: Lua = lua!("add_cost");
static SHOW: Lua = lua!("show");
static HIDE: Lua = lua!("hide");

fn pending(id: &str) -> Key {
    Key::new(format!("hitl:pending:{id}"), Kind::Text)
}

/// The key of a sum, and its expiry if we create it: as its owner sets it.
fn sum_of(sum: &CostOf) -> (Key, u64) {
    let (name, kept) = match sum {
        CostOf::Day(day) => (format!("cost:daily:{day}"), 7 * DAY),
        CostOf::Hour(hour) => (format!("cost:hourly:{hour}"), DAY),
        CostOf::Trace(trace) => (format!("cost:task:{trace}"), 30 * DAY),
    };
    (Key::new(name, Kind::Hash), kept)
}

impl RedisKeys {
    /// A key of ours in the same cluster slot as one of theirs. `None` in a cluster if their
    /// name has a brace that allows no hash tag.
    fn beside(&self, theirs: &Key, what: &str, kind: Kind) -> Option<Key> {
        let tagged = theirs.name.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        let name = match tagged {
            Some((tag, _)) if !tag.is_empty() => format!("watchbill:{}:{what}", theirs.name),
            _ if theirs.name.contains('}') && self.line.address().is_cluster() => {
                tracing::warn!(key = %theirs, "not mirrored in this cluster: the key has a '}}'");
                return None;
            }
            _ => format!("watchbill:{{{}}}:{what}", theirs.name),
        };
        Some(Key::new(name, kind))
    }

    async fn show(&self, theirs: &Key, json: &str, kept: u64) -> Result<bool, LegacyError> {
        let Some(mark) = self.beside(theirs, "shown", Kind::Text) else { return Ok(false) };
        let mut batch = Batch::new();
        batch.script(&SHOW, &[theirs, &mark]).arg(json).arg(kept);
        self.line.one(batch).await
    }
}

impl RedisKeys {
    pub async fn approval_waits(&self, id: &str, json: &str) -> Result<bool, LegacyError> {
        self.show(&pending(id), json, PENDING_FOR).await
    }

    pub async fn approval_decided(&self, id: &str, json: &str) -> Result<bool, LegacyError> {
        let history = Key::new(format!("hitl:history:{id}"), Kind::Text);
        // It enters the history before it leaves the pending ones, so it is always in one of
        // them.
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

    pub async fn add_cost(
        &self,
        sum: &CostOf,
        part: &str,
        so_far: Cost,
    ) -> Result<(), LegacyError> {
        let (theirs, kept) = sum_of(sum);
        let Some(added) = self.beside(&theirs, "added", Kind::Hash) else { return Ok(()) };
        // An older build kept its note of a task in the sum; it kept days for 90 days, hours
        // for 8.
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
            // Later additions must find it.
            .arg(3 * kept)
            .arg(old_note)
            .arg(old_life);
        self.line.all(batch).await.map(drop)
    }
}
