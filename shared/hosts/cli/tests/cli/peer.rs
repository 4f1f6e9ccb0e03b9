//! A scripted HTTP server for the tests of the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

#[derive(Clone)]
pub enum Reply {
    Says {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Reads the request and closes the connection without a response.
    Closes,
    /// Reads the request and never responds.
    Holds,
}

pub fn says(status: u16, body: impl ToString) -> Reply {
    Reply::Says { status, headers: Vec::new(), body: body.to_string() }
}

pub fn says_later(status: u16, retry_after: u64) -> Reply {
    let body = problem(status, "slow down");
    Reply::Says { status, headers: vec![("Retry-After", retry_after.to_string())], body }
}

pub fn problem(status: u16, detail: &str) -> String {
    serde_json::json!({
        "type": "urn:watchbill:problem", "title": "Problem", "status": status, "detail": detail,
    })
    .to_string()
}

/// A task as in the API's contract.
pub fn task(id: &str, status: &str, version: u64) -> Value {
    serde_json::json!({
        "task_id": id, "type": "deploy", "priority": "P1", "source": "user", "status": status,
        "payload": {"project": "web", "environment": "staging"}, "trace_id": "t-1", "sla": null,
        "assigned_to": "ops", "created_at": "2026-01-31T07:57:00.000Z", "started_at": null,
        "completed_at": null, "parent_task_id": null, "child_task_ids": [], "metadata": {},
        "error": null, "retry_count": 0, "max_retries": 3, "tenant_id": "default",
        "version": version, "approval_id": null, "field_of_a_later_version": {"x": 1},
    })
}

pub fn got(task: &Value) -> Reply {
    says(200, serde_json::json!({"success": true, "task_id": task["task_id"], "task": task}))
}

#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// A server that gives the scripted replies in order, then refuses connections.
pub struct Peer {
    pub url: String,
    requests: Receiver<Request>,
}

impl Peer {
    pub fn new(script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound port"));
        let (sender, requests) = channel();
        thread::spawn(move || {
            let mut held = Vec::new();
            for reply in script {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let Some(request) = read(&stream) else { return };
                if sender.send(request).is_err() {
                    return;
                }
                match reply {
                    Reply::Says { status, headers, body } => {
                        answer(&mut stream, status, &headers, &body);
                    }
                    Reply::Closes => {}
                    Reply::Holds => held.push(stream),
                }
            }
            drop(listener);
            // Held connections stay open until the process of the test ends.
            if !held.is_empty() {
                thread::park();
            }
        });
        Self { url, requests }
    }

    /// A URL at which nothing listens.
    pub fn absent() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}", listener.local_addr().expect("a bound port"))
    }

    /// Waits for the next request.
    pub fn next(&self) -> Request {
        self.requests.recv_timeout(Duration::from_secs(20)).expect("a request within 20 s")
    }

    /// All requests so far, as `METHOD target`.
    pub fn lines(&self) -> Vec<String> {
        self.requests.try_iter().map(|request| request.line()).collect()
    }

    pub fn all(&self) -> Vec<Request> {
        self.requests.try_iter().collect()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body: String::from_utf8(body).ok()? })
}

fn answer(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &str) {
    let kind = if status < 400 { "application/json" } else { "application/problem+json" };
    let mut text = format!(
        "HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\nConnection: close\r\n\
         Content-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    // A client that disconnected is checked by the test, not here.
    let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes());
}
