use std::collections::BTreeSet;

use watchbill_core::decide::Rules;
use watchbill_domain::{Agent, TaskType};

use super::words;

/// Which tasks a Redis bridge hands to a peer's workers: `bugfix,agent:dev`. Such tasks are left
/// to workers outside, wherever the bridge runs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Feed {
    pub types: BTreeSet<TaskType>,
    pub agents: BTreeSet<Agent>,
    /// Agents that were written in their long form (`dev_agent`): the peer's worker calls
    /// itself so.
    pub long_names: BTreeSet<Agent>,
    /// Nothing more is handed over; what was comes home.
    pub finish: bool,
}

impl Feed {
    /// The error says what is wrong, and what would be right.
    pub fn read(value: &str) -> Result<Self, String> {
        let mut feed = Self { finish: value.trim() == "finish", ..Self::default() };
        if feed.finish {
            return Ok(feed);
        }
        for word in words(value).iter().filter(|word| *word != "off") {
            if let Some(name) = word.strip_prefix("agent:") {
                let agent = fed_agent(name)?;
                feed.agents.insert(agent);
                if name == agent.long_name() {
                    feed.long_names.insert(agent);
                }
                continue;
            }
            let task_type = TaskType::parse(word).ok().filter(|one| *one != TaskType::OpsCycle);
            feed.types.insert(task_type.ok_or_else(|| {
                format!(
                    "'{word}' is no type of task; use types such as bugfix, or agents as agent:dev"
                )
            })?);
        }
        Ok(feed)
    }

    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && self.agents.is_empty() && !self.finish
    }

    pub fn wants(&self, task_type: TaskType, agent: Agent) -> bool {
        self.types.contains(&task_type) || self.agents.contains(&agent)
    }

    /// Leaves what is fed to workers outside.
    pub fn leave(&self, rules: &mut Rules) {
        rules.external.extend(&self.agents);
        rules.external_types.extend(&self.types);
    }
}

/// An agent that a peer's programs know, in either spelling.
pub fn fed_agent(word: &str) -> Result<Agent, String> {
    let agent = Agent::parse(word).ok().filter(|agent| agent.info().takes_tasks);
    agent.ok_or_else(|| {
        let known: Vec<&str> = Agent::taking_tasks().map(Agent::as_str).collect();
        let (last, others) = known.split_last().expect("some agents take tasks");
        format!("'{word}' is no agent; use {} or {last}", others.join(", "))
    })
}
