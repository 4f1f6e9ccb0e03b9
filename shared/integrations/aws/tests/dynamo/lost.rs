//! Lost answers: a retry recognizes its own success.

use std::sync::Arc;

use serde_json::{Value, json};
use watchbill_core::ports::{CommitError, Item, Precondition, Store, Write};
use watchbill_testkit::store_suite::{add, commit, conflict, create, key, new_item, put, replace};

use crate::dynamo::peer::{Answer, Peer, cancelled, error, ok, row};

fn condition_failed(item: Option<Value>) -> Answer {
    let more = item.map_or(json!({}), |item| json!({ "Item": item }));
    error(400, "ConditionalCheckFailedException", more)
}

async fn committed(peer: &Peer, writes: impl Into<Vec<Write>>) -> Result<(), CommitError> {
    let store: Arc<dyn Store> = Arc::new(peer.store());
    commit(&store, 7, writes).await
}

fn version_of(item: Option<Item>) -> Option<u64> {
    item.map(|item| item.version)
}

#[tokio::test]
async fn a_plain_put_is_one_call_and_no_transaction() {
    let peer = Peer::start([ok(json!({})), ok(json!({}))]).await;
    let mut header = new_item(key("task", "0"), "{}");
    header.kind = "task".into();
    header.due = Some(watchbill_testkit::store_suite::at(5));
    header.list = watchbill_testkit::store_suite::entry("L", "1");
    committed(&peer, [put(header.clone(), Precondition::Absent)]).await.unwrap();
    committed(&peer, [put(header, Precondition::Version(1))]).await.unwrap();
    assert_eq!(peer.operations(), ["PutItem", "UpdateItem"]);
    let asked = peer.asked();
    assert_eq!(asked[0].body["Item"]["v"], json!({"N": "1"}));
    let update = asked[1].body["UpdateExpression"].as_str().unwrap();
    assert!(update.starts_with("SET v = :v, ") && update.contains(" REMOVE l2, l2s"), "{update}");
    for request in asked {
        assert_eq!(request.body["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
        assert!(request.body["ConditionExpression"].is_string());
    }
}

#[tokio::test]
async fn a_lone_delete_and_a_lone_check_are_one_call() {
    let peer = Peer::start([ok(json!({})), ok(json!({"Item": row("a", 4, 1)}))]).await;
    let k = key("a", "0");
    let delete = Write::Delete { key: k.clone(), expect: Precondition::Version(3) };
    committed(&peer, [delete]).await.unwrap();
    let check = Write::Check { key: k, expect: Precondition::Version(4) };
    committed(&peer, [check]).await.unwrap();
    assert_eq!(peer.operations(), ["DeleteItem", "GetItem"]);
    assert_eq!(peer.asked()[1].body["ConsistentRead"], true);
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_finds_itself() {
    let create = create(key("a", "0"), "{}");
    let replace = replace(key("a", "0"), "{}", 4);
    for (write, version) in [(create, 1), (replace, 5)] {
        let found = condition_failed(Some(row("a", version, 7)));
        let peer = Peer::start([Answer::Hangup, found]).await;
        committed(&peer, [write]).await.unwrap();
        assert_eq!(peer.asked().len(), 2, "the SDK asked again");
        let [first, second] = [0, 1].map(|n| peer.asked()[n].body.clone());
        assert_eq!(first, second);
    }
}

#[tokio::test]
async fn anothers_write_is_a_conflict() {
    for (current, version) in [(Some(row("a", 9, 8)), Some(9)), (None, None)] {
        let peer = Peer::start([condition_failed(current)]).await;
        let (at, item) = conflict(committed(&peer, [replace(key("a", "0"), "{}", 4)]).await);
        assert_eq!((at, version_of(item)), (key("a", "0"), version));
    }
}

#[tokio::test]
async fn an_unreadable_current_item_is_said_to_be_corrupt() {
    let mut broken = row("a", 9, 8);
    broken["w"] = json!({"B": "AAAA"});
    let peer = Peer::start([condition_failed(Some(broken))]).await;
    let error = committed(&peer, [create(key("a", "0"), "{}")]).await.unwrap_err();
    assert_eq!(error.to_string(), "unreadable item P#a/0: 'w' has 3 bytes instead of 16");
}

fn two() -> [Write; 2] {
    [create(key("a", "0"), "{}"), replace(key("b", "0"), "{}", 4)]
}

#[tokio::test]
async fn a_transaction_bears_its_token_and_finds_itself() {
    const FAILED: &str = "ConditionalCheckFailed";
    let both = [(FAILED, Some(row("a", 1, 7))), (FAILED, Some(row("b", 5, 7)))];
    let overwritten = [(FAILED, Some(row("a", 1, 7))), (FAILED, Some(row("b", 6, 9)))];
    for reasons in [both, overwritten] {
        let peer = Peer::start([Answer::Hangup, cancelled(&reasons)]).await;
        committed(&peer, two()).await.unwrap();
        assert_eq!(peer.operations(), ["TransactWriteItems"; 2]);
        for request in peer.asked() {
            assert_eq!(request.body["ClientRequestToken"], format!("{:032x}", 7));
        }
    }
}

#[tokio::test]
async fn the_first_failed_condition_is_the_conflict() {
    const FAILED: &str = "ConditionalCheckFailed";
    let cases = [
        ([("None", None), (FAILED, Some(row("b", 6, 9)))], "b", Some(6)),
        ([(FAILED, Some(row("a", 2, 9))), (FAILED, Some(row("b", 6, 9)))], "a", Some(2)),
        // A failed condition would fail again, whatever the conflict.
        ([("TransactionConflict", None), (FAILED, None)], "b", None),
    ];
    for (reasons, at, version) in cases {
        let peer = Peer::start([cancelled(&reasons)]).await;
        let (failed, item) = conflict(committed(&peer, two()).await);
        assert_eq!((failed, version_of(item)), (key(at, "0"), version));
        assert_eq!(peer.operations(), ["TransactWriteItems"]);
    }
}

#[tokio::test]
async fn an_addition_that_passed_is_checked_for_its_write_id() {
    let reasons = [("ConditionalCheckFailed", Some(row("a", 2, 9))), ("None", None)];
    let writes = || [create(key("a", "0"), "{}"), add(key("n", "0"), "n", 1, None)];
    let read = |write_id| ok(json!({"Item": row("n", 3, write_id)}));
    let done = Peer::start([cancelled(&reasons), read(7)]).await;
    committed(&done, writes()).await.unwrap();
    let not_done = Peer::start([cancelled(&reasons), read(8)]).await;
    let (failed, item) = conflict(committed(&not_done, writes()).await);
    assert_eq!((failed, version_of(item)), (key("a", "0"), Some(2)));
    for peer in [done, not_done] {
        assert_eq!(peer.operations(), ["TransactWriteItems", "GetItem"]);
        assert_eq!(peer.asked()[1].body["Key"]["pk"], json!({"S": "P#n"}));
    }
}

#[tokio::test]
async fn no_answer_at_all_leaves_the_outcome_open() {
    let failures: [fn() -> Answer; 2] =
        [|| Answer::Hangup, || error(500, "InternalServerError", json!({"message": "m"}))];
    for failure in failures {
        for writes in [two().to_vec(), two()[..1].to_vec()] {
            let peer = Peer::start([failure(), failure(), failure()]).await;
            let unclear = committed(&peer, writes).await;
            assert!(matches!(unclear, Err(CommitError::Unknown { .. })), "{unclear:?}");
            assert_eq!(peer.asked().len(), 3);
        }
    }
}

#[tokio::test]
async fn silence_leaves_the_outcome_open() {
    let peer = Peer::start([Answer::Silence, Answer::Silence, Answer::Silence]).await;
    let store: Arc<dyn Store> = Arc::new(peer.hasty_store());
    let unclear = commit(&store, 7, two()).await;
    assert!(matches!(unclear, Err(CommitError::Unknown { .. })), "{unclear:?}");
    assert_eq!(peer.asked().len(), 3);
}
