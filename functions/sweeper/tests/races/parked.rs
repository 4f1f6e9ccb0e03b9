//! A damaged item that records a tenant's parked items: a replay is still requested.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Commit, NewItem, Precondition, Store as _, Write, WriteId};
use watchbill_core::repo::parked_tenant_key;
use watchbill_core::service::{Core, Ports, ToPark};
use watchbill_sweeper::Sweeper;
use watchbill_testkit::{Failure, FaultyStore, MemoryBlobs, MemoryWake, SeededEntropy};

use super::{World, tenant};

#[tokio::test]
async fn a_replay_is_requested_though_the_parked_item_is_damaged() {
    for row in [false, true] {
        let world = World::new(EngineConfig::default(), 1);
        let faults = Arc::new(FaultyStore::new(world.store.clone()));
        let ports = Ports {
            store: faults.clone(),
            blobs: Arc::new(MemoryBlobs::new()),
            clock: world.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(7)),
            wake: Arc::new(MemoryWake::new()),
        };
        let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
        let partition = "T#default#task#a".into();
        let one = ToPark { partition, first: Some(1), last: 1, unsent: None };
        core.parking().park(&tenant(), &[one], "no ledger").await.unwrap();
        let key = parked_tenant_key(&tenant());
        match row {
            true => faults.fail(&key.to_string(), Failure::Corrupt),
            false => damage(&world).await,
        }
        world.clock.advance(Duration::from_secs(60));
        let sweeper = Sweeper::new(core.clone(), world.lanes.clone());
        let swept = sweeper.sweep(100).await.unwrap();
        let of = core.parking().tenant(&tenant()).await.unwrap().unwrap().value;
        assert!(of.is_asked() && of.is_open(), "row {row}: {of:?}");
        assert!(of.reason.contains("can't be read"), "{of:?}");
        assert_eq!((swept.failed, swept.parked.tenants), (usize::from(row), 1));
    }
}

async fn damage(world: &World) {
    let item = world.store.get(&parked_tenant_key(&tenant())).await.unwrap().unwrap();
    let damaged = NewItem {
        key: item.key,
        kind: item.kind.to_string().into(),
        schema: 1,
        body: b"{".to_vec().into(),
        list: item.list,
        list2: item.list2,
        due: item.due,
        expires: None,
    };
    let writes = vec![Write::Put { item: damaged, expect: Precondition::Version(item.version) }];
    world.store.commit(Commit { id: WriteId(77), writes }).await.unwrap();
}
