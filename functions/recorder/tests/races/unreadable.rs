//! Parked items that are damaged, or written by a newer build: they block neither their tenant
//! nor others, and nothing of them is lost, doubled or reordered.

use std::time::Duration;

use watchbill_core::ports::{Commit, Item, NewItem, Precondition, Store as _, Write, WriteId};
use watchbill_core::repo::{Entity as _, ParkedKey, ParkedTenant, Projection};
use watchbill_domain::Priority;
use watchbill_testkit::Failure;

use crate::parked::{Broken, assert_in_order, broken, named, picky};
use crate::world::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// Its body is not JSON.
    Body,
    /// A newer build has written it.
    Newer,
    /// The store can't read it, and so can't replace it.
    Row,
}

const ALL: [Damage; 3] = [Damage::Body, Damage::Newer, Damage::Row];

impl Broken {
    /// Damages every item of a kind.
    async fn damage(&self, kind: &str, how: Damage) {
        let items = self.of_kind(kind);
        assert!(!items.is_empty(), "there is something to damage");
        for item in items {
            match how {
                Damage::Row => self.faults.fail(&item.key.to_string(), Failure::Corrupt),
                Damage::Body => self.rewrite(&item, b"{\"tenant".to_vec(), 1).await,
                Damage::Newer => self.rewrite(&item, item.body.to_vec(), 9).await,
            }
        }
    }

    async fn rewrite(&self, item: &Item, body: Vec<u8>, schema: u16) {
        let new = NewItem {
            key: item.key.clone(),
            kind: item.kind.to_string().into(),
            schema,
            body: body.into(),
            list: item.list.clone(),
            list2: item.list2.clone(),
            due: item.due,
            expires: None,
        };
        let writes = vec![Write::Put { item: new, expect: Precondition::Version(item.version) }];
        let commit = Commit { id: WriteId(u128::from(item.version) << 64), writes };
        self.world.store.commit(commit).await.unwrap();
    }
}

/// The ledger fails for a tenant, and then its parked items are damaged.
#[tokio::test]
async fn damaged_parked_items_block_nothing_and_lose_nothing() {
    for how in ALL {
        for kinds in
            [&[ParkedKey::KIND][..], &[ParkedTenant::KIND], &[ParkedKey::KIND, ParkedTenant::KIND]]
        {
            let mut broken = broken(1);
            let recorder = broken.world.recorder();
            let (good, bad) = (named("good"), named("bad"));
            let first = broken.world.create_for(&bad, Priority::P2).await;
            broken.run(&bad, &first, false).await;
            broken.pump(&recorder, 10).await;
            broken.faults.fail("T#bad#led#", Failure::Down);
            let second = broken.world.create_for(&bad, Priority::P2).await;
            broken.run(&bad, &first, false).await;
            broken.pump(&recorder, 10).await;
            for kind in kinds {
                broken.damage(kind, how).await;
            }
            // Later changes, for a recorder that knows the items and for one that doesn't.
            for recorder in [&recorder, &broken.world.recorder()] {
                for (tenant, id) in [(&bad, &first), (&bad, &second)] {
                    broken.run(tenant, id, false).await;
                }
                let other = broken.world.create_for(&good, Priority::P2).await;
                broken.run(&good, &other, true).await;
                broken.world.clock.advance(Duration::from_secs(700));
                broken.pump(recorder, 10).await;
                broken.assert_whole(&good).await;
            }
            let summary = broken.world.core.parking().summary().await.unwrap();
            assert_eq!(summary.tenants, 1, "{how:?} {kinds:?}: {summary:?}");
            assert!(summary.items >= 1, "{how:?} {kinds:?}: {summary:?}");
            assert!(broken.world.core.context().unreadable_items() >= 1, "it is told of");

            heal_ledger(&broken, how, kinds);
            broken.drain(&recorder).await;
            broken.assert_whole(&bad).await;
            assert_in_order(broken.world.bus.events());
            // Later changes are recorded at once again.
            broken.run(&bad, &first, true).await;
            broken.run(&bad, &second, true).await;
            broken.pump(&broken.world.recorder(), 10).await;
            assert_eq!(broken.parked(), [], "{how:?} {kinds:?}");
            broken.assert_whole(&bad).await;
        }
    }
}

/// The ledger works again; rows that the store can't read stay damaged.
fn heal_ledger(broken: &Broken, how: Damage, kinds: &[&str]) {
    broken.faults.heal();
    for item in kinds.iter().flat_map(|kind| broken.of_kind(kind)) {
        if how == Damage::Row && &*item.key.sort == "0" {
            broken.faults.fail(&item.key.to_string(), Failure::Corrupt);
        }
    }
}

/// The damaged item listed the events that were still unpublished.
#[tokio::test]
async fn events_waiting_in_damaged_items_are_published() {
    for how in ALL {
        let mut broken = broken(2);
        let (bus, recorder) = picky(&broken.world, false);
        let poison = broken.world.create(Priority::P2).await;
        let good = broken.world.create(Priority::P2).await;
        bus.refused.lock().unwrap().insert(poison.clone());
        for _ in 0..3 {
            broken.run(&tenant(), &good, false).await;
            broken.run(&tenant(), &poison, false).await;
            broken.pump(&recorder, 100).await;
        }
        assert_eq!(broken.parked().len(), 1);
        broken.damage(ParkedKey::KIND, how).await;
        broken.run(&tenant(), &good, true).await;
        broken.run(&tenant(), &poison, false).await;
        broken.pump(&recorder, 100).await;
        bus.refused.lock().unwrap().clear();
        broken.drain(&recorder).await;
        broken.assert_whole(&tenant()).await;
        assert_in_order(broken.world.bus.events());
    }
}

/// An item can't be read when it is replayed: it waits, and the others do not.
#[tokio::test]
async fn an_item_that_is_damaged_while_it_is_parked_waits_alone() {
    let mut broken = broken(3);
    let recorder = broken.world.recorder();
    broken.faults.fail("T#default#led#", Failure::Down);
    let damaged = broken.world.create(Priority::P2).await;
    for _ in 0..5 {
        let id = broken.world.create(Priority::P2).await;
        broken.run(&tenant(), &id, true).await;
    }
    broken.pump(&recorder, 10).await;
    assert_eq!(broken.parked().len(), 6);
    broken.faults.heal();
    broken.faults.fail(&format!("T#default#task#{damaged}/"), Failure::Corrupt);
    for _ in 0..3 {
        broken.world.clock.advance(Duration::from_secs(900));
        broken.ask().await;
        broken.pump(&recorder, 64).await;
    }
    let parked = broken.parked();
    assert_eq!(parked.len(), 1, "{parked:?}");
    assert!(parked[0].failures > 0 && parked[0].reason.contains(damaged.as_str()), "{parked:?}");
    // Once restored, it is recorded.
    broken.faults.heal();
    broken.world.clock.advance(Duration::from_secs(6 * 3_600));
    broken.drain(&recorder).await;
    broken.assert_whole(&tenant()).await;
}

/// Unreadable projections are rebuilt from the ledger.
#[tokio::test]
async fn damaged_projections_do_not_block_recording() {
    for how in ALL {
        let mut broken = broken(4);
        let id = broken.world.create(Priority::P2).await;
        let recorder = broken.world.recorder();
        broken.run(&tenant(), &id, false).await;
        broken.pump(&recorder, 10).await;
        recorder.save().await.unwrap();
        broken.run(&tenant(), &id, true).await;
        broken.damage(Projection::KIND, how).await;
        let recorder = broken.world.recorder();
        broken.pump(&recorder, 10).await;
        assert_eq!(broken.parked(), [], "{how:?}");
        recorder.save().await.unwrap();
        broken.assert_whole(&tenant()).await;
        assert_eq!(broken.world.core.stats().of(&tenant()).await.unwrap().rows.len(), 1, "{how:?}");
    }
}
