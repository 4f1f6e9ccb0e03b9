//! Builds stream records from changes of the store, and unreadable ones.

use aws_lambda_events::event::dynamodb::EventRecord;
use serde_json::{Map, Value, json};
use watchbill_core::ports::{Change, Item, due_shard};

/// The change as a stream record, number `seq` of its shard.
pub fn record(change: &Change, seq: usize) -> EventRecord {
    let (name, image) = match &change.image {
        Some(item) if item.version == 1 => ("INSERT", Some(image(item))),
        Some(item) => ("MODIFY", Some(image(item))),
        None => ("REMOVE", None),
    };
    raw(seq, name, &change.key.partition, &change.key.sort, image)
}

/// The same with an invalid write id.
pub fn damaged(change: &Change, seq: usize) -> EventRecord {
    let item = change.image.as_ref().expect("nothing is deleted here");
    let mut image = image(item);
    image["w"] = json!({"S": "?"});
    raw(seq, "MODIFY", &change.key.partition, &change.key.sort, Some(image))
}

/// A record that no version of Watchbill has ever written.
pub fn poison(seq: usize) -> EventRecord {
    let image = json!({"pk": {"S": "T#default#task#?"}, "sk": {"S": "0"}, "v": {"S": "many"}});
    raw(seq, "MODIFY", "T#default#task#?", "0", Some(image))
}

fn raw(seq: usize, name: &str, pk: &str, sk: &str, image: Option<Value>) -> EventRecord {
    let mut change = json!({
        "ApproximateCreationDateTime": 1_767_225_600.0,
        "Keys": {"pk": {"S": pk}, "sk": {"S": sk}},
        "SequenceNumber": seq.to_string(),
        "SizeBytes": 1,
        "StreamViewType": "NEW_IMAGE",
    });
    if let Some(image) = image {
        change["NewImage"] = image;
    }
    let record = json!({
        "eventID": format!("e{seq}"),
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/s",
        "dynamodb": change,
    });
    serde_json::from_value(record).expect("the form that Lambda documents")
}

/// The table's attributes, deliberately written a second time: what the store writes must be
/// what is read from the stream.
fn image(item: &Item) -> Value {
    let text = |text: &str| json!({"S": text});
    let number = |n: i64| json!({"N": n.to_string()});
    let bytes = |bytes: &[u8]| json!({"B": base64(bytes)});
    let mut image = Map::new();
    let mut set = |name: &str, value: Value| image.insert(name.to_owned(), value);
    set("pk", text(&item.key.partition));
    set("sk", text(&item.key.sort));
    set("v", json!({"N": item.version.to_string()}));
    set("w", bytes(&item.write_id.0.to_be_bytes()));
    set("k", text(&item.kind));
    set("s", number(item.schema.into()));
    set("b", bytes(&item.body));
    if let Some(list) = &item.list {
        set("l1", text(&list.partition));
        set("l1s", text(&list.sort));
    }
    if let Some(list) = &item.list2 {
        set("l2", text(&list.partition));
        set("l2s", text(&list.sort));
    }
    if let Some(due) = item.due {
        set("ds", text(&format!("{:02}", due_shard(&item.key.partition))));
        set("d", number(due.millis()));
    }
    for (name, value) in &item.counters {
        set(&format!("c_{name}"), number(*value));
    }
    Value::Object(image)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
