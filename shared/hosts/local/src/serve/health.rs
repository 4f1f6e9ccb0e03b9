//! What `/health` says of the embedded bundle beyond what it says everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use watchbill_api::{HealthReport, HealthSource};

use watchbill_core::service::Core;
use watchbill_redis_bridge::Bridge;
use watchbill_sqlite::sqlite::SqliteStore;

use super::connections::Table;
use crate::bundle::{LagReport, ParkedReport};

/// What the store and the clock say of themselves: all of it stands in memory.
pub struct Inside {
    pub store: Arc<SqliteStore>,
    pub core: Core,
}

impl Inside {
    fn report(&self) -> [(String, Value); 2] {
        let log = self.store.log();
        let store = json!({
            "wal_bytes": log.bytes,
            "wal_held": log.held,
            "unreadable_items": self.core.context().unreadable_items(),
        });
        let clock = json!({ "ahead_ms": self.core.clock().ahead().as_millis() as u64 });
        [("store".to_owned(), store), ("clock".to_owned(), clock)]
    }
}

/// What the embedded bundle knows of its own health: how far its feed's readers are behind, what
/// is parked, how the bridge to a Redis stands, if there is one, and whether callers find
/// connections.
pub struct EmbeddedHealth<F, P> {
    lag: F,
    parked: P,
    redis: Option<Bridge>,
    connections: Arc<Table>,
    inside: Inside,
}

impl<F, P> EmbeddedHealth<F, P>
where
    F: Fn() -> LagReport + Send + Sync,
    P: Fn() -> ParkedReport + Send + Sync,
{
    pub fn new(
        lag: F,
        parked: P,
        redis: Option<Bridge>,
        connections: Arc<Table>,
        inside: Inside,
    ) -> Self {
        Self { lag, parked, redis, connections, inside }
    }
}

#[async_trait]
impl<F, P> HealthSource for EmbeddedHealth<F, P>
where
    F: Fn() -> LagReport + Send + Sync,
    P: Fn() -> ParkedReport + Send + Sync,
{
    async fn report(&self) -> HealthReport {
        let lag = (self.lag)();
        let lag = json!({ "router": lag.router, "recorder": lag.recorder });
        let figures = self.connections.figures();
        let connections = json!({
            "open": figures.open,
            "limit": figures.most,
            "refused": figures.refused,
            "closed_for_others": figures.gave_way,
            "failed_accepts": figures.failed_accepts,
        });
        let parked = (self.parked)();
        let parked = json!({
            "items": parked.items,
            "tenants": parked.tenants,
            "oldest_seconds": parked.oldest_seconds,
        });
        let mut more = BTreeMap::from([
            ("feed_lag".to_owned(), lag),
            ("connections".to_owned(), connections),
            ("parked".to_owned(), parked),
        ]);
        more.extend(self.inside.report());
        let Some(bridge) = &self.redis else {
            return HealthReport { redis: "disabled".to_owned(), more };
        };
        let report = bridge.report();
        more.insert("redis_bridge".to_owned(), json!(report));
        HealthReport { redis: stands(report.connection).to_owned(), more }
    }
}

/// Two words are enough for a monitor: until the first answer nobody knows that it is there.
fn stands(connection: &str) -> &'static str {
    if connection == "connected" { "connected" } else { "unreachable" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use watchbill_core::decide::Rules;
    use watchbill_core::ports::Clock;
    use watchbill_domain::Timestamp;
    use watchbill_sqlite::sqlite::Options;
    use watchbill_testkit::{FakeClock, ports_over, ungated_core};

    use super::*;

    /// A clock over a machine's that was set back by five seconds.
    struct SetBack(FakeClock);

    #[async_trait]
    impl Clock for SetBack {
        fn now(&self) -> Timestamp {
            self.0.now()
        }

        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }

        async fn sleep(&self, how_long: Duration) {
            self.0.sleep(how_long).await;
        }

        fn ahead(&self) -> Duration {
            Duration::from_secs(5)
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path(), Options::default()).unwrap());
        let clock = Arc::new(SetBack(FakeClock::default()));
        let core = ungated_core(ports_over(store.clone(), clock, 1), Rules::default());
        let report = BTreeMap::from(Inside { store, core }.report());
        assert_eq!(report["clock"], json!({ "ahead_ms": 5_000 }));
    }
}
