//! The one crate that knows every capability: it lists all tools and combines their evidence.
//!
//! - `tools`: the list of tools, used by playbook, policy, model and documentation.
//! - `evidence`: the runtime's `Evidence` over the capabilities.
//! - `deployments`: the tool `deploy`, until deployments are a capability of their own.
//!
//! How to add a tool: add a line to [`tools::all`]; its spec and implementation are in its
//! capability.

mod deployments;
mod evidence;
pub mod tools;

use std::sync::Arc;

use watchbill_alerts::AlertStore;
use watchbill_investigation::LogFiles;
use watchbill_monitoring::SystemMetrics;
use watchbill_playbook::PlaybookPlanner;
use watchbill_runtime::evidence::Evidence;
use watchbill_runtime::history::History;
use watchbill_runtime::probe::Probes;

pub use tools::specs;

/// The ports of the ops agent's tools. Results always report a port that is absent.
#[derive(Clone, Default)]
pub struct OpsPorts {
    pub metrics: Option<Arc<dyn SystemMetrics>>,
    pub probes: Option<Arc<dyn Probes>>,
    pub logs: Option<Arc<dyn LogFiles>>,
    pub history: Option<Arc<dyn History>>,
    pub alerts: Option<Arc<dyn AlertStore>>,
}

/// The evidence available through these ports.
pub fn evidence(ports: &OpsPorts) -> Arc<dyn Evidence> {
    Arc::new(evidence::JoinedEvidence(ports.clone()))
}

/// A planner with all tools. All processes must plan alike: one makes the approval document,
/// and another verifies its hash.
pub fn planner() -> PlaybookPlanner {
    PlaybookPlanner::new(specs().clone())
}
