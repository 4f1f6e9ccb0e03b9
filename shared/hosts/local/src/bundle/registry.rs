//! The list of the bundle's functions. A test compares it with the folders of `functions/`.

use std::sync::Arc;

use watchbill_dev_agent::DevAgent;
use watchbill_devops_agent::DevopsAgent;
use watchbill_faq_agent::FaqAgent;
use watchbill_ops_agent::OpsAgent;
use watchbill_ops_cycle::OpsCycle;
use watchbill_runtime::run::TaskAgent;

use watchbill_catalog::OpsPorts;

/// Every function of the bundle, by its folder's name: this process wires them all.
pub const FUNCTIONS: &[&str] = &[
    "api",
    "dev-agent",
    "devops-agent",
    "faq-agent",
    "intake",
    "notifier",
    "ops-agent",
    "ops-cycle",
    "recorder",
    "redis-bridge",
    "router",
    "sweeper",
];

/// The agents that run tasks.
pub fn agents(ops: OpsPorts) -> Vec<Arc<dyn TaskAgent>> {
    vec![
        Arc::new(OpsAgent::new(ops)),
        Arc::new(DevAgent),
        Arc::new(FaqAgent),
        Arc::new(DevopsAgent),
        Arc::new(OpsCycle),
    ]
}

#[cfg(test)]
mod tests {
    use watchbill_domain::{AGENTS, Agent};

    use super::*;

    #[test]
    fn every_agent_runs_here() {
        let here = agents(OpsPorts::default());
        let here: Vec<Agent> = here.iter().map(|agent| agent.agent()).collect();
        let all: Vec<Agent> = AGENTS.iter().map(|info| info.agent).collect();
        assert_eq!(here, all);
        let taking = agents(OpsPorts::default()).into_iter();
        for agent in taking.filter(|agent| agent.agent().info().takes_tasks) {
            assert_eq!(agent.is_implemented(), agent.agent().is_built(), "{}", agent.agent());
        }
        let functions = AGENTS.iter().map(|info| info.function);
        for function in functions {
            assert!(FUNCTIONS.contains(&function), "{function}");
        }
    }
}
