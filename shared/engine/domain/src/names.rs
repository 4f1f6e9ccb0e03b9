//! Enums of names with fixed spellings: task types, priorities, statuses and agents.

/// An unknown name; lists the known ones.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} '{value}': use one of {known}")]
pub struct UnknownName {
    pub what: &'static str,
    pub value: String,
    pub known: String,
}

/// A name as an error shows it: shortened, without secrets.
#[doc(hidden)]
pub fn shortened_word(text: &str) -> String {
    watchbill_redact::shortened(text, 64)
}

/// Defines an enum of names, each with one spelling and optional aliases that are also parsed.
#[macro_export]
macro_rules! names {
    ($(#[$doc:meta])* $name:ident, $what:literal, [$($variant:ident = $text:literal $(| $alias:literal)*),+ $(,)?]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name { $(#[serde(rename = $text)] $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Every text that [`parse`](Self::parse) accepts, aliases included.
            pub const SPELLINGS: &'static [&'static str] = &[$($text $(, $alias)*),+];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// Accepts the name itself and its aliases.
            pub fn parse(text: &str) -> Result<Self, $crate::UnknownName> {
                match text {
                    $($text $(| $alias)* => Ok($name::$variant),)+
                    _ => Err($crate::UnknownName {
                        what: $what,
                        value: $crate::shortened_word(text),
                        known: [$($text),+].join(", "),
                    }),
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

names!(
    /// The kind of work of a task.
    TaskType, "type", [
        Faq = "faq",
        Bugfix = "bugfix",
        Deploy = "deploy" | "deployment",
        Investigate = "investigate",
        Monitor = "monitor" | "monitoring",
        Alert = "alert" | "incident",
        Refactor = "refactor",
        Feature = "feature",
        KbUpdate = "kb_update" | "faq_update" | "documentation" | "knowledge_sync",
        Devops = "devops",
        OpsCycle = "ops_cycle",
    ]
);

names!(
    /// P0 comes before P1, P1 before P2, P2 before P3.
    Priority, "priority", [
        P0 = "P0" | "critical",
        P1 = "P1" | "high",
        P2 = "P2" | "medium",
        P3 = "P3" | "low",
    ]
);

names!(
    /// The state of a task.
    Status, "status", [
        Pending = "pending",
        Assigned = "assigned",
        InProgress = "in_progress",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        Blocked = "blocked",
    ]
);

names!(
    /// The agent that does the work. Governance calls the same agents `ops_agent` and so on.
    Agent, "agent", [
        Ops = "ops" | "ops_agent",
        Dev = "dev" | "dev_agent",
        Faq = "faq" | "faq_agent",
        Devops = "devops" | "devops_agent",
        Cycle = "cycle",
    ]
);

impl Status {
    /// Whether no further change follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }

    pub fn is_open(self) -> bool {
        !self.is_terminal()
    }
}

#[expect(clippy::derivable_impls, reason = "the macro of the enum has no default")]
impl Default for Priority {
    fn default() -> Self {
        Priority::P2
    }
}
