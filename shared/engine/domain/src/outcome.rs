//! What a run used and how it changed its agent's score.

use serde::{Deserialize, Serialize};

use super::ScoreDelta;
use super::task::is_default;

/// How a run ended, what it used and how it changes the agent's reputation. Written in the same
/// commit as the end of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Tokens that model calls used.
    #[serde(rename = "tk", default, skip_serializing_if = "is_default")]
    pub tokens: u64,
    /// Cost in millionths of a US dollar.
    #[serde(rename = "us", default, skip_serializing_if = "is_default")]
    pub micro_usd: u64,
    /// Score changes of the agent, with the points configured at that time.
    #[serde(rename = "rp", default, skip_serializing_if = "Vec::is_empty")]
    pub reputation: Vec<ScoreDelta>,
    /// The run changed nothing external, so the points it earns are limited per day. Only the
    /// rarer case, `false`, is stored: the plain header stays within its write unit.
    #[serde(
        rename = "ac",
        with = "acted",
        default = "acted::missing",
        skip_serializing_if = "acted::is_plain"
    )]
    pub read_only: bool,
    /// The external worker that ended the task. It gets the score change instead of our agent.
    #[serde(rename = "wk", default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// Stores `read_only` negated: the field is absent on nearly all runs, which changed nothing.
/// Data of older builds has no such field and counts as such a run.
mod acted {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn missing() -> bool {
        true
    }

    pub fn is_plain(read_only: &bool) -> bool {
        *read_only
    }

    pub fn serialize<S: Serializer>(read_only: &bool, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bool(!read_only)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        bool::deserialize(from).map(|acted| !acted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_changed_nothing_takes_no_room() {
        let plain = Outcome { read_only: true, ..Outcome::default() };
        let acted = Outcome::default();
        let written =
            |outcome: &Outcome| serde_json::to_string(outcome).expect("an outcome serializes");
        assert_eq!((written(&plain), written(&acted)), ("{}".into(), r#"{"ac":true}"#.into()));
        for outcome in [plain, acted] {
            let read: Outcome =
                serde_json::from_str(&written(&outcome)).expect("the stored form is readable");
            assert_eq!(read, outcome);
        }
    }
}
