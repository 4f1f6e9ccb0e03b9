//! A client of the HTTP API.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

/// Longer than anything that the tests wait for takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(45);
/// The same on AWS: a message whose handling met an outage is redelivered after the queue's
/// visibility timeout, 75 seconds in the template, and the second attempt may meet the next
/// outage.
pub const TIMEOUT_ON_AWS: Duration = Duration::from_secs(240);

/// A caller of the HTTP API.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
    /// How often a GET that gets a 503 or times out is repeated.
    again: usize,
    patience: Duration,
}

pub struct Answer {
    pub status: u16,
    pub body: Value,
    asked: String,
}

impl Answer {
    /// The body of a response with status 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}: {}", self.asked, self.body);
        self.body
    }

    /// The detail of a problem with this status.
    #[track_caller]
    pub fn refused(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.body);
        assert_eq!(self.body["status"], status, "{}: no problem: {}", self.asked, self.body);
        self.body["detail"].as_str().expect("a problem has a detail").to_owned()
    }
}

impl Client {
    pub fn new(url: &str, key: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            // Lost responses are the subject of some tests.
            .retry(reqwest::retry::never())
            // Reading the machine's certificates takes longer than all calls of a test.
            .tls_certs_only([])
            .build();
        let http = http.expect("a client needs nothing from outside");
        Self { http, url: url.to_owned(), key: key.to_owned(), again: 0, patience: TIMEOUT }
    }

    /// The same client, through outages behind the server: a GET that meets one or times out is
    /// repeated, and waits are long enough for interrupted work to be resumed.
    pub fn through_outages(self) -> Self {
        Self { again: 5, patience: TIMEOUT_ON_AWS, ..self }
    }

    /// The same client with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// An error means that the outcome is unknown.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> Result<Answer, reqwest::Error> {
        let asked = format!("{method} {path}");
        let is_look = method == Method::GET;
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        // How a token begins whose first part is a JSON object; a key may contain dots, too.
        if self.key.starts_with("eyJ") && self.key.matches('.').count() == 2 {
            request = request.bearer_auth(&self.key);
        } else if !self.key.is_empty() {
            request = request.header("X-API-Key", &self.key);
        }
        if !is_look {
            // After a timeout the outcome would be unknown, so it has as long as there is.
            request = request.timeout(self.patience);
        }
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            let json = "application/json";
            request = request.header("Content-Type", json).body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, body, asked })
    }

    async fn sure(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.send(method, path, body, None).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        for _ in 0..self.again {
            match self.send(Method::GET, path, None, None).await {
                Ok(answer) if answer.status != 503 => return answer,
                Ok(_) => tokio::time::sleep(Duration::from_secs(2)).await,
                Err(error) if error.is_timeout() => {}
                Err(error) => panic!("{path}: {error:?}"),
            }
        }
        self.sure(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.sure(Method::POST, path, Some(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.sure(Method::PATCH, path, Some(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.sure(Method::DELETE, path, None).await
    }

    /// Submits a task, and returns it from the response.
    pub async fn submit(&self, body: Value) -> Value {
        self.post("/tasks", body).await.ok()["task"].take()
    }

    pub async fn task(&self, id: &str) -> Value {
        self.get(&format!("/tasks/{id}")).await.ok()["task"].take()
    }

    /// Waits until the task has `status`, with a long poll for each change.
    pub async fn until(&self, id: &str, status: &str) -> Value {
        let mut task = self.task(id).await;
        let waited = tokio::time::timeout(self.patience, async {
            while task["status"] != status {
                let path = format!("/tasks/{id}?wait=20&version={}", task["version"]);
                task = self.get(&path).await.ok()["task"].take();
            }
        });
        let came = waited.await.is_ok();
        assert!(came, "{id} is not {status}: {task}");
        task
    }

    /// The tasks that `/tasks?{filter}` finds, once there are any.
    pub async fn tasks_once_there(&self, filter: &str) -> Vec<Value> {
        let look = async {
            loop {
                let page = self.get(&format!("/tasks?{filter}&limit=1&wait=20")).await.ok();
                if page["count"] != 0 {
                    return self.all(&format!("/tasks?{filter}"), "tasks").await;
                }
            }
        };
        let found = tokio::time::timeout(self.patience, look).await;
        found.unwrap_or_else(|_| panic!("there is no task with {filter}"))
    }

    pub async fn timeline(&self, id: &str) -> Vec<Value> {
        list(self.get(&format!("/tasks/{id}/timeline")).await.ok(), "timeline")
    }

    /// All pages of a list; `path` includes its question mark.
    pub async fn all(&self, path: &str, name: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}&limit=200{cursor}")).await.ok();
            let next = page["next_cursor"].as_str().map(|next| format!("&cursor={next}"));
            found.extend(list(page, name));
            match next {
                Some(next) => cursor = next,
                None => return found,
            }
        }
    }

    /// Waits for the event `last` of a task; returns its recorded events up to that one, oldest
    /// first.
    pub async fn events_until(&self, id: &str, last: &str) -> Vec<Value> {
        let path = format!("/events?task_id={id}");
        let waited = tokio::time::timeout(self.patience, async {
            loop {
                let mut events = self.all(&path, "events").await;
                events.reverse();
                if let Some(at) = events.iter().position(|event| event["event_type"] == last) {
                    events.truncate(at + 1);
                    return events;
                }
                // The change may be a moment ahead of its record.
                self.get("/events?wait=1&limit=1").await.ok();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{id} has no event {last}"))
    }
}

fn list(mut answer: Value, name: &str) -> Vec<Value> {
    match answer[name].take() {
        Value::Array(list) => list,
        other => panic!("'{name}' is no list: {other}"),
    }
}
