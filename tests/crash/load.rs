//! Random requests of one connection to a server that is going to be killed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Client;

/// Requests per connection in one round. Everything that they create is audited in the end.
const MAX_REQUESTS: usize = 12;

/// A seeded random number generator (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.within(0..100) < chance
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Task,
    /// An event that requests a task.
    Event,
}

pub struct Submission {
    /// Stored in the task's metadata, so that the task can be found without its id.
    pub name: String,
    pub what: What,
    pub key: Option<String>,
    pub body: Value,
    /// The id of the task or of the event. `None`: the response was lost.
    pub id: Option<String>,
}

impl Submission {
    fn random(dice: &mut Dice, name: String) -> Self {
        let priority = ["P0", "P1", "P2", "P3"][dice.within(0..4) as usize];
        let (task_type, payload) = match dice.within(0..100) {
            0..70 => ("monitor", json!({"service": "system"})),
            70..85 => ("alert", json!({"alert_type": "disk_full", "target": name})),
            85..95 => ("investigate", json!({"description": "why is the shop slow?"})),
            _ => ("faq", json!({"description": "how do I log in?"})),
        };
        let metadata = json!({ "name": name });
        let body = json!({"type": task_type, "payload": payload, "priority": priority, "metadata": metadata});
        if dice.percent(10) {
            let body =
                json!({"event_type": "task.requested", "source_agent": "ci", "payload": body});
            return Self { name, what: What::Event, key: None, body, id: None };
        }
        let key = dice.percent(50).then(|| format!("key-{name}"));
        Self { name, what: What::Task, key, body, id: None }
    }

    async fn send(&mut self, client: &Client) -> Result<(), reqwest::Error> {
        let (path, field) = match self.what {
            What::Task => ("/tasks", "task_id"),
            What::Event => ("/events/publish", "event_id"),
        };
        let key = self.key.as_deref();
        let answer = client.send(Method::POST, path, Some(&self.body), key).await?.ok();
        self.id = answer[field].as_str().map(str::to_owned);
        Ok(())
    }
}

/// Sends until the server is down. The last submission returned may have been in flight then.
pub async fn run(client: Client, mut dice: Dice, connection: String) -> Vec<Submission> {
    let mut sent = Vec::new();
    for n in 0..MAX_REQUESTS {
        let mut one = Submission::random(&mut dice, format!("{connection}.{n}"));
        let answered = one.send(&client).await;
        let id = one.id.clone().filter(|_| one.what == What::Task);
        sent.push(one);
        if answered.is_err() {
            break;
        }
        if let Some(id) = id.filter(|_| dice.percent(10)) {
            let path = format!("/tasks/{id}/cancel");
            match client.send(Method::POST, &path, Some(&json!({})), None).await {
                // 409: its run finished first.
                Ok(answer) => assert!([200, 409].contains(&answer.status), "{}", answer.body),
                Err(_) => break,
            }
        }
    }
    sent
}
