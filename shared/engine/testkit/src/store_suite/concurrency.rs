//! Guarantees for concurrent writers.

use std::collections::BTreeSet;
use std::sync::Arc;

use watchbill_core::ports::{CommitError, Store};

use super::{StoreUnderTest, add, commit, create, done, get, key, replace};

pub async fn a_version_has_one_writer(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let k = key("a", "0");
    done(&store, 1, [create(k.clone(), "")]).await;
    const WRITERS: u128 = 32;
    const WINS: u64 = 8;
    let writers = (0..WRITERS).map(|writer| {
        let (store, k) = (store.clone(), k.clone());
        tokio::spawn(async move {
            let (mut won, mut version) = (Vec::new(), 1);
            while (won.len() as u64) < WINS {
                let id = (writer + 1) << 64 | u128::from(version);
                match commit(&store, id, [replace(k.clone(), "", version)]).await {
                    Ok(()) => won.push(version),
                    Err(CommitError::Conflict { current, .. }) => {
                        let current = current.expect("nobody deletes it").version;
                        assert_ne!(current, version, "a conflict at the version expected");
                        version = current;
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                }
                version += 1;
            }
            won
        })
    });
    let mut versions = BTreeSet::new();
    for writer in writers.collect::<Vec<_>>() {
        for version in writer.await.expect("a writer") {
            assert!(versions.insert(version), "version {version} was won twice");
        }
    }
    assert_eq!(versions.len() as u64, WRITERS as u64 * WINS);
    let last = get(&store, &k).await.expect("nobody deletes it").version;
    assert_eq!(last, WRITERS as u64 * WINS + 1);
}

pub async fn many_adders_stop_at_the_ceiling(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    const CEILING: i64 = 100;
    let adders = (0..64_u32).map(|adder| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut added = 0;
            for n in 0..4_u32 {
                let guard = create(key("guard", &format!("{adder}-{n}")), "");
                let spend = add(key("budget", "0"), "spent", 1, Some(CEILING));
                let id = u128::from(adder * 100 + n + 1);
                match commit(&store, id, [guard, spend]).await {
                    Ok(()) => added += 1,
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            added
        })
    });
    let mut added = 0;
    for adder in adders.collect::<Vec<_>>() {
        added += adder.await.expect("an adder");
    }
    assert_eq!(added, CEILING, "256 tried");
    let counter = get(&store, &key("budget", "0")).await.expect("it was counted");
    assert_eq!(counter.counters["spent"], CEILING);
    let guards = store.collect("P#guard", "").await.expect("a partition can be read");
    assert_eq!(guards.len() as i64, CEILING, "a guard stands for each addition and no other");
}

pub async fn conflicts_do_not_disturb_their_neighbours(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    done(&store, 1, [create(key("taken", "0"), "")]).await;
    let one = |n: u32, store: Arc<dyn Store>| async move {
        let own = create(key("own", &format!("{n:04}")), "");
        let id = u128::from(n) + 10;
        if n.is_multiple_of(3) {
            // The write that would succeed comes before the one that can't.
            let result = commit(&store, id, [own, create(key("taken", "0"), "")]).await;
            assert!(matches!(result, Err(CommitError::Conflict { .. })), "{n}: {result:?}");
        } else {
            done(&store, id, [own]).await;
        }
    };
    let all: Vec<_> = (0..600).map(|n| tokio::spawn(one(n, store.clone()))).collect();
    for task in all {
        task.await.expect("a commit");
    }
    let own = store.collect("P#own", "").await.expect("a partition can be read");
    let found: Vec<_> = own.iter().map(|item| item.key.sort.to_string()).collect();
    let expected: Vec<_> =
        (0..600).filter(|n: &u32| !n.is_multiple_of(3)).map(|n| format!("{n:04}")).collect();
    assert_eq!(found, expected);
}
