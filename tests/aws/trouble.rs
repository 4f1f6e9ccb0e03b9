//! The faults of calls to AWS, and how each service reports them.

use std::time::Duration;

use serde_json::{Value, json};
use watchbill_core::ports::Entropy as _;
use watchbill_testkit::SeededEntropy;
use watchbill_wire::is_portable;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Service {
    DynamoDb,
    Sqs,
    EventBridge,
    S3,
}

impl Service {
    /// Derived from the header X-Amz-Target; S3 has none.
    pub fn of(target: &str) -> Self {
        match target.split(['.', '_']).next() {
            Some("DynamoDB") => Service::DynamoDb,
            Some("AmazonSQS") => Service::Sqs,
            Some("AWSEvents") => Service::EventBridge,
            Some("") | None => Service::S3,
            Some(other) => panic!("a call of {other}: say here what service that is"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trouble {
    /// The response is 500, and nothing was done.
    Failed,
    /// The call is throttled, and nothing was done.
    Throttled,
    /// The first entry of a batch is not accepted.
    Partly,
    /// The call was done, but the connection broke.
    Broken,
    /// The call was done, but no response came in time.
    Silent,
    /// The call was done, but the response is 500.
    FailedAfter,
    /// The response is later than usual, but in time.
    Slow,
}

impl Trouble {
    pub fn draw(dice: &SeededEntropy, takes_batches: bool) -> Self {
        let all = [
            Trouble::Failed,
            Trouble::Throttled,
            Trouble::Broken,
            Trouble::FailedAfter,
            Trouble::Slow,
            Trouble::Silent,
        ];
        match dice.next_u64() % 7 {
            6 if takes_batches => Trouble::Partly,
            n => all[n as usize % all.len()],
        }
    }

    /// How long the response is delayed.
    pub fn delay(self, dice: &SeededEntropy) -> Duration {
        match self {
            // Longer than any of our clients waits for one attempt.
            Trouble::Silent => Duration::from_secs(6),
            // Shorter than any of their timeouts.
            Trouble::Slow => Duration::from_millis(50 + dice.next_u64() % 1_000),
            _ => Duration::ZERO,
        }
    }
}

/// An error response.
pub struct Words {
    pub status: u16,
    pub kind: &'static str,
    pub body: String,
}

fn json_words(status: u16, code: &str, message: &str) -> Words {
    let body = json!({ "__type": code, "message": message }).to_string();
    Words { status, kind: "application/x-amz-json-1.0", body }
}

fn xml_words(status: u16, code: &str) -> Words {
    let body = format!("<Error><Code>{code}</Code><Message>try later</Message></Error>");
    Words { status, kind: "application/xml", body }
}

pub fn failure(service: Service) -> Words {
    match service {
        Service::DynamoDb => {
            json_words(500, "com.amazonaws.dynamodb.v20120810#InternalServerError", "try later")
        }
        Service::Sqs => json_words(500, "com.amazonaws.sqs#InternalFailure", "try later"),
        Service::EventBridge => json_words(500, "InternalException", "try later"),
        Service::S3 => xml_words(500, "InternalError"),
    }
}

pub fn throttle(service: Service, operation: &str, request: &Value, dice: &SeededEntropy) -> Words {
    let rate = "the rate of requests is too high";
    match (service, dice.next_u64() % 2) {
        (Service::DynamoDb, 0) if operation == "TransactWriteItems" => cancelled(request),
        (Service::DynamoDb, 0) => {
            json_words(400, "com.amazon.coral.availability#ThrottlingException", rate)
        }
        (Service::DynamoDb, _) => {
            let code = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException";
            json_words(400, code, rate)
        }
        (Service::Sqs, _) => json_words(400, "com.amazonaws.sqs#RequestThrottled", rate),
        (Service::EventBridge, _) => json_words(400, "ThrottlingException", rate),
        (Service::S3, _) => xml_words(503, "SlowDown"),
    }
}

/// A transaction that is cancelled because one item is throttled.
fn cancelled(request: &Value) -> Words {
    let items = request["TransactItems"].as_array().map_or(1, Vec::len);
    let reason = |n| match n {
        0 => json!({ "Code": "ThrottlingError", "Message": "throughput exceeded" }),
        _ => json!({ "Code": "None" }),
    };
    let reasons: Vec<Value> = (0..items).map(reason).collect();
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": "Transaction cancelled, please refer cancellation reasons for specific reasons",
        "CancellationReasons": reasons,
    });
    Words { status: 400, kind: "application/x-amz-json-1.0", body: body.to_string() }
}

/// Whether SQS would refuse a call for the content of its messages, which the emulator accepts.
pub fn is_refused(request: &Value) -> bool {
    let bodies = request["Entries"].as_array().into_iter().flatten().chain([request]);
    let mut bodies = bodies.filter_map(|entry| entry["MessageBody"].as_str());
    bodies.any(|body| !body.chars().all(is_portable))
}

pub fn refusal() -> Words {
    json_words(
        400,
        "com.amazonaws.sqs#InvalidMessageContents",
        "characters outside the allowed set",
    )
}

/// Whether some of the call's entries may succeed while others fail.
pub fn takes_batches(operation: &str) -> bool {
    matches!(operation, "SendMessageBatch" | "PutEvents")
}

/// Takes the first entry out of a batch. The rest is forwarded, and [`put_back`] reports the
/// first entry as failed.
pub fn take_out(request: &mut Value) -> Option<Value> {
    let entries = request["Entries"].as_array_mut()?;
    (entries.len() > 1).then(|| entries.remove(0))
}

pub fn put_back(operation: &str, taken: &Value, answer: &mut Value) {
    if operation == "PutEvents" {
        let failed = json!({ "ErrorCode": "InternalFailure", "ErrorMessage": "try later" });
        if let Some(entries) = answer["Entries"].as_array_mut() {
            entries.insert(0, failed);
        }
        answer["FailedEntryCount"] = json!(answer["FailedEntryCount"].as_u64().unwrap_or(0) + 1);
        return;
    }
    let failed = json!({
        "Id": taken["Id"], "Code": "InternalError", "Message": "try later", "SenderFault": false,
    });
    match answer["Failed"].as_array_mut() {
        Some(others) => others.push(failed),
        None => answer["Failed"] = json!([failed]),
    }
}
