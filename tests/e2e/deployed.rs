//! Runs the scenarios against template.yaml, deployed in an emulated AWS.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::support::{Books, Client, Fixture, Keys, TIMEOUT_ON_AWS, watchbill};
use super::{Backend, Settings, World};

/// The interval between ticks. On AWS they come every minute, which no test can wait for.
const TICK: Duration = Duration::from_millis(500);
/// Signs the approvers' tokens; it needs at least 32 bytes.
const JWT_SECRET: &str = "somebody else signs the tokens of approvers";
/// How often to check whether all work has finished.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// template.yaml as its own stack in an emulated AWS, with the functions' binaries.
pub struct Deployed {
    fixture: Fixture,
    stack: String,
    url: String,
    keys: Keys,
    /// Dropping it ends the ticks.
    going: watch::Sender<()>,
    ticks: Vec<JoinHandle<()>>,
}

impl Backend for Deployed {
    async fn start(settings: &Settings) -> Self {
        let fixture = Fixture::find();
        let mut asked = json!({"parameters": parameters(settings), "policy": settings.policy()});
        asked["secrets"] = json!({"JwtSecretParameter": JWT_SECRET});
        if let Some(redis) = &settings.redis {
            asked["secrets"]["RedisUrlParameter"] = json!(redis.url);
        }
        let made = fixture.call("deploy", asked).await;
        let text = |name: &str| made[name].as_str().expect("the fixture names it").to_owned();
        let (stack, url, admin) = (text("stack"), text("url"), text("admin_key"));
        let keys = keys(&url, admin).await;
        let (going, ended) = watch::channel(());
        let mut ticks =
            vec![tokio::spawn(tick("sweep", fixture.clone(), stack.clone(), ended.clone()))];
        if settings.redis.is_some() {
            ticks.push(tokio::spawn(tick("bridge", fixture.clone(), stack.clone(), ended)));
        }
        Self { fixture, stack, url, keys, going, ticks }
    }

    fn url(&self) -> String {
        self.url.clone()
    }

    fn keys(&self) -> Keys {
        let Keys { admin, agent, approver, user } = &self.keys;
        Keys {
            admin: admin.clone(),
            agent: agent.clone(),
            approver: approver.clone(),
            user: user.clone(),
        }
    }

    /// The emulator is one process, and on a busy machine it may not respond in time.
    fn client(&self) -> Client {
        Client::new(&self.url, &self.keys.admin).through_outages()
    }

    fn late(&self) -> Duration {
        // A tick takes time too, where many stacks share two cores and one emulator.
        16 * TICK
    }

    /// The P3 lane of one agent has five calls of ten messages in process.
    fn crowd(&self) -> (usize, usize) {
        (80, 50)
    }

    /// As after an update: each function starts cold at its next call.
    async fn restart(&mut self) {
        self.fixture.ask("restart", &self.stack).await;
    }

    async fn set_policy(&self, policy: &str) {
        self.fixture.call("policy", json!({"stack": self.stack, "text": policy})).await;
    }

    async fn stop(self) {
        // The role is deleted with the stack: a running tick would be denied its permissions.
        drop(self.going);
        for ticks in self.ticks {
            ticks.await.expect("the ticks end by themselves");
        }
        self.fixture.ask("delete", &self.stack).await;
    }

    async fn settled(&self, anyone: &Client) {
        let mut left = Vec::new();
        let settling = tokio::time::timeout(TIMEOUT_ON_AWS, async {
            loop {
                left = self.moving(anyone).await;
                if left.is_empty() {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        let came = settling.await.is_ok();
        assert!(came, "it does not settle:\n{}", left.join("\n"));
    }

    async fn log(&self) -> String {
        self.fixture.ask("log", &self.stack).await["text"].as_str().expect("a text").to_owned()
    }

    async fn assert_nothing_left(&self) {
        let left = self.fixture.ask("left", &self.stack).await;
        assert_eq!(left["messages"], json!({}), "lanes and dead letters are empty");
        assert_eq!(left["faults"], json!([]), "nothing is logged as a fault");
    }
}

impl Deployed {
    /// What has not settled. No one there can report how far the stream has been read, so the
    /// records themselves must be consistent.
    async fn moving(&self, anyone: &Client) -> Vec<String> {
        let queues = self.fixture.ask("left", &self.stack).await;
        let open = anyone.get("/health").await.ok()["queue_stats"]["total_tasks"].take();
        if open != 0 || queues["messages"] != json!({}) {
            return vec![format!("open tasks: {open}, messages: {}", queues["messages"])];
        }
        Books::read(anyone).await.faults()
    }
}

/// The template's parameters: no rate limits, and self-approval unless two persons are required.
fn parameters(settings: &Settings) -> BTreeMap<&'static str, String> {
    let approval = if settings.two_persons { "deny" } else { "allow" };
    let parameters = [
        ("Rules", Value::Object(settings.rules()).to_string()),
        ("ApprovalSelf", approval.to_owned()),
        ("RateLimits", "off".to_owned()),
        ("ForceUnsafe", "yes".to_owned()),
        ("DeletionProtection", "false".to_owned()),
        ("WebhookUrl", settings.webhook.clone().unwrap_or_default()),
    ];
    let mut parameters = BTreeMap::from(parameters);
    if let Some(redis) = &settings.redis {
        parameters.extend([
            ("RedisDrain", redis.drain.to_owned()),
            ("RedisFeed", redis.feed.to_owned()),
            ("RedisEvents", redis.events.to_owned()),
            ("RedisMirror", redis.mirror.to_owned()),
            // The next tick comes sooner than after a minute.
            ("RedisQuietSeconds", "1".to_owned()),
        ]);
    }
    parameters
}

/// The template creates one key, which creates the others. The approver has a token of another
/// issuer, because keys that the admin creates count as the admin.
async fn keys(url: &str, admin: String) -> Keys {
    let first = Client::new(url, &admin);
    let make = async |role: &str| {
        let made = first.post("/keys", json!({"name": role, "role": role})).await.ok();
        made["key"].as_str().expect("a new key is shown").to_owned()
    };
    let (agent, user) = (make("agent").await, make("user").await);
    let approver = token("approver", "approver");
    Keys { admin, agent, approver, user }
}

/// Signs a token as another holder of the secret would.
fn token(sub: &str, role: &str) -> String {
    // In the year 2100.
    let claims = json!({"sub": sub, "role": role, "exp": 4_102_444_800_u64});
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let signed =
        format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(JWT_SECRET.as_bytes()).expect("of any length");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(mac.finalize().into_bytes()))
}

/// Ticks until the scenario is over.
async fn tick(what: &str, fixture: Fixture, stack: String, mut ended: watch::Receiver<()>) {
    while tokio::time::timeout(TICK, ended.changed()).await.is_err() {
        fixture.ask(what, &stack).await;
    }
}

super::scenarios::run_scenarios!(super::Deployed);

/// A listener needs only a rule on the bus and a queue as its target.
#[tokio::test]
async fn events_reach_a_subscribed_queue() {
    let world = World::<Deployed>::start(Settings::default()).await;
    let Deployed { fixture, stack, .. } = &world.backend;
    let pattern = json!({"detail-type": ["task.created", "task.completed"]});
    let subscribed = fixture.call("subscribe", json!({"stack": stack, "pattern": pattern})).await;
    let body = json!({"type": "monitor", "payload": {"service": "system"}});
    let task = world.agent.submit(body).await;
    let received = tokio::time::timeout(TIMEOUT_ON_AWS, async {
        let mut received = Vec::new();
        while received.len() < 2 {
            let got = fixture.call("received", subscribed.clone()).await;
            let bodies = got["bodies"].as_array().expect("a list").iter();
            received.extend(bodies.map(|body| {
                let body = body.as_str().expect("a message has a body");
                serde_json::from_str::<Value>(body).expect("an event is JSON")
            }));
        }
        received
    });
    let received = received.await.expect("both events arrive");
    let recorded = world.user.all("/events?", "events").await;
    for event in &received {
        assert!(event["source"].as_str().is_some_and(|s| s.starts_with("watchbill.")), "{event}");
        assert_eq!(event["detail"]["task_id"], task["task_id"]);
        let same = |one: &&Value| one["event_id"] == event["detail"]["event_id"];
        let same = recorded.iter().find(same).expect("a published event is recorded");
        assert_eq!(same["event_type"], event["detail-type"]);
    }
    let types: Vec<_> = received.iter().map(|event| &event["detail-type"]).collect();
    assert!(types.contains(&&json!("task.completed")), "only the subscribed types: {types:?}");
    world.end().await;
}

/// An event that intake can't read is kept whole, where an alarm watches.
#[tokio::test]
async fn a_rejected_event_is_a_dead_letter() {
    let world = World::<Deployed>::start(Settings::default()).await;
    let Deployed { fixture, stack, .. } = &world.backend;
    let dead = fixture.call("queue", json!({"stack": stack, "name": "EventsDeadQueue"})).await;
    // Without a tenant, it belongs to no one.
    let event = json!({"source": "watchbill.ci", "detail-type": "task.requested", "resources": [],
                       "detail": {"mark": "of-nobody"}});
    fixture.call("again", json!({"stack": stack, "event": event})).await;
    let received = async {
        loop {
            let got = fixture.call("received", dead.clone()).await;
            if let Some(body) = got["bodies"][0].as_str() {
                return serde_json::from_str::<Value>(body).expect("an event is JSON");
            }
        }
    };
    let kept = tokio::time::timeout(TIMEOUT_ON_AWS, received).await.expect("it is kept");
    assert_eq!(
        (&kept["detail-type"], &kept["detail"]["mark"]),
        (&event["detail-type"], &event["detail"]["mark"])
    );
    assert_eq!(world.user.all("/tasks?", "tasks").await, [Value::Null; 0], "no task is created");
    let log = world.backend.log().await;
    assert!(log.contains("sending it to the dead letters"), "the log reports it");
    world.backend.stop().await;
}

/// EventBridge delivers at least once: a repeated request yields the same task.
#[tokio::test]
async fn an_event_delivered_twice_creates_one_task() {
    let world = World::<Deployed>::start(Settings::default()).await;
    let Deployed { fixture, stack, .. } = &world.backend;
    let pattern = json!({"detail-type": ["task.requested"]});
    let subscribed = fixture.call("subscribe", json!({"stack": stack, "pattern": pattern})).await;
    let asked =
        json!({"type": "monitor", "payload": {"service": "system", "note": "x".repeat(60_000)}});
    let event = json!({"event_type": "task.requested", "source_agent": "ci", "payload": asked});
    world.agent.post("/events/publish", event).await.ok();
    let received = async {
        loop {
            let got = fixture.call("received", subscribed.clone()).await;
            if let Some(body) = got["bodies"][0].as_str() {
                return serde_json::from_str::<Value>(body).expect("an event is JSON");
            }
        }
    };
    let event = tokio::time::timeout(TIMEOUT_ON_AWS, received).await.expect("the event arrives");
    world.user.tasks_once_there("type=monitor").await;
    fixture.call("again", json!({"stack": stack, "event": event})).await;
    // Once the task of this event exists, the repeat before it has been read.
    let last = json!({"type": "investigate", "payload": {"description": "after it"}});
    let last = json!({"event_type": "task.requested", "source_agent": "ci", "payload": last});
    world.agent.post("/events/publish", last).await.ok();
    world.user.tasks_once_there("type=investigate").await;
    let made = world.user.all("/tasks?type=monitor", "tasks").await;
    assert_eq!(made.len(), 1, "{made:?}");
    // A repeat that was not acknowledged would show as a dead letter.
    world.end().await;
}

/// The command line needs only another address and key.
#[tokio::test]
async fn the_command_line_works_against_a_deployment() {
    let world = World::<Deployed>::start(Settings::default()).await;
    let run = async |key: &str, words: &[&str]| -> Value {
        let mut command = tokio::process::Command::new(watchbill());
        command.env_clear().env("WATCHBILL_URL", world.backend.url()).env("WATCHBILL_KEY", key);
        let output = command.args(words).arg("--json").output().await.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?} ends with {}: {said}", output.status);
        let last = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
        let whole = serde_json::from_slice(&output.stdout);
        whole.unwrap_or_else(|_| serde_json::from_slice(last.unwrap_or(b"")).expect("it is JSON"))
    };
    let admin = world.backend.keys().admin;
    let made = run(&admin, &["keys", "create", "--name", "ci", "--role", "agent"]).await;
    let key = made["key"].as_str().expect("a new key is shown").to_owned();
    let done = run(&key, &["submit", "monitor", "--set", "service=system", "--wait"]).await;
    let text = done.to_string();
    assert!(text.contains("completed"), "{text}");
    let listed = run(&key, &["list"]).await;
    assert_eq!(world.user.all("/tasks?", "tasks").await.len(), 1);
    assert!(listed.to_string().contains("monitor"), "{listed}");
    world.end().await;
}
