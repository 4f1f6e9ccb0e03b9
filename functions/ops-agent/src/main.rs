//! The ops agent on Lambda.

use std::sync::Arc;

use watchbill_adapters_aws::config::Setup;
use watchbill_adapters_aws::lambda::serve_agent;
use watchbill_adapters_host::{clock::SystemClock, entropy::SystemEntropy, system::LocalSystem};
use watchbill_adapters_net::probes::{NetProbes, ProbePolicy};
use watchbill_agent::ooda::OpsPorts;
use watchbill_agent::records::{StoredAlerts, TaskHistory};
use watchbill_ops_agent::OpsAgent;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let core = setup.core_with_blobs()?;
    let policy = ProbePolicy {
        allow_private: setup.allows("PROBE_ALLOW_PRIVATE")?,
        allow_hosts: setup.words("PROBE_ALLOW_HOSTS"),
    };
    let agent = OpsAgent::new(OpsPorts {
        metrics: Some(Arc::new(LocalSystem::new(setup.clock.clone()))),
        probes: Some(Arc::new(NetProbes::new(policy, setup.clock.clone()))),
        logs: None,
        history: Some(Arc::new(TaskHistory::new(core.clone()))),
        alerts: Some(Arc::new(StoredAlerts::new(core.clone()))),
    });
    serve_agent(&setup, core, Arc::new(agent)).await
}
