//! The ops agent's function: runs deploy, monitor, alert and investigate tasks through the loop
//! of `watchbill_runtime::ooda` over the given ports.
//!
//! To add another decider, implement `watchbill_runtime::ooda::Decider` and pass it to
//! [`OpsAgent::deciding`].

use std::sync::Arc;

use async_trait::async_trait;
use watchbill_catalog::{OpsPorts, evidence, specs, tools};
use watchbill_domain::Agent;
use watchbill_playbook::Playbook;
use watchbill_runtime::ooda::{Decider, Ooda};
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};

pub struct OpsAgent {
    ooda: Ooda,
}

impl OpsAgent {
    /// Decides by the playbook, which needs no API key and no network.
    pub fn new(ports: OpsPorts) -> Self {
        Self::deciding(ports, Arc::new(Playbook::new(specs().clone())))
    }

    pub fn deciding(ports: OpsPorts, decider: Arc<dyn Decider>) -> Self {
        Self { ooda: Ooda::new(evidence(&ports), tools::registered(&ports), decider) }
    }
}

#[async_trait]
impl TaskAgent for OpsAgent {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        self.ooda.run(run).await
    }
}
