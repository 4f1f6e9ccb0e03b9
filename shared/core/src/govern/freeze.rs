use std::collections::BTreeSet;

use super::EnvironmentKind;
use crate::domain::{Role, Timestamp};

/// A time in which mutating work waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Freeze {
    pub name: String,
    pub reason: String,
    pub environments: BTreeSet<EnvironmentKind>,
    pub when: FreezeWhen,
    /// Who may let a task pass it: these roles, and callers of these names.
    pub override_roles: BTreeSet<Role>,
    pub override_names: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FreezeWhen {
    /// From one moment to another.
    Once { from: Timestamp, until: Timestamp },
    /// Each week, in a time zone of the IANA's table: from a weekday's minute to another's.
    Weekly { zone: jiff::tz::TimeZone, from: (i8, u16), until: (i8, u16) },
}

impl Freeze {
    /// Until when it holds, if it holds at this moment.
    pub fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.when {
            FreezeWhen::Once { from, until } => (*from <= now && now < *until).then_some(*until),
            FreezeWhen::Weekly { .. } => None,
        }
    }

    pub fn may_override(&self, name: &str, role: Role) -> bool {
        self.override_names.contains(name) || self.override_roles.iter().any(|r| role.includes(*r))
    }
}
