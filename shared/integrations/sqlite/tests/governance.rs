//! Budgets and reputation on the embedded store.

use std::sync::Arc;

use tempfile::TempDir;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::Clock as _;
use watchbill_core::service::Core;
use watchbill_sqlite::sqlite::{Options, SqliteStore};
use watchbill_testkit::{FakeClock, governance_suite as suite, ports_over};

struct World {
    core: Core,
    clock: Arc<FakeClock>,
    store: Arc<SqliteStore>,
    _folder: TempDir,
}

fn world() -> World {
    let folder = TempDir::new().expect("a folder for the test");
    let store = SqliteStore::open(folder.path(), Options::default()).expect("a store that opens");
    let store = Arc::new(store);
    let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
    let ports = ports_over(store.clone(), clock.clone(), 1);
    World {
        core: Core::new(ports, Arc::new(EngineConfig::default()), 1),
        clock,
        store,
        _folder: folder,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reservations_at_once_stop_at_the_cap() {
    let World { core, clock, store, _folder } = world();
    suite::reservations_stop_at_the_cap(&core, &|by| clock.advance(by), 1_000, 1_000).await;
    drop(core);
    store.close().await;
}

#[tokio::test]
async fn what_is_recorded_counts_within_a_second() {
    let World { core, clock, store, _folder } = world();
    suite::what_is_recorded_counts_within_a_second(&core, &|by| clock.advance(by)).await;
    drop(core);
    store.close().await;
}
