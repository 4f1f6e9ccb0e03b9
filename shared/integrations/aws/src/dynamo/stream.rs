//! Reads stream records, as Lambda delivers them, as changes.

use aws_lambda_events::event::dynamodb::EventRecord;
use watchbill_core::ports::{Change, Key};

use super::item::{decode, integer, key_of};

/// An unreadable record. It is left out, so that it does not block its shard: `shared/hosts/lambda`
/// logs and counts it, and parks its key for the recorder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream record {event_id} can't be read: {reason}")]
pub struct BadRecord {
    pub event_id: String,
    pub reason: String,
}

/// Version of a removal without an old image: newer than all before it.
const AFTER_ALL: u64 = u64::MAX;

/// The change in a record. A removal, by us or by expiry, has no image. Its version is the one
/// after the last if the stream carries old images, otherwise `u64::MAX`.
pub fn read_change(record: &EventRecord) -> Result<Change, BadRecord> {
    read(record).map_err(|reason| BadRecord { event_id: record.event_id.clone(), reason })
}

/// The item's key, and its version if readable, of a record that can't be read as a whole.
pub fn key_and_version(record: &EventRecord) -> Option<(Key, Option<u64>)> {
    let key = key_of(record.change.keys.inner()).ok()?;
    let version = integer(record.change.new_image.inner(), "v").ok().flatten();
    Some((key, version))
}

fn read(record: &EventRecord) -> Result<Change, String> {
    let change = &record.change;
    let key = key_of(change.keys.inner())?;
    match &*record.event_name {
        "INSERT" | "MODIFY" => {
            let image = change.new_image.inner();
            if image.is_empty() {
                return Err(format!(
                    "{key} has no new image; set the stream's view type to NEW_IMAGE"
                ));
            }
            let item = decode(image).map_err(|e| e.to_string())?;
            if item.key != key {
                return Err(format!("the image of {key} belongs to {}", item.key));
            }
            Ok(Change { key, version: item.version, image: Some(item) })
        }
        "REMOVE" => {
            let last: Option<u64> = integer(change.old_image.inner(), "v")?;
            let version = last.map_or(AFTER_ALL, |last| last.saturating_add(1));
            Ok(Change { key, version, image: None })
        }
        other => Err(format!("'{other}' is not INSERT, MODIFY or REMOVE")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use watchbill_core::ports::{Key, WriteId};

    use super::*;

    fn record(event_name: &str, images: Value) -> EventRecord {
        let mut change = json!({
            "ApproximateCreationDateTime": 1767225600.0,
            "Keys": {"pk": {"S": "T#a#task#1"}, "sk": {"S": "0"}},
            "SequenceNumber": "100", "SizeBytes": 300, "StreamViewType": "NEW_IMAGE",
        });
        for (name, image) in images.as_object().unwrap() {
            change[name] = image.clone();
        }
        let record = json!({
            "eventID": "e-1", "eventName": event_name, "eventVersion": "1.1",
            "eventSource": "aws:dynamodb", "awsRegion": "eu-central-1", "dynamodb": change,
            "eventSourceARN": "arn:aws:dynamodb:eu-central-1:123456789012:table/t/stream/s",
        });
        serde_json::from_value(record).unwrap()
    }

    fn image() -> Value {
        json!({
            "pk": {"S": "T#a#task#1"}, "sk": {"S": "0"}, "v": {"N": "3"},
            "w": {"B": "AAAAAAAAAAAAAAAAAAAABw=="}, "k": {"S": "task"}, "s": {"N": "1"},
            "b": {"B": "e30="}, "l1": {"S": "T#a#tasks#0"}, "l1s": {"S": "001"},
            "ds": {"S": "04"}, "d": {"N": "1767225600000"}, "x": {"N": "1767225601"},
            "xm": {"N": "1767225600500"}, "c_spent": {"N": "-12"},
        })
    }

    #[test]
    fn a_new_item_is_read_completely() {
        let change = read_change(&record("INSERT", json!({"NewImage": image()}))).unwrap();
        assert_eq!((&change.key, change.version), (&Key::new("T#a#task#1", "0"), 3));
        let item = change.image.unwrap();
        assert_eq!((item.version, item.write_id, item.schema), (3, WriteId(7), 1));
        assert_eq!((&*item.kind, &item.body[..]), ("task", &b"{}"[..]));
        assert_eq!(item.list.unwrap().sort, "001".into());
        assert_eq!(item.due.unwrap().millis(), 1_767_225_600_000);
        assert_eq!(item.expires.unwrap().millis(), 1_767_225_600_500);
        assert_eq!(item.counters["spent"], -12);
        assert!(item.list2.is_none());
    }

    #[test]
    fn attributes_of_a_newer_version_are_ignored() {
        let mut image = image();
        image["zz"] =
            json!({"M": {"deep": {"L": [{"BOOL": true}, {"NULL": true}, {"SS": ["a"]}]}}});
        let change = read_change(&record("MODIFY", json!({"NewImage": image}))).unwrap();
        assert_eq!(change.version, 3);
    }

    #[test]
    fn an_addition_alone_has_neither_body_nor_schema() {
        let mut image = image();
        for absent in ["b", "s", "x", "xm", "ds", "d", "l1", "l1s"] {
            image.as_object_mut().unwrap().remove(absent);
        }
        let change = read_change(&record("MODIFY", json!({"NewImage": image}))).unwrap();
        let item = change.image.unwrap();
        assert_eq!((item.schema, item.body.len(), item.expires), (0, 0, None));
    }

    #[test]
    fn a_removal_by_expiry_has_no_image() {
        let mut record = record("REMOVE", json!({}));
        record.user_identity = serde_json::from_value(
            json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"}),
        )
        .unwrap();
        let change = read_change(&record).unwrap();
        assert_eq!((&*change.key.partition, change.version), ("T#a#task#1", u64::MAX));
        assert!(change.image.is_none());
    }

    #[test]
    fn a_removal_with_its_old_image_has_the_version_after_it() {
        let change = read_change(&record("REMOVE", json!({"OldImage": image()}))).unwrap();
        assert_eq!((change.version, change.image.is_none()), (4, true));
    }

    #[test]
    fn unreadable_records_are_reported_with_their_reason() {
        let with = |name: &str, value: Value| {
            let mut image = image();
            image[name] = value;
            json!({ "NewImage": image })
        };
        let key = "unreadable item T#a#task#1/0: ";
        for (event, images, reason) in [
            (
                "INSERT",
                json!({}),
                "has no new image; set the stream's view type to NEW_IMAGE".to_owned(),
            ),
            (
                "INSERT",
                with("w", json!({"B": "AAA="})),
                format!("{key}'w' has 2 bytes instead of 16"),
            ),
            ("INSERT", with("w", json!({"S": "x"})), format!("{key}'w' has the wrong type")),
            (
                "INSERT",
                with("v", json!({"N": "1.5"})),
                format!("{key}'v' is 1.5, not an integer in its range"),
            ),
            (
                "MODIFY",
                with("s", json!({"N": "70000"})),
                "'s' is 70000, not an integer in its range".to_owned(),
            ),
            ("MODIFY", with("c_n", json!({"S": "1"})), "'c_n' is not a number".to_owned()),
            ("MODIFY", with("k", json!({"NULL": true})), "'k' has the wrong type".to_owned()),
            ("MODIFY", with("pk", json!({"S": "T#b"})), "belongs to T#b/0".to_owned()),
            (
                "INSERT",
                json!({"Keys": {"pk": {"S": "a"}}}),
                "it has no string attribute 'sk'".to_owned(),
            ),
            ("UPSERT", json!({}), "'UPSERT' is not INSERT, MODIFY or REMOVE".to_owned()),
        ] {
            let bad = read_change(&record(event, images)).unwrap_err();
            assert_eq!(bad.event_id, "e-1");
            assert!(bad.reason.ends_with(&reason), "{} / {reason}", bad.reason);
            assert!(bad.to_string().starts_with("the stream record e-1 can't be read: "));
        }
    }

    #[test]
    fn an_empty_record_is_an_error_and_not_a_panic() {
        let bad = read_change(&EventRecord::default()).unwrap_err();
        assert_eq!(bad.reason, "it has no string attribute 'pk'");
    }
}
