//! Cost model: what DynamoDB, SQS and EventBridge bill, by their published rules, for the calls
//! that the proxy recorded and the writes that the stream shows.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use serde_json::Value;

use super::emulator::text;
use super::proxy::Call;
use super::trouble::Service;

const WRITE: usize = 1024;
const READ: usize = 4096;
/// SQS and EventBridge bill each 64 KB as one request.
const CHUNK: usize = 64 * 1024;
/// Bytes that DynamoDB adds to each item and index entry when it bills storage.
const OVERHEAD: usize = 100;

/// Where units are consumed. Each place has its own limits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    Table,
    List1,
    List2,
    Due,
}

/// Each index with its partition attribute and its sort attribute.
const INDEXES: [(Place, &str, &str); 3] =
    [(Place::List1, "l1", "l1s"), (Place::List2, "l2", "l2s"), (Place::Due, "ds", "d")];

impl Place {
    fn of(index: Option<&str>) -> Self {
        match index {
            None => Place::Table,
            Some("list1") => Place::List1,
            Some("list2") => Place::List2,
            Some("due") => Place::Due,
            Some(other) => panic!("the table has no index {other}"),
        }
    }
}

/// Units on one partition.
#[derive(Clone, Debug)]
pub struct Load {
    pub place: Place,
    pub partition: String,
    /// The kind of the item; empty for reads.
    pub kind: String,
    pub writes: f64,
    pub reads: f64,
}

/// Items as the stream last showed them, by key.
#[derive(Default)]
pub struct Images(HashMap<(String, String), Value>);

impl Images {
    /// The write units of these records. A write costs by the larger of the item before and
    /// after. Each index entry that is added, removed or moved costs too. A transaction doubles
    /// the item's own units.
    pub fn write_units(&mut self, records: &[Value], calls: &[Call]) -> Vec<Load> {
        let transacted = transacted(calls);
        let mut loads = Vec::new();
        for record in records {
            let change = &record["dynamodb"];
            let key = key(&change["Keys"]);
            let after = &change["NewImage"];
            let before = self.0.insert(key.clone(), after.clone()).unwrap_or(Value::Null);
            let times = if transacted.contains(text(&after["w"]["B"])) { 2 } else { 1 };
            let kind = text(&after["k"]["S"]).to_owned();
            let load = |place, partition: &str, units: usize| Load {
                place,
                partition: partition.to_owned(),
                kind: kind.clone(),
                writes: units as f64,
                reads: 0.0,
            };
            let units = size(&before).max(size(after)).div_ceil(WRITE) * times;
            loads.push(load(Place::Table, &key.0, units));
            for (place, partition, sort) in INDEXES {
                let entry = |image: &Value| -> Option<(String, Value)> {
                    let partition = image[partition]["S"].as_str()?;
                    Some((partition.to_owned(), image[sort].clone()))
                };
                let (before, after) = (entry(&before), entry(after));
                if before == after {
                    continue;
                }
                // Index entries hold keys only, far below a kilobyte: one unit to remove, one to
                // put.
                for (partition, _) in before.into_iter().chain(after) {
                    loads.push(load(place, &partition, 1));
                }
            }
        }
        loads
    }

    /// The billed storage in bytes of these records' items and their index entries. An item that
    /// changed several times counts once, in its current state.
    pub fn stored(&self, records: &[Value]) -> usize {
        let keys: BTreeSet<_> = records.iter().map(|r| key(&r["dynamodb"]["Keys"])).collect();
        let stored = keys.iter().filter_map(|key| self.0.get(key)).map(|image| {
            let keys = value_size(&image["pk"]) + value_size(&image["sk"]) + 4;
            let entries = INDEXES.iter().filter(|(_, partition, _)| !image[*partition].is_null());
            let entry = |(_, partition, sort): &(Place, &str, &str)| {
                let own = partition.len() + sort.len();
                OVERHEAD + keys + own + value_size(&image[*partition]) + value_size(&image[*sort])
            };
            size(image) + OVERHEAD + entries.map(entry).sum::<usize>()
        });
        stored.sum()
    }
}

fn key(keys: &Value) -> (String, String) {
    (text(&keys["pk"]["S"]).to_owned(), text(&keys["sk"]["S"]).to_owned())
}

/// The write ids of transactions, as they are stored in the items.
fn transacted(calls: &[Call]) -> BTreeSet<String> {
    fn find(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    match value["B"].as_str() {
                        Some(id) if name == "w" || name == ":w" => {
                            found.insert(id.to_owned());
                        }
                        _ => find(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| find(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for call in calls.iter().filter(|call| call.operation == "TransactWriteItems") {
        find(&call.request, &mut found);
    }
    found
}

/// The units of reads, and of writes whose condition failed.
pub fn read_units(calls: &[Call]) -> Vec<Load> {
    let mut loads = Vec::new();
    for call in calls.iter().filter(|call| call.service == Service::DynamoDb) {
        let (asked, answer) = (&call.request, &call.answer);
        let mut load = |place, partition: &Value, bytes: usize, strong: bool| {
            let units = bytes.div_ceil(READ).max(1) as f64;
            let reads = if strong { units } else { units / 2.0 };
            let partition = text(partition).to_owned();
            loads.push(Load { place, partition, kind: String::new(), writes: 0.0, reads });
        };
        let strong = asked["ConsistentRead"] == true;
        match call.operation.as_str() {
            "GetItem" => {
                load(Place::Table, &asked["Key"]["pk"]["S"], size(&answer["Item"]), strong)
            }
            "Query" => {
                let values = &asked["ExpressionAttributeValues"];
                let by = if values[":p"].is_null() { ":pk" } else { ":p" };
                let bytes = list(&answer["Items"]).iter().map(size).sum();
                let place = Place::of(asked["IndexName"].as_str());
                load(place, &values[by]["S"], bytes, strong);
            }
            "BatchGetItem" => {
                for (table, asked) in asked["RequestItems"].as_object().into_iter().flatten() {
                    let items = list(&answer["Responses"][table]);
                    for key in list(&asked["Keys"]) {
                        let item =
                            items.iter().find(|i| (&i["pk"], &i["sk"]) == (&key["pk"], &key["sk"]));
                        let strong = asked["ConsistentRead"] == true;
                        load(Place::Table, &key["pk"]["S"], item.map_or(0, size), strong);
                    }
                }
            }
            _ if call.status == 400 => loads.push(refused(call)),
            "PutItem" | "UpdateItem" | "TransactWriteItems" | "DeleteItem" => {}
            other => panic!("say here what DynamoDB bills for {other}"),
        }
    }
    loads
}

fn refused(call: &Call) -> Load {
    let asked = &call.request;
    let key = if asked["Key"].is_null() { &asked["Item"] } else { &asked["Key"] };
    Load {
        place: Place::Table,
        partition: key["pk"]["S"].as_str().unwrap_or("?").to_owned(),
        kind: "refused".to_owned(),
        writes: size(&call.answer["Item"]).div_ceil(WRITE).max(1) as f64,
        reads: 0.0,
    }
}

/// Requests as SQS bills them.
pub fn sqs_requests(calls: &[Call]) -> f64 {
    let sqs = calls.iter().filter(|call| call.service == Service::Sqs);
    let requests = sqs.map(|call| {
        let body = |entry: &Value| entry["MessageBody"].as_str().map_or(0, str::len);
        let bytes: usize = list(&call.request["Entries"]).iter().map(body).sum();
        bytes.div_ceil(CHUNK).max(1)
    });
    requests.sum::<usize>() as f64
}

/// Events as EventBridge bills them.
pub fn events(calls: &[Call]) -> f64 {
    let puts = calls.iter().filter(|call| call.operation == "PutEvents");
    let entries = puts.flat_map(|call| list(&call.request["Entries"]));
    let chunks = entries.map(|entry| {
        let part = |name: &str| entry[name].as_str().map_or(0, str::len);
        // The time counts as 14 bytes.
        let fixed = 14 + part("Source") + part("DetailType");
        let resources = list(&entry["Resources"]).iter().map(|r| text(r).len()).sum::<usize>();
        (fixed + resources + part("Detail")).div_ceil(CHUNK)
    });
    chunks.sum::<usize>() as f64
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// An item's size: the names and the values of its attributes.
pub fn size(item: &Value) -> usize {
    let attributes = item.as_object().into_iter().flatten();
    attributes.map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    if let Some(text) = value["S"].as_str() {
        return text.len();
    }
    if let Some(digits) = value["N"].as_str() {
        // One byte per two digits, plus one.
        return digits.trim_start_matches('-').len().div_ceil(2) + 1;
    }
    let bytes = value["B"].as_str().unwrap_or_else(|| panic!("the store writes no {value}"));
    base64::engine::general_purpose::STANDARD.decode(bytes).map_or(0, |bytes| bytes.len())
}

mod tests {
    use serde_json::json;

    use super::*;

    fn record(version: u64, due: Option<u64>, body: usize) -> Value {
        let body = base64::engine::general_purpose::STANDARD.encode(vec![0; body]);
        let mut image = json!({
            "pk": {"S": "P"}, "sk": {"S": "0"}, "v": {"N": version.to_string()}, "k": {"S": "task"},
            "w": {"B": "AAAA"}, "b": {"B": body}, "l1": {"S": "L"}, "l1s": {"S": "1"},
        });
        if let Some(due) = due {
            image["ds"] = json!({"S": "07"});
            image["d"] = json!({"N": due.to_string()});
        }
        json!({"dynamodb": {"Keys": {"pk": {"S": "P"}, "sk": {"S": "0"}}, "NewImage": image}})
    }

    fn units(records: &[Value], calls: &[Call]) -> Vec<(Place, f64)> {
        let loads = Images::default().write_units(records, calls);
        loads.iter().map(|load| (load.place, load.writes)).collect()
    }

    #[test]
    fn a_write_costs_by_its_larger_image_and_by_each_index_entry_that_changes() {
        use Place::{Due, List1, Table};
        let made = record(1, Some(1), 10);
        assert_eq!(
            units(std::slice::from_ref(&made), &[]),
            [(Table, 1.0), (List1, 1.0), (Due, 1.0)]
        );
        let same = units(&[made.clone(), record(2, Some(1), 1_500)], &[]);
        assert_eq!(same[3..], [(Table, 2.0)]);
        let smaller = units(&[record(1, None, 3_000), record(2, None, 1)], &[]);
        assert_eq!(smaller[2..], [(Table, 3.0)]);
        let moved = units(&[made.clone(), record(2, Some(9), 10)], &[]);
        assert_eq!(moved[3..], [(Table, 1.0), (Due, 1.0), (Due, 1.0)]);
        let ended = units(&[made, record(2, None, 10)], &[]);
        assert_eq!(ended[3..], [(Table, 1.0), (Due, 1.0)]);
    }

    #[test]
    fn a_transaction_doubles_the_items_own_units() {
        let request = json!({"TransactItems": [{"Put": {"Item": {"w": {"B": "AAAA"}}}}]});
        let call = Call {
            service: Service::DynamoDb,
            operation: "TransactWriteItems".to_owned(),
            request,
            status: 200,
            answer: Value::Null,
        };
        let units = units(&[record(1, None, 10)], &[call]);
        assert_eq!(units, [(Place::Table, 2.0), (Place::List1, 1.0)]);
    }

    #[test]
    fn a_read_costs_by_four_kilobytes_and_half_where_it_may_lag() {
        let item = |bytes: usize| json!({"b": {"S": "x".repeat(bytes)}});
        let call = |operation: &str, request: Value, answer: Value| Call {
            service: Service::DynamoDb,
            operation: operation.to_owned(),
            request,
            status: 200,
            answer,
        };
        let get = json!({"Key": {"pk": {"S": "P"}}, "ConsistentRead": true});
        let query = json!({"IndexName": "due", "ExpressionAttributeValues": {":p": {"S": "07"}}});
        let loads = read_units(&[
            call("GetItem", get.clone(), json!({"Item": item(4_096)})),
            call("GetItem", get, json!({})),
            call("Query", query, json!({"Items": [item(2_000), item(3_000)]})),
        ]);
        let found: Vec<_> = loads.iter().map(|load| (load.place, load.reads)).collect();
        assert_eq!(found, [(Place::Table, 2.0), (Place::Table, 1.0), (Place::Due, 1.0)]);
    }
}
