//! Reputation: score and level of agents and external workers, as a projection of the ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use watchbill_domain::{Agent, ReputationEvent, ScoreDelta, TaskEntry, TaskId, Timestamp};

use super::Level;

/// Points, levels and decay; all of it is configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ReputationRules {
    pub deltas: BTreeMap<ReputationEvent, i16>,
    pub start: u16,
    pub most: u16,
    /// Lowest score of each level.
    pub levels: BTreeMap<Level, u16>,
    /// Percent of its score that an idle agent loses in each whole `decay_every`.
    pub decay_percent: u8,
    pub decay_every: Duration,
    /// Decay never goes below this score.
    pub decay_floor: u16,
    /// A score that falls below this raises an alert.
    pub alert_below: u16,
    /// Points that an agent may earn in a UTC day by runs that change nothing.
    pub read_only_per_day: u16,
}

/// External workers whose scores are kept per tenant, so that the projection stays one small
/// item. Beyond that, the one with the oldest last event is removed.
const MAX_WORKERS: usize = 256;
const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

impl Default for ReputationRules {
    fn default() -> Self {
        use ReputationEvent::*;
        let deltas = [
            (TaskSuccess, 2),
            (TaskFailure, -3),
            (PermissionDenied, -8),
            (BudgetExceeded, -10),
            (ViolationDetected, -20),
            (HumanEscalation, -8),
            (PrMerged, 5),
            (PrReverted, -15),
            (TestPassed, 2),
            (TestFailed, -3),
            (CiSuccess, 1),
            (CiFailure, -2),
        ];
        let levels = [
            (Level::SandboxOnly, 0),
            (Level::StagingAccess, 90),
            (Level::ProdLowRisk, 130),
            (Level::ProdFullAccess, 160),
        ];
        Self {
            deltas: deltas.into(),
            start: 100,
            most: 200,
            levels: levels.into(),
            decay_percent: 1,
            decay_every: Duration::from_secs(7 * 24 * 60 * 60),
            decay_floor: 50,
            alert_below: 70,
            read_only_per_day: 10,
        }
    }
}

impl ReputationRules {
    /// An event with its points as configured now.
    pub fn score_delta(&self, event: ReputationEvent) -> ScoreDelta {
        ScoreDelta(event, self.deltas.get(&event).copied().unwrap_or_default())
    }

    /// The level that a score reaches. `milli`: thousandths of a point.
    pub fn level_of(&self, milli: u32) -> Level {
        let reached = self.levels.iter().filter(|(_, from)| u32::from(**from) * 1000 <= milli);
        reached.map(|(level, _)| *level).max().unwrap_or(Level::SandboxOnly)
    }

    /// The next level, and the points missing to reach it. Zero points if the score suffices
    /// already: then the next success raises the level.
    pub fn next(&self, standing: &AgentReputation) -> Option<(Level, f64)> {
        let next = standing.level.next()?;
        let from = u32::from(*self.levels.get(&next)?) * 1000;
        Some((next, f64::from(from.saturating_sub(standing.milli)) / 1000.0))
    }

    /// Reputation of an agent before its first event.
    fn newcomer(&self) -> AgentReputation {
        let milli = u32::from(self.start.min(self.most)) * 1000;
        AgentReputation {
            milli,
            level: Level::SandboxOnly,
            last: None,
            events: 0,
            read_only: ReadOnlyDay::default(),
        }
    }

    /// The score after inactivity. A score at or below the floor does not decay.
    fn decayed(&self, milli: u32, idle: Duration) -> u32 {
        let floor = u32::from(self.decay_floor) * 1000;
        let periods = idle.as_millis().checked_div(self.decay_every.as_millis()).unwrap_or(0);
        let kept = 100 - u64::from(self.decay_percent.min(100));
        let mut milli = milli;
        for _ in 0..periods {
            if milli <= floor {
                break;
            }
            let next = u64::from(milli) * kept / 100;
            let next =
                u32::try_from(next).expect("a percentage of a u32 fits into a u32").max(floor);
            if next == milli {
                break;
            }
            milli = next;
        }
        milli
    }
}

/// Score and level of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReputation {
    /// Thousandths of a point, so that decay is exact.
    pub milli: u32,
    pub level: Level,
    /// Its last event. Decay counts from here.
    pub last: Option<Timestamp>,
    pub events: u64,
    /// Points that runs which changed nothing have earned in the latest day.
    #[serde(default)]
    pub read_only: ReadOnlyDay,
}

/// Points that runs which changed nothing have earned in one UTC day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnlyDay {
    /// Days since 1970.
    pub day: i64,
    pub points: u32,
}

impl ReadOnlyDay {
    /// The count that applies to an event at `at`. Entries of the ledger may be out of time
    /// order: one of an earlier day counts in the latest day, or alternating days would reset
    /// the count each time.
    fn at(self, at: Timestamp) -> Self {
        let day = at.millis().div_euclid(DAY_MILLIS);
        if day > self.day { Self { day, points: 0 } } else { self }
    }
}

impl AgentReputation {
    pub fn score(&self) -> f64 {
        f64::from(self.milli) / 1000.0
    }

    /// The reputation at `now`, after inactivity. Inactivity may lower the level, never raise
    /// it.
    fn at(&self, now: Timestamp, rules: &ReputationRules) -> Self {
        let idle = self.last.map_or(Duration::ZERO, |last| now.since(last));
        let milli = rules.decayed(self.milli, idle);
        Self { milli, level: self.level.min(rules.level_of(milli)), ..*self }
    }

    /// The reputation after one more event. Its level is recomputed; a positive event may raise
    /// it. `read_only`: the event comes from a run that changed nothing.
    fn after(
        &self,
        score_delta: ScoreDelta,
        read_only: bool,
        at: Timestamp,
        rules: &ReputationRules,
    ) -> Self {
        let ScoreDelta(_, delta) = score_delta;
        let mut day = self.read_only;
        if read_only {
            day = day.at(at);
            day.points = day.points.saturating_add(u32::try_from(delta).unwrap_or(0));
        }
        let idle = self.at(at, rules);
        let most = i64::from(rules.most) * 1000;
        let milli = (i64::from(idle.milli) + i64::from(delta) * 1000).clamp(0, most);
        let milli = u32::try_from(milli).expect("it is between 0 and 65,535,000");
        let worth = rules.level_of(milli);
        Self {
            milli,
            level: if delta > 0 { worth } else { idle.level.min(worth) },
            // Entries of different tasks may be out of time order in the ledger.
            last: Some(self.last.map_or(at, |last| last.max(at))),
            events: self.events + 1,
            read_only: day,
        }
    }
}

/// A change of level, or a score that fell below the alert threshold, caused by one event.
#[derive(Clone, Debug, PartialEq)]
pub struct ReputationChange {
    pub agent: Agent,
    pub before: AgentReputation,
    pub after: AgentReputation,
    pub score_delta: ScoreDelta,
    pub at: Timestamp,
    /// The change of a task that caused it: task, version, index among its score changes.
    pub task: TaskId,
    pub version: u64,
    pub place: usize,
    pub trace_id: String,
    /// The score is below the alert threshold now and was not before.
    pub alert: bool,
}

/// Score and level of every agent of a tenant, and the scores of external workers, as a
/// projection of the ledger in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReputationProjection {
    pub agents: BTreeMap<Agent, AgentReputation>,
    /// By owner name of their leases. No authorization depends on these.
    #[serde(default)]
    pub workers: BTreeMap<String, AgentReputation>,
}

impl ReputationProjection {
    /// Applies the changes of one batch of the ledger.
    pub fn apply<'e>(
        &mut self,
        entries: impl IntoIterator<Item = &'e TaskEntry>,
        rules: &ReputationRules,
    ) {
        for entry in entries {
            self.apply_entry(entry, rules);
        }
    }

    /// If the run changed nothing, lowers the points of a change that is about to be recorded
    /// to what its day has left. The recorded points are what counts: a rebuild needs no limit.
    pub fn limit(&self, entry: &mut TaskEntry, rules: &ReputationRules) {
        let (agent, at) = (entry.agent, entry.change.at);
        let Some(outcome) = &mut entry.change.outcome else { return };
        if !outcome.read_only || outcome.worker.is_some() {
            return;
        }
        let day = self.agents.get(&agent).map(|standing| standing.read_only).unwrap_or_default();
        let mut left = u32::from(rules.read_only_per_day).saturating_sub(day.at(at).points);
        for ScoreDelta(_, delta) in &mut outcome.reputation {
            let points = u32::try_from(*delta).unwrap_or(0);
            if points > left {
                *delta = i16::try_from(left).expect("it is less than the delta");
            }
            left -= points.min(left);
        }
    }

    /// Applies one change of a task, and returns the changes of reputation to report.
    pub fn apply_entry(
        &mut self,
        entry: &TaskEntry,
        rules: &ReputationRules,
    ) -> Vec<ReputationChange> {
        let Some(outcome) = &entry.change.outcome else { return Vec::new() };
        let (at, read_only) = (entry.change.at, outcome.read_only);
        if let Some(worker) = &outcome.worker {
            for score_delta in &outcome.reputation {
                let before = self.worker(worker, rules);
                self.workers.insert(worker.clone(), before.after(*score_delta, false, at, rules));
            }
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (place, score_delta) in outcome.reputation.iter().enumerate() {
            let before = self.agents.remove(&entry.agent).unwrap_or_else(|| rules.newcomer());
            let after = before.after(*score_delta, read_only, at, rules);
            let line = u32::from(rules.alert_below) * 1000;
            let alert = after.milli < line && before.milli >= line;
            self.agents.insert(entry.agent, after.clone());
            if alert || after.level != before.level {
                changes.push(ReputationChange {
                    agent: entry.agent,
                    before,
                    after,
                    score_delta: *score_delta,
                    at,
                    task: entry.task.clone(),
                    version: entry.change.version,
                    place,
                    trace_id: entry.trace_id.clone(),
                    alert,
                });
            }
        }
        changes
    }

    /// Removes and returns a worker's reputation before its next event. Afterwards there is
    /// room to insert it.
    fn worker(&mut self, worker: &str, rules: &ReputationRules) -> AgentReputation {
        if let Some(known) = self.workers.remove(worker) {
            return known;
        }
        while self.workers.len() >= MAX_WORKERS {
            let oldest = self.workers.iter().min_by_key(|(name, known)| (known.last, *name));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            self.workers.remove(&oldest);
        }
        rules.newcomer()
    }

    /// An agent's reputation at `now`, after inactivity since its last event.
    pub fn standing(
        &self,
        agent: Agent,
        now: Timestamp,
        rules: &ReputationRules,
    ) -> AgentReputation {
        match self.agents.get(&agent) {
            Some(standing) => standing.at(now, rules),
            None => rules.newcomer(),
        }
    }
}
