use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use watchbill_domain::{Agent, Earned, ReputationEvent, TaskEntry, TaskId, Timestamp};

use super::Level;

/// The figures; all of them are configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ReputationRules {
    pub deltas: BTreeMap<ReputationEvent, i16>,
    pub start: u16,
    pub most: u16,
    /// Lowest score of each level.
    pub levels: BTreeMap<Level, u16>,
    /// What an agent that does nothing loses in each whole `decay_every`, in percent …
    pub decay_percent: u8,
    pub decay_every: Duration,
    /// … but never below this.
    pub decay_floor: u16,
    /// Below this an alert is raised.
    pub alert_below: u16,
    /// Points that an agent may earn in a UTC day by runs that change nothing.
    pub read_only_per_day: u16,
}

/// External workers whose scores are kept for a tenant, so that the fold stays one small item.
/// Beyond, the one that was heard of longest ago is forgotten.
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
    /// An event with its present worth.
    pub fn earned(&self, event: ReputationEvent) -> Earned {
        Earned(event, self.deltas.get(&event).copied().unwrap_or_default())
    }

    /// The level that a score is good for. `milli`: thousandths of a point.
    pub fn level_of(&self, milli: u32) -> Level {
        let reached = self.levels.iter().filter(|(_, from)| u32::from(**from) * 1000 <= milli);
        reached.map(|(level, _)| *level).max().unwrap_or(Level::SandboxOnly)
    }

    /// The level after the present one, and how many points of score are missing to it. None
    /// are where the score is good for it already: the next success brings it.
    pub fn next(&self, standing: &Standing) -> Option<(Level, f64)> {
        let next = standing.level.next()?;
        let from = u32::from(*self.levels.get(&next)?) * 1000;
        Some((next, f64::from(from.saturating_sub(standing.milli)) / 1000.0))
    }

    /// How an agent stands before its first event.
    fn newcomer(&self) -> Standing {
        let milli = u32::from(self.start.min(self.most)) * 1000;
        Standing {
            milli,
            level: Level::SandboxOnly,
            last: None,
            events: 0,
            read_only: ReadOnlyDay::default(),
        }
    }

    /// What inactivity leaves of a score. One that is at or below the floor stays.
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
            let next = u32::try_from(next).expect("a part of it is no more than it").max(floor);
            if next == milli {
                break;
            }
            milli = next;
        }
        milli
    }
}

/// Where an agent stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Thousandths of a point, so that decay is exact.
    pub milli: u32,
    pub level: Level,
    /// Its last event; decay counts from here.
    pub last: Option<Timestamp>,
    pub events: u64,
    /// What runs that changed nothing have earned it today.
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
    /// As it counts for an event: entries may stand in the ledger against their times, and one
    /// of an earlier day counts in the latest, or two days in turn would begin anew each time.
    fn at(self, at: Timestamp) -> Self {
        let day = at.millis().div_euclid(DAY_MILLIS);
        if day > self.day { Self { day, points: 0 } } else { self }
    }
}

impl Standing {
    pub fn score(&self) -> f64 {
        f64::from(self.milli) / 1000.0
    }

    /// With what inactivity has taken until a moment. It may lower the level, never raise it.
    fn at(&self, now: Timestamp, rules: &ReputationRules) -> Self {
        let idle = self.last.map_or(Duration::ZERO, |last| now.since(last));
        let milli = rules.decayed(self.milli, idle);
        Self { milli, level: self.level.min(rules.level_of(milli)), ..*self }
    }

    /// After one more event. Its level is worked out anew: a good one may raise it.
    /// `read_only`: it came of a run that changed nothing.
    fn after(
        &self,
        earned: Earned,
        read_only: bool,
        at: Timestamp,
        rules: &ReputationRules,
    ) -> Self {
        let Earned(_, delta) = earned;
        let mut day = self.read_only;
        if read_only {
            day = day.at(at);
            day.points = day.points.saturating_add(u32::try_from(delta).unwrap_or(0));
        }
        let idle = self.at(at, rules);
        let most = i64::from(rules.most) * 1000;
        let milli = (i64::from(idle.milli) + i64::from(delta) * 1000).clamp(0, most);
        let milli = u32::try_from(milli).expect("it is within 0 and 65,535,000");
        let worth = rules.level_of(milli);
        Self {
            milli,
            level: if delta > 0 { worth } else { idle.level.min(worth) },
            // Entries of different tasks may stand in the ledger against their times.
            last: Some(self.last.map_or(at, |last| last.max(at))),
            events: self.events + 1,
            read_only: day,
        }
    }
}

/// A level that changed, or a score that fell below the line for alerts, by one event.
#[derive(Clone, Debug, PartialEq)]
pub struct StandingChange {
    pub agent: Agent,
    pub before: Standing,
    pub after: Standing,
    pub earned: Earned,
    pub at: Timestamp,
    /// The change of a task that brought it: task, version, place among its events.
    pub task: TaskId,
    pub version: u64,
    pub place: usize,
    pub trace_id: String,
    /// It is below the line now and was not before.
    pub alert: bool,
}

/// Score and level of every agent of a tenant, and the scores of external workers, folded over the
/// ledger in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReputationFold {
    pub agents: BTreeMap<Agent, Standing>,
    /// By the name in their leases. No right depends on these.
    #[serde(default)]
    pub workers: BTreeMap<String, Standing>,
}

impl ReputationFold {
    /// Takes the changes of one batch of the ledger in.
    pub fn apply<'e>(
        &mut self,
        entries: impl IntoIterator<Item = &'e TaskEntry>,
        rules: &ReputationRules,
    ) {
        for entry in entries {
            self.apply_entry(entry, rules);
        }
    }

    /// Lowers what a change that is about to be recorded earns to what its day has left, if its
    /// run changed nothing. What is recorded is what counts: a rebuild needs no limit.
    pub fn limit(&self, entry: &mut TaskEntry, rules: &ReputationRules) {
        let (agent, at) = (entry.agent, entry.change.at);
        let Some(outcome) = &mut entry.change.outcome else { return };
        if !outcome.read_only || outcome.worker.is_some() {
            return;
        }
        let day = self.agents.get(&agent).map(|standing| standing.read_only).unwrap_or_default();
        let mut left = u32::from(rules.read_only_per_day).saturating_sub(day.at(at).points);
        for Earned(_, delta) in &mut outcome.reputation {
            let points = u32::try_from(*delta).unwrap_or(0);
            if points > left {
                *delta = i16::try_from(left).expect("it is less than the delta was");
            }
            left -= points.min(left);
        }
    }

    /// Takes one change of a task in, and says what of it is worth telling.
    pub fn apply_entry(
        &mut self,
        entry: &TaskEntry,
        rules: &ReputationRules,
    ) -> Vec<StandingChange> {
        let Some(outcome) = &entry.change.outcome else { return Vec::new() };
        let (at, read_only) = (entry.change.at, outcome.read_only);
        if let Some(worker) = &outcome.worker {
            for earned in &outcome.reputation {
                let before = self.worker(worker, rules);
                self.workers.insert(worker.clone(), before.after(*earned, false, at, rules));
            }
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (place, earned) in outcome.reputation.iter().enumerate() {
            let before = self.agents.remove(&entry.agent).unwrap_or_else(|| rules.newcomer());
            let after = before.after(*earned, read_only, at, rules);
            let line = u32::from(rules.alert_below) * 1000;
            let alert = after.milli < line && before.milli >= line;
            self.agents.insert(entry.agent, after.clone());
            if alert || after.level != before.level {
                changes.push(StandingChange {
                    agent: entry.agent,
                    before,
                    after,
                    earned: *earned,
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

    /// Where a worker stands before its next event. There is room for it afterwards.
    fn worker(&mut self, worker: &str, rules: &ReputationRules) -> Standing {
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

    /// As it stands at a moment, with what inactivity has taken since its last event.
    pub fn standing(&self, agent: Agent, now: Timestamp, rules: &ReputationRules) -> Standing {
        match self.agents.get(&agent) {
            Some(standing) => standing.at(now, rules),
            None => rules.newcomer(),
        }
    }
}
