use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Level;
use crate::domain::{Agent, Timestamp, UnknownName, names};
use crate::ledger::Batch;

names!(
    /// Something that changes an agent's score.
    ReputationEvent, "reputation event", [
        TaskSuccess = "task_success",
        TaskFailure = "task_failure",
        PermissionDenied = "permission_denied",
        BudgetExceeded = "budget_exceeded",
        ViolationDetected = "violation_detected",
        HumanEscalation = "human_escalation",
        PrMerged = "pr_merged",
        PrReverted = "pr_reverted",
        TestPassed = "test_passed",
        TestFailed = "test_failed",
        CiSuccess = "ci_success",
        CiFailure = "ci_failure",
    ]
);

/// A reputation event with what it was worth when it happened: a rebuild after the figures
/// were changed gives the same score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earned(pub ReputationEvent, pub i16);

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
}

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
        }
    }
}

impl ReputationRules {
    /// An event with its present worth.
    pub fn earned(&self, event: ReputationEvent) -> Earned {
        Earned(event, self.deltas.get(&event).copied().unwrap_or_default())
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
}

/// A level that changed, or a score that fell below the line for alerts, by one event.
#[derive(Clone, Debug, PartialEq)]
pub struct StandingChange {
    pub agent: Agent,
    pub before: Standing,
    pub after: Standing,
    pub earned: Earned,
    pub at: Timestamp,
    /// It is below the line now and was not before.
    pub alert: bool,
}

/// Score and level of every agent of a tenant, folded over the ledger in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReputationFold {
    pub agents: BTreeMap<Agent, Standing>,
}

impl ReputationFold {
    pub fn apply(&mut self, batch: &Batch, rules: &ReputationRules) {
        let _ = (batch, rules);
    }

    /// As it stands at a moment, with what inactivity has taken since its last event.
    pub fn standing(&self, agent: Agent, now: Timestamp, rules: &ReputationRules) -> Standing {
        let _ = (agent, now, rules);
        Standing { milli: 0, level: Level::SandboxOnly, last: None, events: 0 }
    }
}

impl Standing {
    pub fn score(&self) -> f64 {
        f64::from(self.milli) / 1000.0
    }
}
