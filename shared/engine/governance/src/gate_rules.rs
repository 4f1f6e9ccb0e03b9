//! Which work waits for a person: the configuration of the standing gates.

use std::collections::BTreeSet;

use watchbill_domain::{Priority, TaskType, UnknownName};

#[derive(Clone, Debug, PartialEq)]
pub struct GateRules {
    /// Priorities that wait for a person.
    pub priorities: BTreeSet<Priority>,
    /// Which work of these priorities does.
    pub priorities_for: PrioritiesFor,
    /// Types that wait for a person when their environment is production.
    pub production: BTreeSet<TaskType>,
    /// Whether `metadata.feature_flag_change` waits for a person.
    pub feature_flags: bool,
}

/// Which work the gate of priorities is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PrioritiesFor {
    /// Also what only reads.
    #[default]
    All,
    /// What changes something, or may: nobody here knows what an external worker does.
    Mutating,
}

impl PrioritiesFor {
    pub fn as_str(self) -> &'static str {
        match self {
            PrioritiesFor::All => "all",
            PrioritiesFor::Mutating => "mutating",
        }
    }

    pub fn parse(text: &str) -> Result<Self, UnknownName> {
        match text {
            "all" => Ok(PrioritiesFor::All),
            "mutating" => Ok(PrioritiesFor::Mutating),
            _ => Err(UnknownName {
                what: "priorities_for",
                value: watchbill_redact::shortened(text, 64),
                known: "all, mutating".to_owned(),
            }),
        }
    }
}

impl GateRules {
    /// No gate at all.
    pub fn off() -> Self {
        Self {
            priorities: BTreeSet::new(),
            priorities_for: PrioritiesFor::default(),
            production: BTreeSet::new(),
            feature_flags: false,
        }
    }
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            priorities: [Priority::P0, Priority::P1].into(),
            priorities_for: PrioritiesFor::default(),
            production: [TaskType::Deploy, TaskType::Feature, TaskType::Refactor].into(),
            feature_flags: true,
        }
    }
}
