//! Reputation: scores and levels of agents and external workers, projected from the ledger.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::lock::Mutex;
use watchbill_domain::{Agent, Outcome, ScoreDelta, TaskEntry, TenantId, Timestamp};
use watchbill_governance::{AgentReputation, ReputationProjection};

use super::cursor::Cursors;
use super::cursor::cursors::REPUTATION;
use super::pages::{LedgerList, newest_first};
use super::{Context, ReputationLine, ReputationPage, ServiceError, weight};
use crate::ledger::Entry;
use crate::ports::StoreError;
use crate::repo::{self, Projection, REPUTATION_FOLD, Versioned, decode};

/// A reader polls for new batches after this long. In embedded mode a change is recorded within
/// 250 ms, so a lowered level takes effect within a second of its cause.
const POLL_INTERVAL: Duration = Duration::from_millis(600);
/// After reading this many batches a reader loads the stored projection. The recorder stores it
/// every 64 batches.
const FAR_BEHIND: u64 = 128;
/// Maximum number of followed tenants; beyond that all are dropped and read again.
const TENANTS: usize = 4_096;

/// Scores and levels. Cheap to clone.
#[derive(Clone)]
pub struct Reputation {
    context: Context,
    /// How far this process has read each tenant's ledger.
    read: Arc<std::sync::Mutex<HashMap<TenantId, Arc<Mutex<CachedProjection>>>>>,
}

#[derive(Default)]
struct CachedProjection {
    fold: ReputationProjection,
    /// The last batch included.
    seq: u64,
    /// The time of the last poll, on the monotonic clock.
    looked: Option<Duration>,
}

impl Reputation {
    pub(super) fn new(context: Context) -> Self {
        Self { context, read: Arc::default() }
    }

    fn followed(&self, tenant: &TenantId) -> Arc<Mutex<CachedProjection>> {
        let mut all = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= TENANTS && !all.contains_key(tenant) {
            all.clear();
        }
        all.entry(tenant.clone()).or_default().clone()
    }

    /// An agent's current reputation; less than a second old.
    pub async fn standing(
        &self,
        tenant: &TenantId,
        agent: Agent,
    ) -> Result<AgentReputation, ServiceError> {
        Ok(self.read(tenant, agent).await?)
    }

    /// External workers with their scores, by the name in their leases; at most a second old.
    pub async fn workers(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<(String, AgentReputation)>, ServiceError> {
        let workers = |fold: &ReputationProjection, _| fold.workers.clone().into_iter().collect();
        Ok(self.with_reputation(tenant, workers).await?)
    }

    /// The same, with the store's error.
    pub(super) async fn read(
        &self,
        tenant: &TenantId,
        agent: Agent,
    ) -> Result<AgentReputation, StoreError> {
        let rules = &self.context.rules().reputation;
        self.with_reputation(tenant, |fold, now| fold.standing(agent, now, rules)).await
    }

    async fn with_reputation<T>(
        &self,
        tenant: &TenantId,
        read: impl FnOnce(&ReputationProjection, Timestamp) -> T,
    ) -> Result<T, StoreError> {
        let followed = self.followed(tenant);
        // A concurrent caller waits for the result of the poll in progress.
        let mut followed = followed.lock().await;
        let at = self.context.clock().monotonic();
        if followed.looked.is_none_or(|looked| at.saturating_sub(looked) >= POLL_INTERVAL) {
            self.read_on(tenant, &mut followed).await?;
            followed.looked = Some(at);
        }
        Ok(read(&followed.fold, self.context.clock().now()))
    }

    /// The reputation of all agents, computed from the first batch of the ledger on.
    pub async fn rebuild(&self, tenant: &TenantId) -> Result<ReputationProjection, ServiceError> {
        let ledger = self.context.ledger(tenant);
        let mut fold = ReputationProjection::default();
        for seq in 1.. {
            let Some(batch) = ledger.batch(seq).await? else { break };
            fold.apply(batch.task_entries(), &self.context.rules().reputation);
        }
        Ok(fold)
    }

    async fn read_on(
        &self,
        tenant: &TenantId,
        followed: &mut CachedProjection,
    ) -> Result<(), StoreError> {
        if followed.looked.is_none() {
            self.start_from_kept(tenant, followed).await?;
        }
        let ledger = self.context.ledger(tenant);
        let began = followed.seq;
        let mut asked = false;
        while let Some(batch) = ledger.batch(followed.seq + 1).await? {
            // No await in between: a dropped call leaves a consistent projection.
            followed.fold.apply(batch.task_entries(), &self.context.rules().reputation);
            followed.seq += 1;
            if !asked && followed.seq - began >= FAR_BEHIND {
                self.start_from_kept(tenant, followed).await?;
                asked = true;
            }
        }
        Ok(())
    }

    /// Continues from the projection that the recorder stored, if it is further.
    async fn start_from_kept(
        &self,
        tenant: &TenantId,
        followed: &mut CachedProjection,
    ) -> Result<(), StoreError> {
        let key = repo::fold_key(tenant, REPUTATION_FOLD);
        let Some(item) = self.context.store().get(&key).await? else { return Ok(()) };
        let kept: Versioned<Projection> = decode(&item)?;
        if kept.value.seq_applied > followed.seq {
            // An unreadable projection is computed again.
            if let Ok(fold) = serde_json::from_value(kept.value.state) {
                followed.fold = fold;
                followed.seq = kept.value.seq_applied;
            }
        }
        Ok(())
    }

    /// An agent's score changes, newest first.
    pub async fn events(
        &self,
        tenant: &TenantId,
        agent: Agent,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<ReputationPage, ServiceError> {
        let cursors = Cursors::new(REPUTATION, tenant, agent.as_str());
        let page =
            newest_first(&self.context, tenant, &ScoreDeltas(agent), &cursors, (limit, cursor))
                .await?;
        let (events, unreadable) = (page.entries, page.unreadable);
        Ok(ReputationPage { events, next_cursor: page.next, unreadable })
    }
}

struct ScoreDeltas(Agent);

impl ScoreDeltas {
    /// An entry's score changes for the agent, in order.
    fn score_delta<'a>(&self, entry: &'a Entry) -> Option<(&'a TaskEntry, &'a [ScoreDelta])> {
        let Entry::Task(entry) = entry else { return None };
        let own = |outcome: &&Outcome| entry.agent == self.0 && outcome.worker.is_none();
        let outcome = entry.change.outcome.as_ref().filter(own)?;
        Some((entry, &outcome.reputation))
    }
}

impl LedgerList for ScoreDeltas {
    type Item = ReputationLine;

    fn count(&self, entry: &Entry) -> usize {
        self.score_delta(entry).map_or(0, |(_, score_delta)| score_delta.len())
    }

    fn of(&self, entry: &Entry) -> Vec<Option<ReputationLine>> {
        let Some((entry, score_delta)) = self.score_delta(entry) else { return Vec::new() };
        let line = |ScoreDelta(event, delta): &ScoreDelta| ReputationLine {
            agent: self.0,
            event: *event,
            delta: *delta,
            reason: entry.change.note.clone(),
            trace_id: entry.trace_id.clone(),
            task: entry.task.clone(),
            at: entry.change.at,
        };
        score_delta.iter().map(|score_delta| Some(line(score_delta))).collect()
    }

    fn weight(line: &ReputationLine) -> usize {
        weight::reputation_line(line)
    }
}
