//! Changes bytes of one task on disk: the task is named, and all others keep working.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use watchbill_core::ports::Lanes as _;
use watchbill_core::service::{ServiceError, TaskFilter};
use watchbill_domain::{Agent, Priority, TenantId};
use watchbill_local::lanes::LocalLanes;
use watchbill_sweeper::Sweeper;
use watchbill_testkit::FakeClock;

use super::{create, damage, open_at};

#[tokio::test]
async fn one_damaged_task_is_named_and_all_others_go_on() {
    let data = TempDir::new().unwrap();
    let clock = Arc::new(FakeClock::default());
    let (core, store) = open_at(data.path(), 1, clock.clone());
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(create(&core, 10).await);
    }
    assert_eq!(core.context().unreadable_items(), 0);
    damage(store.path(), &ids[2]);

    // The list skips it, with any page size.
    let tenant = TenantId::default();
    for limit in [1, 2, 5, 50] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page =
                core.tasks().list(&tenant, &TaskFilter::default(), limit, cursor).await.unwrap();
            found.extend(page.entries.into_iter().map(|full| full.task.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        found.sort_unstable();
        let mut wanted = ids.clone();
        wanted.remove(2);
        wanted.sort_unstable();
        assert_eq!(found, wanted, "pages of {limit}");
    }
    assert_eq!(core.context().unreadable_items(), 1, "it is counted once");

    // A read by id returns an error that names the fault and can't be retried.
    let error = core.tasks().get(&tenant, &ids[2]).await.unwrap_err();
    assert!(matches!(error, ServiceError::Unreadable { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains(ids[2].as_str()) && said.contains("checksum"), "{said}");

    // The lanes are refilled with the others, and the sweep finishes.
    let lanes = LocalLanes::new(clock.clone(), Duration::from_secs(60));
    let offered = watchbill_router::refill(core.clone(), lanes.clone()).await.unwrap();
    assert_eq!(offered, 4);
    let mut waiting = 0;
    for priority in Priority::ALL {
        waiting += lanes.backlog(Agent::Ops, *priority).await.unwrap();
    }
    assert_eq!(waiting, 4);
    clock.advance(Duration::from_secs(24 * 60 * 60));
    let swept = Sweeper::new(core.clone(), lanes).sweep(1_000).await.unwrap();
    assert!(swept.looked_at >= 5 && swept.failed == 1, "{swept:?}");
}
