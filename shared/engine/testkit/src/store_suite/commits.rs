//! Guarantees of commits: versions, conditions, counters and limits.

use bytes::Bytes;
use watchbill_core::ports::{CommitError, MAX_WRITES, Precondition, Write, WriteId};

use super::{
    StoreUnderTest, add, at, body, commit, conflict, create, done, entry, get, key, new_item, put,
    replace,
};

pub async fn puts_are_read_back_with_their_versions(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let k = key("a", "0");
    assert_eq!(get(&store, &k).await, None);
    let mut new = new_item(k.clone(), "one");
    new.list = entry("L", "5");
    new.list2 = entry("M", "6");
    new.due = Some(at(7_000));
    new.expires = Some(at(8_000));
    done(&store, 1, [put(new.clone(), Precondition::Absent)]).await;
    let read = get(&store, &k).await.expect("it was put");
    assert_eq!(
        (read.version, read.write_id, &*read.kind, read.schema),
        (1, WriteId(1), "thing", 3)
    );
    assert_eq!(
        (&read.key, &read.body, &read.list, &read.list2, read.due, read.expires),
        (&new.key, &new.body, &new.list, &new.list2, new.due, new.expires)
    );
    assert!(read.counters.is_empty());
    new.schema = 4;
    new.kind = "other".into();
    (new.list2, new.due, new.expires) = (None, None, Some(at(9_000)));
    done(&store, 2, [put(new, Precondition::Version(1))]).await;
    drop(store);
    under_test.reopen().await;
    let store = under_test.store();
    let read = get(&store, &k).await.expect("it was put");
    assert_eq!(
        (read.version, read.write_id, &*read.kind, read.schema),
        (2, WriteId(2), "other", 4)
    );
    assert_eq!((read.list, read.list2), (entry("L", "5"), None));
    assert_eq!((read.due, read.expires), (None, Some(at(9_000))));
    let many = store.get_many(&[key("a", "1"), k.clone(), k]).await.expect("keys can be read");
    let found: Vec<_> = many.iter().map(|item| item.as_ref().map(|i| i.version)).collect();
    assert_eq!(found, [None, Some(2), Some(2)], "in the order asked");
}

pub async fn a_failed_condition_gives_the_current_item_and_writes_nothing(
    under_test: &mut impl StoreUnderTest,
) {
    let store = under_test.store();
    let k = key("a", "0");
    let (at_key, current) = conflict(commit(&store, 1, [replace(k.clone(), "x", 1)]).await);
    assert_eq!((at_key, current), (k.clone(), None), "what is absent has no version");
    done(&store, 2, [create(k.clone(), "one")]).await;
    for refused in [create(k.clone(), "x"), replace(k.clone(), "x", 2), replace(k.clone(), "x", 0)]
    {
        let (at_key, current) = conflict(commit(&store, 3, [refused]).await);
        assert_eq!(at_key, k);
        assert_eq!(current, get(&store, &k).await);
    }
    assert_eq!(body(&store, &k).await.as_deref(), Some("one"));
}

pub async fn our_own_write_is_recognised(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let (k, other) = (key("a", "0"), key("b", "0"));
    for _ in 0..2 {
        done(&store, 1, [create(k.clone(), "one")]).await;
    }
    for _ in 0..2 {
        done(&store, 2, [replace(k.clone(), "two", 1)]).await;
    }
    // The repeated commit has further writes, whose conditions no longer hold either.
    done(&store, 3, [create(other.clone(), "x")]).await;
    let writes = [
        Write::Delete { key: other.clone(), expect: Precondition::Version(1) },
        add(key("c", "n"), "used", 1, Some(1)),
        replace(k.clone(), "three", 2),
    ];
    for _ in 0..2 {
        done(&store, 4, writes.clone()).await;
    }
    let read = get(&store, &k).await.expect("it was put");
    assert_eq!(read.version, 3, "nothing was done twice");
    let counter = get(&store, &key("c", "n")).await.expect("it was counted");
    assert_eq!((counter.version, counter.counters["used"]), (1, 1));
    conflict(commit(&store, 5, writes).await);
    done(&store, 6, [replace(k.clone(), "four", 3)]).await;
    conflict(commit(&store, 2, [replace(k, "two", 1)]).await);
}

pub async fn a_commit_is_all_or_nothing(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let keys: Vec<_> = (0..5).map(|n| key("a", &n.to_string())).collect();
    done(&store, 1, [create(keys[3].clone(), "old")]).await;
    let writes: Vec<Write> = keys.iter().map(|k| create(k.clone(), "new")).collect();
    let (failed, _) = conflict(commit(&store, 2, writes).await);
    assert_eq!(failed, keys[3]);
    for (n, k) in keys.iter().enumerate() {
        assert_eq!(body(&store, k).await.as_deref(), (n == 3).then_some("old"));
    }
    let writes: Vec<Write> =
        (0..MAX_WRITES).map(|n| create(key("b", &n.to_string()), "")).collect();
    done(&store, 3, writes).await;
    let all = store.collect("P#b", "").await.expect("a partition can be read");
    assert_eq!(all.len(), MAX_WRITES);
}

pub async fn checks_and_deletes_demand_what_they_say(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let (k, gone, new) = (key("a", "0"), key("b", "0"), key("c", "0"));
    done(&store, 1, [create(k.clone(), "one")]).await;
    let check = |expect| Write::Check { key: k.clone(), expect };
    conflict(commit(&store, 2, [check(Precondition::Version(2)), create(new.clone(), "x")]).await);
    conflict(commit(&store, 3, [check(Precondition::Absent), create(new.clone(), "x")]).await);
    let absent = Write::Check { key: gone.clone(), expect: Precondition::Absent };
    done(&store, 4, [check(Precondition::Version(1)), absent, create(new.clone(), "x")]).await;
    assert_eq!(get(&store, &k).await.map(|item| item.version), Some(1), "a check writes nothing");
    let delete = |expect| Write::Delete { key: new.clone(), expect };
    conflict(commit(&store, 5, [delete(Precondition::Version(7))]).await);
    conflict(commit(&store, 6, [delete(Precondition::Absent)]).await);
    done(&store, 7, [delete(Precondition::Version(1))]).await;
    assert_eq!(get(&store, &new).await, None);
    conflict(commit(&store, 8, [delete(Precondition::Version(1))]).await);
    done(&store, 9, [create(new.clone(), "again")]).await;
    assert_eq!(get(&store, &new).await.map(|item| item.version), Some(1));
}

pub async fn counters_keep_their_ceilings(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let budget = key("budget", "0");
    let spend = |delta, ceiling| add(budget.clone(), "spent", delta, ceiling);
    done(&store, 1, [create(key("t", "1"), ""), spend(7, Some(10))]).await;
    let refused = [create(key("t", "2"), ""), spend(4, Some(10))];
    let (failed, current) = conflict(commit(&store, 2, refused).await);
    assert_eq!(failed, budget);
    assert_eq!(current.expect("it was counted").counters["spent"], 7);
    assert_eq!(get(&store, &key("t", "2")).await, None, "nothing was written");
    done(&store, 3, [create(key("t", "3"), ""), spend(3, Some(10))]).await;
    done(&store, 4, [create(key("t", "4"), ""), spend(-5, Some(10))]).await;
    done(&store, 5, [create(key("t", "5"), ""), spend(100, None)]).await;
    let counter = get(&store, &budget).await.expect("it was counted");
    assert_eq!((counter.version, counter.counters["spent"]), (4, 105));
    assert_eq!((&*counter.kind, counter.body), ("counter", Bytes::new()));
}

pub async fn a_put_keeps_the_counters(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let k = key("a", "0");
    done(&store, 1, [create(key("t", "1"), ""), add(k.clone(), "n", 2, None)]).await;
    done(&store, 2, [replace(k.clone(), "body", 1)]).await;
    done(&store, 3, [create(key("t", "2"), ""), add(k.clone(), "m", 5, None)]).await;
    drop(store);
    under_test.reopen().await;
    let read = get(&under_test.store(), &k).await.expect("it was put");
    assert_eq!((read.version, &read.body[..]), (3, &b"body"[..]));
    let counters: Vec<_> = read.counters.into_iter().collect();
    assert_eq!(counters, [("m".to_owned(), 5), ("n".to_owned(), 2)]);
}

pub async fn illegal_commits_are_refused(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let too_many: Vec<Write> =
        (0..=MAX_WRITES).map(|n| create(key("a", &n.to_string()), "")).collect();
    let twice = vec![
        create(key("a", "0"), ""),
        Write::Check { key: key("a", "0"), expect: Precondition::Absent },
    ];
    let unguarded = vec![add(key("a", "0"), "n", 1, None)];
    let check = Write::Check { key: key("a", "1"), expect: Precondition::Absent };
    let checked_only = vec![add(key("a", "0"), "n", 1, None), check];
    for illegal in [vec![], too_many, twice, unguarded, checked_only] {
        let result = commit(&store, 1, illegal).await;
        assert!(matches!(result, Err(CommitError::Illegal { .. })), "{result:?}");
    }
    assert_eq!(store.collect("P#a", "").await.expect("a partition can be read"), []);
}

pub async fn unknown_bytes_come_back(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let mut new = new_item(key("é#1", "ü"), "");
    new.body = (0..=255).cycle().take(200_000).collect();
    new.kind = "from_the_future".into();
    new.schema = u16::MAX;
    done(&store, u128::MAX, [put(new.clone(), Precondition::Absent)]).await;
    drop(store);
    under_test.reopen().await;
    let read = get(&under_test.store(), &new.key).await.expect("it was put");
    assert_eq!((read.body, &*read.kind, read.schema), (new.body, "from_the_future", u16::MAX));
    assert_eq!(read.write_id, WriteId(u128::MAX));
}

pub async fn collect_gives_a_prefix_in_order(under_test: &mut impl StoreUnderTest) {
    let store = under_test.store();
    let sorts = ["S#2", "S#10", "S", "0", "S#1", "S$", "T", "S#é"];
    let mut writes: Vec<Write> = sorts.iter().map(|sort| create(key("a", sort), sort)).collect();
    writes.push(create(key("aa", "S#1"), ""));
    writes.push(create(key("a#", "S#1"), ""));
    done(&store, 1, writes).await;
    for (prefix, expected) in [
        ("S#", vec!["S#1", "S#10", "S#2", "S#é"]),
        ("S", vec!["S", "S#1", "S#10", "S#2", "S#é", "S$"]),
        ("", vec!["0", "S", "S#1", "S#10", "S#2", "S#é", "S$", "T"]),
        ("U", vec![]),
    ] {
        let found = store.collect("P#a", prefix).await.expect("a partition can be read");
        let found: Vec<_> = found.iter().map(|item| &*item.key.sort).collect();
        assert_eq!(found, expected, "prefix '{prefix}'");
    }
}
