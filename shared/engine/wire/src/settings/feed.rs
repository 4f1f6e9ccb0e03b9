//! The setting for which tasks the Redis bridge exports.

use std::collections::BTreeSet;

use watchbill_core::decide::EngineConfig;
use watchbill_domain::{Agent, TaskType};

use super::words;

/// Which tasks a Redis bridge exports to legacy workers: `bugfix,agent:dev`. They are left to
/// external workers, wherever the bridge runs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ExportSettings {
    pub types: BTreeSet<TaskType>,
    pub agents: BTreeSet<Agent>,
    /// Agents that were written in their long form (`dev_agent`), because the legacy worker
    /// uses that name.
    pub long_names: BTreeSet<Agent>,
    /// Exports no further task and takes the exported ones back.
    pub finish: bool,
}

impl ExportSettings {
    /// Parses the setting. The error says what is wrong and what is allowed.
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
                    "'{word}' is not a task type; use types such as bugfix, or agents as agent:dev"
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

    /// Marks the exported agents and types as external.
    pub fn leave(&self, rules: &mut EngineConfig) {
        rules.external.extend(&self.agents);
        rules.external_types.extend(&self.types);
    }
}

/// Parses an agent that legacy programs know, in either spelling.
pub fn fed_agent(word: &str) -> Result<Agent, String> {
    let agent = Agent::parse(word).ok().filter(|agent| agent.info().takes_tasks);
    agent.ok_or_else(|| {
        let known: Vec<&str> = Agent::taking_tasks().map(Agent::as_str).collect();
        let (last, others) = known.split_last().expect("some agents take tasks");
        format!("'{word}' is not an agent; use {} or {last}", others.join(", "))
    })
}
