//! Guarantees of lists and of the index of due items.

use std::collections::BTreeSet;
use std::sync::Arc;

use watchbill_core::ports::{
    DueKey, Key, ListRange, Precondition, Query, Store, StoreError, WhichList, due_shard,
};

use super::{StoreUnderTest, at, create, done, entry, key, new_item, put};

fn all_of(partition: &str) -> Query {
    Query {
        list: WhichList::First,
        partition: partition.into(),
        range: ListRange::default(),
        descending: false,
        limit: 1000,
        cursor: None,
    }
}

/// Reads a whole list page by page and returns the sort keys of its items.
async fn pages(store: &Arc<dyn Store>, mut query: Query) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let page = store.query(query.clone()).await.expect("a list can be read");
        assert!(page.entries.len() <= query.limit);
        found.extend(page.entries.iter().map(|key| key.sort.to_string()));
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return found,
        }
    }
}

async fn listed(store: &Arc<dyn Store>, id: u128, name: &str, partition: &str, sort: &str) {
    let mut item = new_item(key("item", name), "");
    item.list = entry(partition, sort);
    done(store, id, [put(item, Precondition::Absent)]).await;
}

pub async fn a_list_is_ordered_and_ranged(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let rows = [("e", "30"), ("a", "10"), ("d", "20"), ("c", "20"), ("b", "100"), ("f", "9")];
    for (id, (name, sort)) in (1..).zip(rows) {
        listed(&store, id, name, "L", sort).await;
    }
    listed(&store, 90, "x", "L2", "20").await;
    listed(&store, 91, "y", "K", "20").await;
    done(&store, 92, [create(key("item", "unlisted"), "")]).await;
    let ascending = ["a", "b", "c", "d", "e", "f"];
    assert_eq!(pages(&store, all_of("L")).await, ascending, "bytewise, then by key");
    for limit in 1..=7 {
        let query = Query { limit, ..all_of("L") };
        assert_eq!(pages(&store, query.clone()).await, ascending, "{limit} a page");
        let mut found = pages(&store, Query { descending: true, ..query }).await;
        found.reverse();
        assert_eq!(found, ascending, "{limit} a page, newest first");
    }
    let range = |from: Option<&str>, to: Option<&str>| ListRange {
        from: from.map(Into::into),
        to: to.map(Into::into),
    };
    for (range, expected) in [
        (range(Some("20"), None), &ascending[2..]),
        (range(None, Some("20")), &ascending[..2]),
        (range(Some("100"), Some("30")), &ascending[1..4]),
        (range(Some("4"), Some("5")), &[]),
    ] {
        let query = Query { range, limit: 2, ..all_of("L") };
        assert_eq!(pages(&store, query.clone()).await, expected, "{query:?}");
        let mut found = pages(&store, Query { descending: true, ..query }).await;
        found.reverse();
        assert_eq!(found, expected, "descending");
    }
    let bad = store.query(Query { cursor: Some("no cursor".into()), ..all_of("L") }).await;
    assert!(matches!(bad, Err(StoreError::BadCursor(_))), "{bad:?}");
}

pub async fn pages_hold_under_inserts(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    const THERE: usize = 60;
    for n in 0..THERE {
        // Pairs share a sort value, so that a page may end between equal ones.
        listed(&store, n as u128 + 1, &format!("{n:03}"), "L", &format!("{:03}", n / 2)).await;
    }
    for descending in [false, true] {
        let mut query = Query { limit: 7, descending, ..all_of("L") };
        let mut seen = Vec::new();
        for round in 0.. {
            let page = store.query(query.clone()).await.expect("a list can be read");
            seen.extend(page.entries.iter().map(|key| key.sort.to_string()));
            // Between pages, items are inserted before, at and after the current position.
            for (n, sort) in ["000", "015", "029", "zzz"].iter().enumerate() {
                let name = format!("late-{descending}-{round}-{n}");
                let id = 1_000 + u128::from(descending) * 1_000 + round * 10 + n as u128;
                listed(&store, id, &name, "L", sort).await;
            }
            let Some(next) = page.next.filter(|_| round < 100) else { break };
            query.cursor = Some(next);
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "nothing comes twice");
        for n in 0..THERE {
            assert!(unique.contains(&format!("{n:03}")), "{n} was there all the time");
        }
    }
}

pub async fn the_second_list_is_sparse(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let second = || Query { list: WhichList::Second, ..all_of("M") };
    let mut item = new_item(key("item", "a"), "");
    item.list = entry("L", "1");
    for (id, (list2, there)) in (1..).zip([
        (None, false),
        (entry("M", "1"), true),
        (entry("M", "2"), true),
        (entry("other", "2"), false),
        (entry("M", "2"), true),
        (None, false),
    ]) {
        item.list2 = list2;
        let expect = if id == 1 { Precondition::Absent } else { Precondition::Version(id - 1) };
        done(&store, u128::from(id), [put(item.clone(), expect)]).await;
        assert_eq!(!pages(&store, second()).await.is_empty(), there, "write {id}");
        assert_eq!(pages(&store, all_of("L")).await, ["a"]);
    }
    let delete =
        watchbill_core::ports::Write::Delete { key: item.key, expect: Precondition::Version(6) };
    done(&store, 9, [delete]).await;
    assert!(pages(&store, all_of("L")).await.is_empty());
}

async fn due_item(store: &Arc<dyn Store>, id: u128, key: Key, due: i64) {
    let mut item = new_item(key, "");
    item.due = Some(at(due));
    done(store, id, [put(item, Precondition::Absent)]).await;
}

async fn due(store: &Arc<dyn Store>, partition: &str, until: i64, limit: usize) -> Vec<DueKey> {
    let shard = due_shard(&format!("P#{partition}"));
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.due(shard, at(until), limit, cursor).await.expect("due can be read");
        assert!(page.entries.len() <= limit);
        found.extend(page.entries);
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

pub async fn due_items_come_the_longest_due_first(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    for (id, (name, millis)) in (1..).zip([("c", 30), ("a", 10), ("b", 20), ("d", 40)]) {
        due_item(&store, id, key("one", name), millis).await;
    }
    due_item(&store, 9, key("two", "z"), 1).await;
    assert_ne!(due_shard("P#one"), due_shard("P#two"));
    let names = |found: Vec<DueKey>| -> Vec<(String, i64)> {
        found.into_iter().map(|d| (d.key.sort.to_string(), d.due.millis())).collect()
    };
    let expected = [("a".to_owned(), 10), ("b".to_owned(), 20), ("c".to_owned(), 30)];
    assert_eq!(names(due(&store, "one", 30, 10).await), expected, "until, and at, the moment");
    assert_eq!(names(due(&store, "two", 30, 10).await), [("z".to_owned(), 1)]);
    assert!(due(&store, "one", 9, 10).await.is_empty());
    // One item is postponed, one is no longer due.
    let mut later = new_item(key("one", "a"), "");
    later.due = Some(at(50));
    let ended = new_item(key("one", "b"), "");
    done(&store, 10, [put(later, Precondition::Version(1)), put(ended, Precondition::Version(1))])
        .await;
    assert_eq!(
        names(due(&store, "one", 49, 10).await),
        [("c".to_owned(), 30), ("d".to_owned(), 40)]
    );
}

pub async fn due_pages_go_on_where_they_ended(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    for n in 0..25_u32 {
        due_item(&store, u128::from(n) + 1, key("one", &format!("{n:02}")), i64::from(n / 5)).await;
    }
    for limit in [1, 3, 5, 24, 25, 26] {
        let found = due(&store, "one", 100, limit).await;
        let unique: BTreeSet<_> = found.iter().map(|d| d.key.clone()).collect();
        assert_eq!((found.len(), unique.len()), (25, 25), "{limit} a page");
        assert!(found.is_sorted_by_key(|d| d.due));
    }
    let bad = store.due(0, at(1), 1, Some("no cursor".into())).await;
    assert!(matches!(bad, Err(StoreError::BadCursor(_))), "{bad:?}");
}
