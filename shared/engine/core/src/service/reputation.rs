//! Reputation: scores and levels of agents and external workers, read off the ledger.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::lock::Mutex;
use watchbill_domain::{Agent, Earned, Outcome, TaskEntry, TenantId, Timestamp};
use watchbill_governance::{ReputationFold, Standing};

use super::cursor::Cursors;
use super::cursor::cursors::REPUTATION;
use super::pages::{LedgerList, newest_first};
use super::{Context, ReputationLine, ReputationPage, ServiceError, weight};
use crate::ledger::Entry;
use crate::ports::StoreError;
use crate::repo::{self, Fold, REPUTATION_FOLD, Versioned, decode};

/// A reader looks for new batches after this long. Embedded a change is recorded within 250 ms, so
/// that a fallen level counts within a second of its cause.
const LOOK_EVERY: Duration = Duration::from_millis(600);
/// A reader that is so many batches behind asks the kept fold first. The recorder keeps it
/// every 64 batches.
const FAR_BEHIND: u64 = 128;
/// Tenants that are followed at once; beyond, all are forgotten and found again.
const TENANTS: usize = 4_096;

/// Scores and levels. Cheap to clone.
#[derive(Clone)]
pub struct Reputation {
    context: Context,
    /// How far this process has read each tenant's ledger.
    read: Arc<std::sync::Mutex<HashMap<TenantId, Arc<Mutex<Followed>>>>>,
}

#[derive(Default)]
struct Followed {
    fold: ReputationFold,
    /// The last batch that is in it.
    seq: u64,
    /// When it was last looked for more, on the monotonic clock.
    looked: Option<Duration>,
}

impl Reputation {
    pub(super) fn new(context: Context) -> Self {
        Self { context, read: Arc::default() }
    }

    fn followed(&self, tenant: &TenantId) -> Arc<Mutex<Followed>> {
        let mut all = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= TENANTS && !all.contains_key(tenant) {
            all.clear();
        }
        all.entry(tenant.clone()).or_default().clone()
    }

    /// Where an agent stands now; less than a second old.
    pub async fn standing(
        &self,
        tenant: &TenantId,
        agent: Agent,
    ) -> Result<Standing, ServiceError> {
        Ok(self.read(tenant, agent).await?)
    }

    /// External workers with their scores, by the name in their leases; at most a second old.
    pub async fn workers(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<(String, Standing)>, ServiceError> {
        let workers = |fold: &ReputationFold, _| fold.workers.clone().into_iter().collect();
        Ok(self.with_reputation(tenant, workers).await?)
    }

    /// The same, with what the store said.
    pub(super) async fn read(
        &self,
        tenant: &TenantId,
        agent: Agent,
    ) -> Result<Standing, StoreError> {
        let rules = &self.context.rules().reputation;
        self.with_reputation(tenant, |fold, now| fold.standing(agent, now, rules)).await
    }

    async fn with_reputation<T>(
        &self,
        tenant: &TenantId,
        read: impl FnOnce(&ReputationFold, Timestamp) -> T,
    ) -> Result<T, StoreError> {
        let followed = self.followed(tenant);
        // Whoever comes while another looks waits for what it finds.
        let mut followed = followed.lock().await;
        let at = self.context.clock().monotonic();
        if followed.looked.is_none_or(|looked| at.saturating_sub(looked) >= LOOK_EVERY) {
            self.read_on(tenant, &mut followed).await?;
            followed.looked = Some(at);
        }
        Ok(read(&followed.fold, self.context.clock().now()))
    }

    /// Score and level of every agent, worked out from the first batch of the ledger on.
    pub async fn rebuild(&self, tenant: &TenantId) -> Result<ReputationFold, ServiceError> {
        let ledger = self.context.ledger(tenant);
        let mut fold = ReputationFold::default();
        for seq in 1.. {
            let Some(batch) = ledger.batch(seq).await? else { break };
            fold.apply(batch.task_entries(), &self.context.rules().reputation);
        }
        Ok(fold)
    }

    async fn read_on(&self, tenant: &TenantId, followed: &mut Followed) -> Result<(), StoreError> {
        if followed.looked.is_none() {
            self.start_from_kept(tenant, followed).await?;
        }
        let ledger = self.context.ledger(tenant);
        let began = followed.seq;
        let mut asked = false;
        while let Some(batch) = ledger.batch(followed.seq + 1).await? {
            // Both at once: a call that is given up in between leaves a whole fold behind.
            followed.fold.apply(batch.task_entries(), &self.context.rules().reputation);
            followed.seq += 1;
            if !asked && followed.seq - began >= FAR_BEHIND {
                self.start_from_kept(tenant, followed).await?;
                asked = true;
            }
        }
        Ok(())
    }

    /// Goes on from what the recorder kept, where that is further.
    async fn start_from_kept(
        &self,
        tenant: &TenantId,
        followed: &mut Followed,
    ) -> Result<(), StoreError> {
        let key = repo::fold_key(tenant, REPUTATION_FOLD);
        let Some(item) = self.context.store().get(&key).await? else { return Ok(()) };
        let kept: Versioned<Fold> = decode(&item)?;
        if kept.value.seq_applied > followed.seq {
            // What can't be read is worked out anew.
            if let Ok(fold) = serde_json::from_value(kept.value.state) {
                followed.fold = fold;
                followed.seq = kept.value.seq_applied;
            }
        }
        Ok(())
    }

    /// What an agent earned, newest first.
    pub async fn events(
        &self,
        tenant: &TenantId,
        agent: Agent,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<ReputationPage, ServiceError> {
        let cursors = Cursors::new(REPUTATION, tenant, agent.as_str());
        let page = newest_first(&self.context, tenant, &EarnedBy(agent), &cursors, (limit, cursor))
            .await?;
        let (events, unreadable) = (page.entries, page.unreadable);
        Ok(ReputationPage { events, next_cursor: page.next, unreadable })
    }
}

struct EarnedBy(Agent);

impl EarnedBy {
    /// What an entry earned the agent, in its order.
    fn earned<'a>(&self, entry: &'a Entry) -> Option<(&'a TaskEntry, &'a [Earned])> {
        let Entry::Task(entry) = entry else { return None };
        let own = |outcome: &&Outcome| entry.agent == self.0 && outcome.worker.is_none();
        let outcome = entry.change.outcome.as_ref().filter(own)?;
        Some((entry, &outcome.reputation))
    }
}

impl LedgerList for EarnedBy {
    type Item = ReputationLine;

    fn count(&self, entry: &Entry) -> usize {
        self.earned(entry).map_or(0, |(_, earned)| earned.len())
    }

    fn of(&self, entry: &Entry) -> Vec<Option<ReputationLine>> {
        let Some((entry, earned)) = self.earned(entry) else { return Vec::new() };
        let line = |Earned(event, delta): &Earned| ReputationLine {
            agent: self.0,
            event: *event,
            delta: *delta,
            reason: entry.change.note.clone(),
            trace_id: entry.trace_id.clone(),
            task: entry.task.clone(),
            at: entry.change.at,
        };
        earned.iter().map(|earned| Some(line(earned))).collect()
    }

    fn weight(line: &ReputationLine) -> usize {
        weight::reputation_line(line)
    }
}
