//! The ops agent's function: deploy, monitor, alert and investigate tasks, each through the
//! loop of `watchbill_runtime::ooda` over the ports it is given.
//!
//! How to add another decider: implement `watchbill_runtime::ooda::Decider` and give it to
//! [`OpsAgent::deciding`].

use std::sync::Arc;

use async_trait::async_trait;
use watchbill_catalog::{OpsPorts, evidence, specs, tools};
use watchbill_domain::Agent;
use watchbill_playbook::Playbook;
use watchbill_runtime::ooda::{Decider, Ooda};
use watchbill_runtime::run::{Run, RunEnd, TaskAgent};

pub struct OpsAgent {
    ooda: Ooda,
}

impl OpsAgent {
    /// Decides by the playbook: no key, no network.
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

    async fn run(&self, run: &Run) -> RunEnd {
        self.ooda.run(run).await
    }
}
