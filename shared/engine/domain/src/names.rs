/// A word that stands for nothing we know; says which are known.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} '{value}': use one of {known}")]
pub struct UnknownName {
    pub what: &'static str,
    pub value: String,
    pub known: String,
}

/// A word as an error shows it, without secrets.
#[doc(hidden)]
pub fn shortened_word(text: &str) -> String {
    watchbill_redact::shortened(text, 64)
}

/// Words with one spelling each, and maybe others that are understood too, as an enum.
#[macro_export]
macro_rules! names {
    ($(#[$doc:meta])* $name:ident, $what:literal, [$($variant:ident = $text:literal $(| $alias:literal)*),+ $(,)?]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name { $(#[serde(rename = $text)] $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Every text that [`parse`](Self::parse) takes, aliases included.
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
    /// What kind of work a task is.
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
    /// P0 before P1 before P2 before P3.
    Priority, "priority", [
        P0 = "P0" | "critical",
        P1 = "P1" | "high",
        P2 = "P2" | "medium",
        P3 = "P3" | "low",
    ]
);

names!(
    /// Where a task stands in its life.
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
    /// Who does the work. In governance the same agents are called `ops_agent` and so on.
    Agent, "agent", [
        Ops = "ops" | "ops_agent",
        Dev = "dev" | "dev_agent",
        Faq = "faq" | "faq_agent",
        Devops = "devops" | "devops_agent",
        Cycle = "cycle",
    ]
);

impl Status {
    /// No change comes after these.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }

    pub fn is_open(self) -> bool {
        !self.is_terminal()
    }
}

#[expect(clippy::derivable_impls, reason = "the enum is made by a macro that knows no default")]
impl Default for Priority {
    fn default() -> Self {
        Priority::P2
    }
}
