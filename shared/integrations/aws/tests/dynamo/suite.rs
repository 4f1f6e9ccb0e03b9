//! The store suite, and the limits that only this store has.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use watchbill_aws::dynamo::DynamoStore;
use watchbill_core::ports::{CommitError, Key, Precondition, Store};
use watchbill_testkit::store_suite::{
    Follow, StoreUnderTest, add, at, commit, conflict, create, done, entry, get, key, new_item,
    put, replace,
};

use crate::dynamo::follow::StreamFeed;
use crate::dynamo::table::Table;

struct UnderTest {
    store: Arc<DynamoStore>,
    table: Table,
}

impl UnderTest {
    async fn new() -> Self {
        let table = Table::create().await;
        Self { store: Arc::new(table.open()), table }
    }
}

#[async_trait]
impl StoreUnderTest for UnderTest {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn follow(&self, after: u64) -> Box<dyn Follow> {
        let client = aws_sdk_dynamodbstreams::Client::new(&self.table.account);
        Box::new(StreamFeed::open(client, self.table.stream.clone(), after))
    }

    async fn reopen(&mut self) {
        self.store = Arc::new(self.table.open());
    }
}

watchbill_testkit::store_suite!(UnderTest::new());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dynamo_cannot_hold_is_illegal_and_not_there() {
    let under_test = UnderTest::new().await;
    let store = under_test.store();
    let long = "x".repeat(1025);
    let mut listed = new_item(key("a", "0"), "");
    listed.list = entry("L", &long);
    let mut large = new_item(key("a", "0"), "");
    large.body = vec![0; 400 * 1024].into();
    let oversorted = Key::new("P#a", &*long);
    let overlong = Key::new("x".repeat(2049), "0");
    let nameless = Key::new("", "0");
    for (write, word) in [
        (put(listed, Precondition::Absent), "a list entry"),
        (put(large, Precondition::Version(1)), "409600"),
        (create(oversorted.clone(), ""), "1025"),
        (create(overlong.clone(), ""), "2049"),
        (create(nameless.clone(), ""), "a partition of 0 and a sort of 1"),
    ] {
        let alone = commit(&store, 1, [write.clone()]).await;
        let beside = commit(&store, 1, [write, create(key("b", "0"), "")]).await;
        for refused in [alone, beside] {
            let Err(CommitError::Illegal { reason }) = refused else { panic!("{refused:?}") };
            assert!(reason.contains(word), "{reason}");
        }
    }
    for key in [&oversorted, &overlong, &nameless] {
        assert_eq!(get(&store, key).await, None);
    }
    let keys = [oversorted, overlong, nameless];
    assert_eq!(store.get_many(&keys).await.unwrap(), [None, None, None]);
    assert_eq!(store.collect("", "").await.unwrap(), []);
    assert_eq!(get(&store, &key("b", "0")).await, None);
}

/// DynamoDB's byte count and ours agree at the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_of_nearly_400_kb_is_held() {
    let under_test = UnderTest::new().await;
    let store = under_test.store();
    let mut large = new_item(key("a", "0"), "");
    large.body = vec![7; 400 * 1024 - 200].into();
    done(&store, 1, [put(large.clone(), Precondition::Absent)]).await;
    done(&store, 2, [put(large.clone(), Precondition::Version(1))]).await;
    let read = get(&store, &large.key).await.unwrap();
    assert_eq!((read.version, read.body), (2, large.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_keeps_its_milliseconds() {
    let under_test = UnderTest::new().await;
    let store = under_test.store();
    let mut item = new_item(key("a", "0"), "");
    for (version, millis) in (0..).zip([8_001, 9_000, 9_999, -1]) {
        item.expires = Some(at(millis));
        let expect =
            if version == 0 { Precondition::Absent } else { Precondition::Version(version) };
        done(&store, u128::from(version) + 1, [put(item.clone(), expect)]).await;
        assert_eq!(get(&store, &item.key).await.unwrap().expires, Some(at(millis)));
    }
    for (id, expires) in [(10, Some(at(12_345))), (11, None), (12, Some(at(13_000)))] {
        let mut writes = vec![create(key("guard", &id.to_string()), "")];
        let mut count = add(key("n", "0"), "n", 1, None);
        if let watchbill_core::ports::Write::Add { expires: to, .. } = &mut count {
            *to = expires;
        }
        writes.push(count);
        done(&store, id, writes).await;
        let read = get(&store, &key("n", "0")).await.unwrap();
        assert_eq!(read.expires, expires.or(Some(at(12_345))), "none leaves it as it is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_above_the_ceiling_is_refused_even_by_an_empty_counter() {
    let under_test = UnderTest::new().await;
    let store = under_test.store();
    let spend = |delta, ceiling| add(key("budget", "0"), "spent", delta, Some(ceiling));
    for (id, delta, ceiling) in [(1, 11, 10), (2, i64::MAX, 1), (3, -1, -2)] {
        let writes = [create(key("t", "0"), ""), spend(delta, ceiling)];
        let (failed, current) = conflict(commit(&store, id, writes).await);
        assert_eq!((failed, current), (key("budget", "0"), None));
    }
    done(&store, 4, [create(key("t", "0"), ""), spend(-3, -3)]).await;
    done(&store, 5, [create(key("t", "1"), ""), spend(13, 10)]).await;
    conflict(commit(&store, 6, [create(key("t", "2"), ""), spend(1, 10)]).await);
    done(&store, 7, [create(key("t", "3"), ""), spend(i64::MIN, i64::MIN + 10)]).await;
}

/// A transaction's token is its write id, and DynamoDB binds it to the writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_id_used_for_other_writes_is_illegal() {
    let under_test = UnderTest::new().await;
    let store = under_test.store();
    let (k, n) = (key("a", "0"), key("n", "0"));
    let writes = [create(k.clone(), "one"), add(n.clone(), "n", 1, None)];
    done(&store, 1, writes.clone()).await;
    let others = [create(key("b", "0"), "one"), add(n.clone(), "n", 1, None)];
    let refused = commit(&store, 1, others).await;
    assert!(matches!(refused, Err(CommitError::Illegal { .. })), "{refused:?}");
    done(&store, 2, [replace(k, "two", 1)]).await;
    done(&store, 1, writes).await;
    assert_eq!(get(&store, &n).await.unwrap().counters["n"], 1, "written over, and not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_come_in_the_order_asked() {
    let under_test = UnderTest::new().await;
    let store = under_test.store();
    let keys: Vec<Key> = (0..150).map(|n| key(&n.to_string(), "0")).collect();
    for (id, keys) in (1..).zip(keys.chunks(75)) {
        let writes: Vec<_> = keys.iter().map(|key| create(key.clone(), &key.partition)).collect();
        done(&store, id, writes).await;
    }
    let mut asked: Vec<Key> = keys.iter().rev().chain(&keys).cloned().collect();
    asked.insert(7, key("absent", "0"));
    let found = store.get_many(&asked).await.unwrap();
    for (key, item) in asked.iter().zip(&found) {
        let body = item.as_ref().map(|item| item.body.clone());
        let there = &*key.partition != "P#absent";
        assert_eq!(body, there.then(|| Bytes::from(key.partition.as_bytes().to_vec())));
    }
    assert_eq!(store.get_many(&[]).await.unwrap(), []);
}
