//! Which functions the bundle has. A test holds this list and the folders of `functions/`
//! together.

use std::sync::Arc;

use watchbill_agent::run::TaskAgent;
use watchbill_core::domain::Agent;
use watchbill_dev_agent::DevAgent;
use watchbill_devops_agent::DevopsAgent;
use watchbill_faq_agent::FaqAgent;
use watchbill_ops_agent::OpsAgent;
use watchbill_ops_cycle::OpsCycle;

use watchbill_agent::ooda::OpsPorts;

/// Functions that only the deployed bundle has, and why.
pub const ELSEWHERE: &[(&str, &str)] =
    &[("redis-bridge", "there is no Redis connector yet; the function says so")];

/// Every function of the bundle that this process wires, by its folder's name.
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
    "router",
    "sweeper",
];

/// Whether an agent's work exists in this build, or it only takes its tasks and says so.
pub fn works(agent: Agent) -> bool {
    matches!(agent, Agent::Ops)
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
