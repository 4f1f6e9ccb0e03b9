//! The one crate that knows every capability: lists all tools, and joins what can be read of the
//! estate.
//!
//! - `tools`: the list, which playbook, policy, model and documentation read.
//! - `evidence`: the runtime's `Evidence` over the capabilities.
//! - `deployments`: the tool `deploy`, until deployments are a capability of their own.
//!
//! How to add a tool: a line in [`tools::all`]; its spec and its work stand in its capability.

mod deployments;
mod evidence;
pub mod tools;

use std::sync::Arc;

use watchbill_alerts::AlertBook;
use watchbill_investigation::LogFiles;
use watchbill_monitoring::SystemMetrics;
use watchbill_playbook::PlaybookPlanner;
use watchbill_runtime::evidence::Evidence;
use watchbill_runtime::history::History;
use watchbill_runtime::probe::Probes;

pub use tools::specs;

/// What the ops agent's tools work with. What is absent is said in results, never passed over.
#[derive(Clone, Default)]
pub struct OpsPorts {
    pub metrics: Option<Arc<dyn SystemMetrics>>,
    pub probes: Option<Arc<dyn Probes>>,
    pub logs: Option<Arc<dyn LogFiles>>,
    pub history: Option<Arc<dyn History>>,
    pub alerts: Option<Arc<dyn AlertBook>>,
}

/// What can be read through these ports.
pub fn evidence(ports: &OpsPorts) -> Arc<dyn Evidence> {
    Arc::new(evidence::Joined(ports.clone()))
}

/// Plans with all tools that there are. Every process plans alike: an approval is bound to the
/// hash of what one of them showed, and proved by another.
pub fn planner() -> PlaybookPlanner {
    PlaybookPlanner::new(specs().clone())
}
