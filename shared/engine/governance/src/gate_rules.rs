//! Configuration of the standing gates: which work requires approval.

use std::collections::BTreeSet;

use watchbill_domain::{Priority, TaskType, UnknownName};

#[derive(Clone, Debug, PartialEq)]
pub struct GateRules {
    /// Priorities that require approval.
    pub priorities: BTreeSet<Priority>,
    /// Which work of these priorities requires it.
    pub priorities_for: PrioritiesFor,
    /// Types that require approval when their environment is production.
    pub production: BTreeSet<TaskType>,
    /// Whether `metadata.feature_flag_change` requires approval.
    pub feature_flags: bool,
}

/// Which work the priority gate applies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PrioritiesFor {
    /// Also work that only reads.
    #[default]
    All,
    /// Work that changes something or may do so: what an external worker does is unknown here.
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
