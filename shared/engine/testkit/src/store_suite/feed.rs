//! Guarantees of the change feed.

use std::collections::BTreeMap;
use std::sync::Arc;

use watchbill_core::ports::{Change, Key, Precondition, Store, Write};

use super::{Follow, StoreUnderTest, add, commit, create, done, get, key, replace};

/// Reads up to the change numbered `last` and checks that the feed has no gaps or repeats.
async fn read_until(
    feed: &mut dyn Follow,
    after: u64,
    last: u64,
    max: usize,
) -> Vec<(u64, Change)> {
    let mut found = Vec::new();
    let mut seq = after;
    while seq < last {
        let changes = feed.next(max).await;
        assert!(!changes.is_empty() && changes.len() <= max);
        for (number, change) in changes {
            assert_eq!(number, seq + 1, "no gap and no repeat for one reader");
            seq = number;
            if let Some(image) = &change.image {
                assert_eq!(image.key, change.key);
            }
            found.push((number, change));
        }
    }
    found
}

fn versions(changes: &[(u64, Change)]) -> BTreeMap<Key, Vec<u64>> {
    let mut versions: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
    for (_, change) in changes {
        versions.entry(change.key.clone()).or_default().push(change.version);
    }
    versions
}

fn at_least_that_new(changes: &[(u64, Change)]) {
    for (_, change) in changes {
        if let Some(image) = &change.image {
            assert!(image.version >= change.version, "{change:?}");
        }
    }
}

pub async fn every_write_is_in_the_feed_in_order(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let mut feed = under_test.follow(0);
    let (a, b, n) = (key("a", "0"), key("b", "0"), key("n", "0"));
    done(&store, 1, [create(a.clone(), "1"), create(b.clone(), "1")]).await;
    done(&store, 2, [replace(a.clone(), "2", 1), add(n.clone(), "n", 1, None)]).await;
    let check = Write::Check { key: a.clone(), expect: Precondition::Version(2) };
    done(&store, 3, [check, replace(b.clone(), "2", 1)]).await;
    commit(&store, 4, [replace(a.clone(), "x", 1)]).await.expect_err("a conflict");
    done(&store, 2, [replace(a.clone(), "2", 1), add(n.clone(), "n", 1, None)]).await;
    done(&store, 5, [Write::Delete { key: b.clone(), expect: Precondition::Version(2) }]).await;
    let changes = read_until(&mut *feed, 0, 6, 2).await;
    let keys: Vec<&Key> = changes.iter().map(|(_, change)| &change.key).collect();
    assert_eq!(keys, [&a, &b, &a, &n, &b, &b], "refused and repeated commits change nothing");
    at_least_that_new(&changes);
    let (_, deleted) = &changes[5];
    assert!(deleted.image.is_none() && deleted.version >= 2, "{deleted:?}");
    assert_eq!(versions(&changes)[&a], [1, 2]);
}

pub async fn a_late_reader_misses_nothing(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    const WRITERS: u64 = 16;
    const WRITES: u64 = 60;
    let writers: Vec<_> =
        (0..WRITERS).map(|w| tokio::spawn(write(store.clone(), w, WRITES))).collect();
    // One reader follows from the start, a second one starts in the middle of the writes.
    let mut early = under_test.follow(0);
    let first = read_until(&mut *early, 0, 40, 7).await;
    let at = first.last().expect("forty changes").0;
    let mut late = under_test.follow(0);
    let all = WRITERS * WRITES;
    let rest = read_until(&mut *early, at, all, 50).await;
    let again = read_until(&mut *late, 0, all, 3).await;
    for writer in writers {
        writer.await.expect("a writer");
    }
    for changes in [[first, rest].concat(), again] {
        at_least_that_new(&changes);
        let versions = versions(&changes);
        assert_eq!(versions.len() as u64, WRITERS);
        for (key, versions) in versions {
            assert_eq!(versions, (1..=WRITES).collect::<Vec<_>>(), "{key}");
        }
    }
}

async fn write(store: Arc<dyn Store>, writer: u64, writes: u64) {
    let k = key("w", &writer.to_string());
    // Long bodies, so that a tail with a byte limit does not hold all of them.
    let body = "x".repeat(600);
    for version in 0..writes {
        let id = u128::from(writer + 1) << 64 | u128::from(version);
        let write = match version {
            0 => create(k.clone(), &body),
            n => replace(k.clone(), &body, n),
        };
        done(&store, id, [write]).await;
    }
}

pub async fn a_reader_goes_on_after_a_reopening(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    write(store.clone(), 1, 10).await;
    drop(store);
    under_test.reopen().await;
    let store = under_test.store();
    let mut feed = under_test.follow(4);
    let k = key("w", "1");
    done(&store, 99, [replace(k.clone(), "last", 10)]).await;
    let changes = read_until(&mut *feed, 4, 11, 3).await;
    assert_eq!(versions(&changes)[&k], (5..=11).collect::<Vec<_>>());
    at_least_that_new(&changes);
    assert_eq!(get(&store, &k).await.map(|item| item.version), Some(11));
}
