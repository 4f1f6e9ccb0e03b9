//! A mock DynamoDB with scripted answers that records requests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use watchbill_aws::dynamo::{self, DynamoStore};

use crate::dynamo::table::sdk_config;

pub enum Answer {
    Json(u16, Value),
    /// Closes the connection after the request.
    Hangup,
    /// Never answers the request.
    Silence,
}

pub fn ok(body: Value) -> Answer {
    Answer::Json(200, body)
}

pub fn error(status: u16, code: &str, mut more: Value) -> Answer {
    more["__type"] = format!("com.amazonaws.dynamodb.v20120810#{code}").into();
    Answer::Json(status, more)
}

/// A cancelled transaction: reasons by code, with the item of a failed condition.
pub fn cancelled(reasons: &[(&str, Option<Value>)]) -> Answer {
    let reason = |(code, item): &(&str, Option<Value>)| match item {
        Some(item) => json!({"Code": code, "Message": "m", "Item": item}),
        None => json!({"Code": code, "Message": "m"}),
    };
    let reasons: Vec<Value> = reasons.iter().map(reason).collect();
    error(400, "TransactionCanceledException", json!({ "CancellationReasons": reasons }))
}

#[derive(Clone)]
pub struct Request {
    pub operation: String,
    pub body: Value,
}

pub struct Peer {
    endpoint: String,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Peer {
    /// Returns each answer once, in order.
    pub async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            asked: Arc::default(),
        };
        let (answers, asked) = (peer.answers.clone(), peer.asked.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, answers.clone(), asked.clone()));
            }
        });
        peer
    }

    pub fn client(&self) -> Client {
        dynamo::client(&sdk_config(&self.endpoint, "test"))
    }

    pub fn store(&self) -> DynamoStore {
        DynamoStore::new(self.client(), "table")
    }

    /// A store with shorter attempt timeouts than in production.
    pub fn hasty_store(&self) -> DynamoStore {
        let haste = TimeoutConfig::builder()
            .operation_attempt_timeout(Duration::from_millis(50))
            .operation_timeout(Duration::from_secs(5))
            .build();
        let config = self.client().config().to_builder().timeout_config(haste).build();
        DynamoStore::new(Client::from_conf(config), "table")
    }

    /// The requests, after all answers were returned.
    pub fn asked(&self) -> Vec<Request> {
        let left = self.answers.lock().unwrap().len();
        assert_eq!(left, 0, "answers that nobody asked for");
        self.asked.lock().unwrap().clone()
    }

    pub fn operations(&self) -> Vec<String> {
        self.asked().into_iter().map(|request| request.operation).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Request>>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        asked.lock().unwrap().push(request);
        let answer = answers.lock().unwrap().pop_front();
        let (status, body) = match answer {
            Some(Answer::Json(status, body)) => (status, body.to_string()),
            Some(Answer::Hangup) => return,
            Some(Answer::Silence) => std::future::pending().await,
            None => (400, json!({"__type": "Unscripted", "message": "no answer left"}).to_string()),
        };
        let head = format!(
            "HTTP/1.1 {status} It\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// `None` if the client closed the connection.
async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let header = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let length: usize = header("content-length").parse().unwrap();
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let target = header("x-amz-target");
    let operation = target.rsplit('.').next().unwrap().to_owned();
    Some(Request { operation, body: serde_json::from_slice(&bytes[head..]).unwrap() })
}

/// A stored item of partition `P#<partition>`, sort `0`. `write_id`: last byte of the id.
pub fn row(partition: &str, version: u64, write_id: u8) -> Value {
    // Sixteen bytes in base64: fifteen zero bytes are twenty letters, the last one two.
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let last = [LETTERS[usize::from(write_id >> 2)], LETTERS[usize::from(write_id & 3) << 4]];
    let id = format!("{}{}==", "A".repeat(20), str::from_utf8(&last).unwrap());
    json!({
        "pk": {"S": format!("P#{partition}")}, "sk": {"S": "0"}, "v": {"N": version.to_string()},
        "w": {"B": id}, "k": {"S": "thing"}, "s": {"N": "3"}, "b": {"B": "e30="},
    })
}
