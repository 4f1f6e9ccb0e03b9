//! The ops agent's Lambda entry point.

use std::sync::Arc;

use watchbill_alerts::StoredAlerts;
use watchbill_catalog::OpsPorts;
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy, system::LocalSystem};
use watchbill_http::probes::{NetProbes, ProbePolicy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::serve_agent;
use watchbill_ops_agent::OpsAgent;
use watchbill_runtime::history::TaskHistory;

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
