//! Runs the bridge and logs its metrics.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_host::system::host_name;
use watchbill_redis_bridge::{Backend, Bridge, BridgeContext, Report, Settings};
use watchbill_wire::legacy::LegacyQueue;

use crate::tasks::{PanickedTask, Tasks};

/// How often changed metrics are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long the directions may take to finish what they have started.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a bridge on this machine works with.
pub fn local_context(
    backend: Arc<dyn Backend>,
    legacy: Arc<dyn LegacyQueue>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> BridgeContext {
    BridgeContext { backend, legacy, clock, entropy, host: host_name() }
}

pub struct RunningBridge {
    bridge: Bridge,
    stop: watch::Sender<bool>,
    works: Tasks,
}

impl RunningBridge {
    pub fn start(context: BridgeContext, settings: Settings) -> Self {
        let clock = context.clock.clone();
        let bridge = Bridge::new(context, settings);
        let (stop, stopped) = watch::channel(false);
        let running = bridge.clone();
        let mut works = Tasks::default();
        works.spawn("the redis bridge", {
            let stopped = stopped.clone();
            async move { running.run(stopped).await }
        });
        works.spawn("the redis bridge's log", log_metrics(bridge.clone(), clock, stopped));
        Self { bridge, stop, works }
    }

    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// A handle to wait for a part of the bridge that fails; the process must then end.
    pub fn broken(&self) -> PanickedTask {
        self.works.broken()
    }

    /// Lets the directions finish what they have started. Work that is cut off has leases, and
    /// is taken up again.
    pub async fn stop(mut self) -> Report {
        let _ = self.stop.send(true);
        if tokio::time::timeout(TIMEOUT, self.works.join()).await.is_err() {
            tracing::warn!("the redis bridge did not stop in time; its tasks are taken up again");
        }
        self.bridge.report()
    }
}

/// Periodically logs the metrics that have changed.
async fn log_metrics(bridge: Bridge, clock: Arc<dyn Clock>, mut stopped: watch::Receiver<bool>) {
    let mut before = metrics(&bridge.report());
    loop {
        tokio::select! {
            () = clock.sleep(LOG_INTERVAL) => {}
            // An error means that the sender was dropped, which ends this too.
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        let now = metrics(&bridge.report());
        let changed = changes(&before, &now);
        if !changed.is_empty() {
            tracing::info!("redis bridge: {changed}");
        }
        before = now;
    }
}

fn metrics(report: &Report) -> Value {
    serde_json::to_value(report).expect("a report can be serialized")
}

/// `taken 12, fed 3`: the numbers that have changed.
fn changes(before: &Value, now: &Value) -> String {
    let numbers = now.as_object().into_iter().flatten().filter(|(_, value)| value.is_number());
    let changed = numbers.filter(|(name, value)| before[name.as_str()] != **value);
    changed.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_changed_metrics_are_reported() {
        let before = json!({ "connection": "connected", "fed": 1, "taken": 2 });
        let now = json!({ "connection": "unreachable", "fed": 1, "taken": 5 });
        assert_eq!(changes(&before, &now), "taken 5");
        assert_eq!(changes(&now, &now), "");
    }
}
