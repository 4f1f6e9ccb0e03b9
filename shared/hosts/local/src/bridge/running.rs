use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_host::system::host_name;
use watchbill_redis_bridge::{Bridge, Home, Report, Settings, Sides};
use watchbill_wire::peer::Peer;

use crate::tasks::{Broken, Tasks};

/// Between two lines on the figures.
const TELL: Duration = Duration::from_secs(60);
/// How long the directions may take to end what they have begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a bridge on this machine works with.
pub fn sides(
    home: Arc<dyn Home>,
    peer: Arc<dyn Peer>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Sides {
    Sides { home, peer, clock, entropy, host: host_name() }
}

/// A bridge at work.
pub struct Running {
    bridge: Bridge,
    stop: watch::Sender<bool>,
    works: Tasks,
}

impl Running {
    pub fn start(sides: Sides, settings: Settings) -> Self {
        let clock = sides.clock.clone();
        let bridge = Bridge::new(sides, settings);
        let (stop, stopped) = watch::channel(false);
        let at_work = bridge.clone();
        let mut works = Tasks::default();
        works.spawn("the redis bridge", {
            let stopped = stopped.clone();
            async move { at_work.run(stopped).await }
        });
        works.spawn("telling of the redis bridge", tell(bridge.clone(), clock, stopped));
        Self { bridge, stop, works }
    }

    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Waits until a part of it breaks off: then the process has to end.
    pub fn broken(&self) -> Broken {
        self.works.broken()
    }

    /// Lets the directions end what they have begun. What is cut off stands in leases, and is
    /// taken up again.
    pub async fn stop(mut self) -> Report {
        let _ = self.stop.send(true);
        if tokio::time::timeout(PATIENCE, self.works.join()).await.is_err() {
            tracing::warn!("the redis bridge did not end in time; what it held is taken up again");
        }
        self.bridge.report()
    }
}

/// Says now and then what has changed, where anything has.
async fn tell(bridge: Bridge, clock: Arc<dyn Clock>, mut stopped: watch::Receiver<bool>) {
    let mut before = figures(&bridge.report());
    loop {
        tokio::select! {
            () = clock.sleep(TELL) => {}
            // An error means that nobody can stop it any more: it is over as well.
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        let now = figures(&bridge.report());
        let changed = changes(&before, &now);
        if !changed.is_empty() {
            tracing::info!("redis bridge: {changed}");
        }
        before = now;
    }
}

fn figures(report: &Report) -> Value {
    serde_json::to_value(report).expect("a report is texts and numbers")
}

/// `taken 12, fed 3`: the numbers that are no longer what they were.
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
    fn only_what_changed_is_told() {
        let before = json!({ "connection": "connected", "fed": 1, "taken": 2 });
        let now = json!({ "connection": "unreachable", "fed": 1, "taken": 5 });
        assert_eq!(changes(&before, &now), "taken 5");
        assert_eq!(changes(&now, &now), "");
    }
}
