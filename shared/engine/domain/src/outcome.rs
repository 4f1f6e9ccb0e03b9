//! What a run used and what its agent earned by it.

use serde::{Deserialize, Serialize};

use super::Earned;
use super::task::is_default;

/// How a run ended, what it used and what it does to the agent's reputation: durable in
/// the same write as the end itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Tokens that models used.
    #[serde(rename = "tk", default, skip_serializing_if = "is_default")]
    pub tokens: u64,
    /// Cost in millionths of a US dollar.
    #[serde(rename = "us", default, skip_serializing_if = "is_default")]
    pub micro_usd: u64,
    /// What it does to the agent's score, with the figures as they were then.
    #[serde(rename = "rp", default, skip_serializing_if = "Vec::is_empty")]
    pub reputation: Vec<Earned>,
    /// The run changed nothing outside: what it earns is limited for each day. Stored is the
    /// rarer case, that it did: the plain header stays within its write unit.
    #[serde(
        rename = "ac",
        with = "acted",
        default = "acted::missing",
        skip_serializing_if = "acted::is_plain"
    )]
    pub read_only: bool,
    /// The external worker that ended the task: it earns the points, not our agent.
    #[serde(rename = "wk", default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// `read_only` the other way round: absent, as on nearly all runs, where nothing was changed.
/// What older builds wrote has no such field and counts as such a run.
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
        let written = |outcome: &Outcome| serde_json::to_string(outcome).expect("it is written");
        assert_eq!((written(&plain), written(&acted)), ("{}".into(), r#"{"ac":true}"#.into()));
        for outcome in [plain, acted] {
            let read: Outcome = serde_json::from_str(&written(&outcome)).expect("it is read");
            assert_eq!(read, outcome);
        }
    }
}
