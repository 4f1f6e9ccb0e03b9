//! The agents of this build: the one table that routing, lanes, hosts, bridge, API, the count
//! of dead letters and the template's test read.
//!
//! To add an agent: its name in `names::Agent`, its row here, its function under `functions/`
//! with its resources in `template.yaml`, and its entry in
//! `shared/hosts/local/src/bundle/registry.rs`.

use serde_json::{Map, Value};

use super::{Agent, Priority, TaskType};

/// Properties of an agent.
#[derive(Debug)]
pub struct AgentInfo {
    pub agent: Agent,
    /// The name that governance and registration use.
    pub long_name: &'static str,
    /// The folder of its function.
    pub function: &'static str,
    pub lanes: LaneLayout,
    /// The queue for its lanes' dead letters.
    pub dead_letters: &'static str,
    /// The types that are routed to it unless configured otherwise.
    pub types: &'static [TaskType],
    /// The types that are routed to it if the payload names a repository.
    pub types_with_repository: &'static [TaskType],
    /// Whether it is part of this build. If not, its tasks wait for external workers.
    pub is_built: bool,
    /// Whether callers' tasks are routed to it and lists of agents show it.
    pub takes_tasks: bool,
}

/// Which queues an agent takes its tasks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneLayout {
    /// One per priority, such as `ops-p0`.
    ByPriority,
    /// One for all priorities: its runs come from a schedule and do not compete.
    Single,
}

use TaskType::{
    Alert, Bugfix, Deploy, Devops, Faq, Feature, Investigate, KbUpdate, Monitor, OpsCycle, Refactor,
};

pub const AGENTS: &[AgentInfo] = &[
    AgentInfo {
        agent: Agent::Ops,
        long_name: "ops_agent",
        function: "ops-agent",
        lanes: LaneLayout::ByPriority,
        dead_letters: "ops-dead",
        types: &[Deploy, Monitor, Alert, Investigate],
        types_with_repository: &[],
        is_built: true,
        takes_tasks: true,
    },
    AgentInfo {
        agent: Agent::Dev,
        long_name: "dev_agent",
        function: "dev-agent",
        lanes: LaneLayout::ByPriority,
        dead_letters: "dev-dead",
        types: &[Bugfix, Refactor, Feature],
        types_with_repository: &[Investigate],
        is_built: false,
        takes_tasks: true,
    },
    AgentInfo {
        agent: Agent::Faq,
        long_name: "faq_agent",
        function: "faq-agent",
        lanes: LaneLayout::ByPriority,
        dead_letters: "faq-dead",
        types: &[Faq, KbUpdate],
        types_with_repository: &[],
        is_built: false,
        takes_tasks: true,
    },
    AgentInfo {
        agent: Agent::Devops,
        long_name: "devops_agent",
        function: "devops-agent",
        lanes: LaneLayout::ByPriority,
        dead_letters: "devops-dead",
        types: &[Devops],
        types_with_repository: &[],
        is_built: false,
        takes_tasks: true,
    },
    AgentInfo {
        agent: Agent::Cycle,
        long_name: "cycle",
        function: "ops-cycle",
        lanes: LaneLayout::Single,
        dead_letters: "cycle-dead",
        types: &[OpsCycle],
        types_with_repository: &[],
        is_built: true,
        takes_tasks: false,
    },
];

/// Whether a payload names a repository (`repo`), which decides between the two lists of types.
pub fn names_repository(payload: &Map<String, Value>) -> bool {
    payload.get("repo").is_some_and(|repo| !repo.is_null())
}

impl Agent {
    pub fn info(self) -> &'static AgentInfo {
        AGENTS.iter().find(|info| info.agent == self).expect("a test finds each in the table")
    }

    /// Whether it is part of this build.
    pub fn is_built(self) -> bool {
        self.info().is_built
    }

    /// The name that governance and registration use.
    pub fn long_name(self) -> &'static str {
        self.info().long_name
    }

    /// The agents that are not part of this build. Their tasks wait for external workers.
    pub fn not_built() -> impl Iterator<Item = Agent> {
        AGENTS.iter().filter(|info| !info.is_built).map(|info| info.agent)
    }

    /// The agents that callers' tasks are routed to.
    pub fn taking_tasks() -> impl Iterator<Item = Agent> {
        AGENTS.iter().filter(|info| info.takes_tasks).map(|info| info.agent)
    }

    /// The agent that a type is routed to unless configured otherwise.
    pub fn of_type(task_type: TaskType, has_repository: bool) -> Agent {
        let with = |info: &&AgentInfo| info.types_with_repository.contains(&task_type);
        let plain = |info: &&AgentInfo| info.types.contains(&task_type);
        let with = AGENTS.iter().find(with).filter(|_| has_repository);
        with.or_else(|| AGENTS.iter().find(plain))
            .expect("a test finds each type in the table")
            .agent
    }

    /// The name of the lane for its tasks of a priority.
    pub fn lane_name(self, priority: Priority) -> String {
        match self.info().lanes {
            LaneLayout::Single => self.to_string(),
            LaneLayout::ByPriority => {
                format!("{self}-{}", priority.as_str().to_ascii_lowercase())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_and_every_type_stand_in_the_table_once() {
        for agent in Agent::ALL {
            assert_eq!(AGENTS.iter().filter(|info| info.agent == *agent).count(), 1, "{agent}");
            assert_eq!(Agent::parse(agent.long_name()).unwrap(), *agent);
        }
        for task_type in TaskType::ALL {
            let takers = AGENTS.iter().filter(|info| info.types.contains(task_type)).count();
            assert_eq!(takers, 1, "{task_type}");
        }
    }

    #[test]
    fn a_repository_sends_an_investigation_to_dev() {
        assert_eq!(Agent::of_type(Investigate, false), Agent::Ops);
        assert_eq!(Agent::of_type(Investigate, true), Agent::Dev);
        assert_eq!(Agent::of_type(Monitor, true), Agent::Ops);
    }

    #[test]
    fn the_cycle_has_one_lane() {
        assert_eq!(Agent::Devops.lane_name(Priority::P3), "devops-p3");
        assert_eq!(Agent::Cycle.lane_name(Priority::P0), "cycle");
    }
}
