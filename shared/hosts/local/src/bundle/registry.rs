//! Which functions the bundle has. A test holds this list and the folders of `functions/`
//! together.

use std::sync::Arc;

use watchbill_dev_agent::DevAgent;
use watchbill_devops_agent::DevopsAgent;
use watchbill_domain::Agent;
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

/// The agents that tasks are routed to by their type.
pub const AGENTS: [Agent; 4] = [Agent::Ops, Agent::Dev, Agent::Faq, Agent::Devops];

/// Whether an agent's work exists in this build, or it only takes its tasks and says so.
pub fn works(agent: Agent) -> bool {
    agent.is_built()
}

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
    use super::*;

    #[test]
    fn the_redis_bridge_beside_functions_knows_the_same_agents() {
        let here: Vec<Agent> = AGENTS.into_iter().filter(|agent| works(*agent)).collect();
        assert_eq!(watchbill_redis_bridge::BUILT, here);
    }
}
