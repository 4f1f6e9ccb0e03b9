//! A table that is busy, answers in parts, or refuses.

use std::sync::Arc;

use serde_json::{Value, json};
use watchbill_core::ports::{
    CommitError, Key, ListRange, Query, Store, StoreError, WhichList, Write, due_shard,
};
use watchbill_domain::Timestamp;
use watchbill_testkit::store_suite::{commit, create, key, replace};

use crate::dynamo::peer::{Answer, Peer, cancelled, error, ok, row};

const THROTTLES: [&str; 3] =
    ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"];

fn refusal(code: &str) -> Answer {
    error(400, code, json!({"message": "said the peer"}))
}

async fn commit_error(peer: &Peer, writes: impl Into<Vec<Write>>) -> CommitError {
    let store: Arc<dyn Store> = Arc::new(peer.store());
    commit(&store, 7, writes).await.unwrap_err()
}

fn one() -> [Write; 1] {
    [create(key("a", "0"), "{}")]
}

fn two() -> [Write; 2] {
    [create(key("a", "0"), "{}"), replace(key("b", "0"), "{}", 4)]
}

#[tokio::test]
async fn a_throttled_table_is_busy() {
    for code in THROTTLES {
        for writes in [one().to_vec(), two().to_vec(), vec![replace(key("a", "0"), "{}", 1)]] {
            let peer = Peer::start([(); 3].map(|()| refusal(code))).await;
            let error = commit_error(&peer, writes).await;
            assert!(matches!(error, CommitError::Busy { .. }), "{error:?}");
            assert_eq!(peer.asked().len(), 3, "the SDK tries three times");
        }
        let peer = Peer::start([(); 3].map(|()| refusal(code))).await;
        let error = peer.store().get(&key("a", "0")).await.unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_transaction_conflict_is_busy() {
    let peer = Peer::start([refusal("TransactionConflictException")]).await;
    let error = commit_error(&peer, one()).await;
    assert!(matches!(error, CommitError::Busy { .. }), "{error:?}");
    for codes in [
        ["None", "TransactionConflict"],
        ["TransactionConflict", "TransactionConflict"],
        ["ThrottlingError", "None"],
        ["ProvisionedThroughputExceeded", "TransactionConflict"],
    ] {
        let peer = Peer::start([cancelled(&codes.map(|code| (code, None)))]).await;
        let error = commit_error(&peer, two()).await;
        assert!(matches!(error, CommitError::Busy { .. }), "{codes:?}: {error:?}");
    }
    let peer = Peer::start([(); 3].map(|()| refusal("TransactionInProgressException"))).await;
    let error = commit_error(&peer, two()).await;
    assert!(matches!(error, CommitError::Busy { .. }), "{error:?}");
}

#[tokio::test]
async fn a_wrong_request_is_illegal_and_says_the_limits() {
    let token = "IdempotentParameterMismatchException";
    for (answer, writes) in [
        (refusal("ValidationException"), one().to_vec()),
        (refusal(token), two().to_vec()),
        (cancelled(&[("None", None), ("ValidationError", None)]), two().to_vec()),
    ] {
        let peer = Peer::start([answer]).await;
        let error = commit_error(&peer, writes).await;
        let CommitError::Illegal { reason } = error else { panic!("{error:?}") };
        assert!(reason.contains("400 KB"), "{reason}");
    }
}

#[tokio::test]
async fn what_would_fail_again_is_down() {
    for code in ["AccessDeniedException", "ResourceNotFoundException", "NeverHeardOf"] {
        let peer = Peer::start([refusal(code)]).await;
        let error = commit_error(&peer, one()).await;
        let CommitError::Store(StoreError::Down { reason }) = error else { panic!("{error:?}") };
        assert_eq!(reason, format!("{code}: said the peer"));
    }
    let peer = Peer::start([cancelled(&[("NeverHeardOf", None), ("None", None)])]).await;
    let error = commit_error(&peer, two()).await;
    assert!(matches!(error, CommitError::Store(StoreError::Down { .. })), "{error:?}");
}

fn keys_left(keys: &[&Key]) -> Value {
    let keys: Vec<Value> = keys
        .iter()
        .map(|key| json!({"pk": {"S": &*key.partition}, "sk": {"S": &*key.sort}}))
        .collect();
    json!({"table": {"Keys": keys, "ConsistentRead": true}})
}

#[tokio::test]
async fn keys_that_were_left_out_are_asked_for_again() {
    let [a, b, c] = ["a", "b", "c"].map(|name| key(name, "0"));
    let peer = Peer::start([
        ok(json!({"Responses": {"table": [row("b", 2, 1)]}, "UnprocessedKeys": keys_left(&[&a, &c])})),
        ok(json!({"Responses": {"table": []}, "UnprocessedKeys": keys_left(&[&a, &c])})),
        ok(json!({"Responses": {"table": [row("a", 1, 1)]}, "UnprocessedKeys": {}})),
    ])
    .await;
    let asked = [a.clone(), b.clone(), c, a, b];
    let found = peer.store().get_many(&asked).await.unwrap();
    let versions: Vec<Option<u64>> = found.iter().map(|i| i.as_ref().map(|i| i.version)).collect();
    assert_eq!(versions, [Some(1), Some(2), None, Some(1), Some(2)]);
    let counts: Vec<usize> = peer
        .asked()
        .iter()
        .map(|request| request.body["RequestItems"]["table"]["Keys"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [3, 2, 2]);
    assert!(peer.asked().iter().all(|r| r.body["RequestItems"]["table"]["ConsistentRead"] == true));
}

#[tokio::test]
async fn keys_that_are_never_answered_are_busy() {
    let keys = ["a", "b"].map(|name| key(name, "0"));
    let left = || ok(json!({"Responses": {}, "UnprocessedKeys": keys_left(&[&keys[0], &keys[1]])}));
    let peer = Peer::start([(); 5].map(|()| left())).await;
    let error = peer.store().get_many(&keys).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    assert_eq!(peer.asked().len(), 5);
}

fn list(cursor: Option<String>) -> Query {
    Query {
        list: WhichList::First,
        partition: "T#mine".into(),
        range: ListRange { from: Some("3".into()), to: Some("7".into()) },
        descending: false,
        limit: 2,
        cursor,
    }
}

#[tokio::test]
async fn a_cursor_stays_in_the_partition_and_range_asked() {
    let stolen = r#"["1","T#other#task","0"]"#.to_owned();
    let peer = Peer::start([ok(json!({"Items": []}))]).await;
    peer.store().query(list(Some(stolen))).await.unwrap();
    let asked = &peer.asked()[0].body;
    let values = &asked["ExpressionAttributeValues"];
    assert_eq!(values[":p"], json!({"S": "T#mine"}));
    assert_eq!((&values[":from"], &values[":to"]), (&json!({"S": "3"}), &json!({"S": "7"})));
    assert!(asked.get("ExclusiveStartKey").is_none());
}

#[tokio::test]
async fn bad_cursors_are_refused_without_a_call() {
    let peer = Peer::start([]).await;
    let store = peer.store();
    let bad_list = [r#"["1","",""]"#, r#"["","p","s"]"#, "[1,2,3]", "", r#"["1","p"]"#];
    for cursor in bad_list {
        let refused = store.query(list(Some(cursor.to_owned()))).await;
        assert!(matches!(refused, Err(StoreError::BadCursor(_))), "{cursor}: {refused:?}");
    }
    let shard = due_shard("P#a");
    let other = (shard + 1) % 32;
    for (shard, cursor) in [(other, r#"[5,"P#a","0"]"#), (shard, r#"["5","P#a","0"]"#)] {
        let until = Timestamp::from_millis(9);
        let refused = store.due(shard, until, 1, Some(cursor.to_owned())).await;
        assert!(matches!(refused, Err(StoreError::BadCursor(_))), "{cursor}: {refused:?}");
    }
    assert!(peer.asked().is_empty());
}

/// Rows of equal sort come in any order, and an index page may end among them.
#[tokio::test]
async fn equal_sorts_are_ordered_across_the_pages_of_the_index() {
    let entry = |sort: &str, name: &str| {
        json!({
            "l1": {"S": "T#mine"}, "l1s": {"S": sort},
            "pk": {"S": format!("P#{name}")}, "sk": {"S": "0"},
        })
    };
    let more = |name| json!({"pk": {"S": name}});
    let peer = Peer::start([
        ok(json!({"Items": [entry("4", "z"), entry("5", "d"), entry("5", "b")],
            "LastEvaluatedKey": more("one")})),
        ok(json!({"Items": [entry("5", "a"), entry("6", "c")], "LastEvaluatedKey": more("two")})),
    ])
    .await;
    let page = peer.store().query(list(None)).await.unwrap();
    assert_eq!(page.entries, [key("z", "0"), key("a", "0")]);
    assert_eq!(page.next.as_deref(), Some(r#"["5","P#a","0"]"#));
    assert_eq!(peer.asked()[1].body["ExclusiveStartKey"], more("one"));
}
