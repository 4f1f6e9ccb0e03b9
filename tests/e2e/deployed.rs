use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::rig::{Bed, Books, Client, Keys, PATIENCE_ON_AWS, watchbill};
use super::{Backend, Settings, World};

/// Between two ticks. On AWS they come by the minute, which no test can wait for.
const TICK: Duration = Duration::from_millis(500);
/// What approvers' tokens are signed with: 32 bytes at least.
const JWT_SECRET: &str = "somebody else signs the tokens of approvers";
/// Between two looks at whether all has come to rest.
const LOOK: Duration = Duration::from_millis(100);

/// template.yaml as a stack of its own in an emulated AWS, with the functions' binaries.
pub struct Deployed {
    bed: Bed,
    stack: String,
    url: String,
    keys: Keys,
    /// Dropped, it ends the ticks.
    going: watch::Sender<()>,
    ticks: Vec<JoinHandle<()>>,
}

impl Backend for Deployed {
    async fn start(settings: &Settings) -> Self {
        let bed = Bed::find();
        let mut asked = json!({"parameters": parameters(settings), "policy": settings.policy()});
        asked["secrets"] = json!({"JwtSecretParameter": JWT_SECRET});
        if let Some(redis) = &settings.redis {
            asked["secrets"]["RedisUrlParameter"] = json!(redis.url);
        }
        let made = bed.call("deploy", asked).await;
        let text = |name: &str| made[name].as_str().expect("the bed tells it").to_owned();
        let (stack, url, admin) = (text("stack"), text("url"), text("admin_key"));
        let keys = keys(&url, admin).await;
        let (going, ended) = watch::channel(());
        let mut ticks =
            vec![tokio::spawn(tick("sweep", bed.clone(), stack.clone(), ended.clone()))];
        if settings.redis.is_some() {
            ticks.push(tokio::spawn(tick("bridge", bed.clone(), stack.clone(), ended)));
        }
        Self { bed, stack, url, keys, going, ticks }
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

    /// The emulator is one process, and on a busy machine it may not answer in time.
    fn client(&self) -> Client {
        Client::new(&self.url, &self.keys.admin).through_outages()
    }

    fn late(&self) -> Duration {
        // A tick takes its time too, where many stacks share two cores and one emulator.
        16 * TICK
    }

    /// One agent's P3 has five calls of ten messages in hand.
    fn crowd(&self) -> (usize, usize) {
        (80, 50)
    }

    /// As after an update: each function starts cold at its next call.
    async fn restart(&mut self) {
        self.bed.ask("restart", &self.stack).await;
    }

    async fn set_policy(&self, policy: &str) {
        self.bed.call("policy", json!({"stack": self.stack, "text": policy})).await;
    }

    async fn stop(self) {
        // Its role goes with the stack: a tick under way would be refused what it may.
        drop(self.going);
        for ticks in self.ticks {
            ticks.await.expect("the ticks end by themselves");
        }
        self.bed.ask("delete", &self.stack).await;
    }

    async fn settled(&self, anyone: &Client) {
        let mut left = Vec::new();
        let rest = tokio::time::timeout(PATIENCE_ON_AWS, async {
            loop {
                left = self.moving(anyone).await;
                if left.is_empty() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        let came = rest.await.is_ok();
        assert!(came, "it does not come to rest:\n{}", left.join("\n"));
    }

    async fn log(&self) -> String {
        self.bed.ask("log", &self.stack).await["text"].as_str().expect("a text").to_owned()
    }

    async fn assert_nothing_left(&self) {
        let left = self.bed.ask("left", &self.stack).await;
        assert_eq!(left["messages"], json!({}), "lanes and dead letters are empty");
        assert_eq!(left["faults"], json!([]), "nothing is logged as a fault");
    }
}

impl Deployed {
    /// What has not come to rest. Nobody there can say how far the stream has been read, so
    /// that what is recorded has to fit.
    async fn moving(&self, anyone: &Client) -> Vec<String> {
        let queues = self.bed.ask("left", &self.stack).await;
        let open = anyone.get("/health").await.ok()["queue_stats"]["total_tasks"].take();
        if open != 0 || queues["messages"] != json!({}) {
            return vec![format!("open tasks: {open}, messages: {}", queues["messages"])];
        }
        Books::read(anyone).await.faults()
    }
}

/// The template's. Without limits, and alone where two persons are not asked for.
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
            // The next tick comes sooner than by the minute.
            ("RedisQuietSeconds", "1".to_owned()),
        ]);
    }
    parameters
}

/// The template makes one key, and that one makes the others. The approver comes with a token of
/// somebody else: keys that the admin makes count as the admin.
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

/// As whoever knows the secret besides Watchbill would sign it.
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

/// Until the scenario is over.
async fn tick(what: &str, bed: Bed, stack: String, mut ended: watch::Receiver<()>) {
    while tokio::time::timeout(TICK, ended.changed()).await.is_err() {
        bed.ask(what, &stack).await;
    }
}

super::scenarios::run_scenarios!(super::Deployed);

/// A rule on the bus and a queue behind it are all that a listener needs.
#[tokio::test]
async fn events_reach_a_subscribed_queue() {
    let world = World::<Deployed>::start(Settings::default()).await;
    let Deployed { bed, stack, .. } = &world.backend;
    let pattern = json!({"detail-type": ["task.created", "task.completed"]});
    let subscribed = bed.call("subscribe", json!({"stack": stack, "pattern": pattern})).await;
    let body = json!({"type": "monitor", "payload": {"service": "system"}});
    let task = world.agent.submit(body).await;
    let received = tokio::time::timeout(PATIENCE_ON_AWS, async {
        let mut received = Vec::new();
        while received.len() < 2 {
            let got = bed.call("received", subscribed.clone()).await;
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
        let same = recorded.iter().find(same).expect("what is published is recorded");
        assert_eq!(same["event_type"], event["detail-type"]);
    }
    let types: Vec<_> = received.iter().map(|event| &event["detail-type"]).collect();
    assert!(types.contains(&&json!("task.completed")), "no other than was asked for: {types:?}");
    world.end().await;
}

/// What intake can't read is kept where an alarm looks, whole.
#[tokio::test]
async fn a_rejected_event_is_a_dead_letter() {
    let world = World::<Deployed>::start(Settings::default()).await;
    let Deployed { bed, stack, .. } = &world.backend;
    let dead = bed.call("queue", json!({"stack": stack, "name": "EventsDeadQueue"})).await;
    // Of no tenant, so nobody's.
    let event = json!({"source": "watchbill.ci", "detail-type": "task.requested", "resources": [],
                       "detail": {"mark": "of-nobody"}});
    bed.call("again", json!({"stack": stack, "event": event})).await;
    let received = async {
        loop {
            let got = bed.call("received", dead.clone()).await;
            if let Some(body) = got["bodies"][0].as_str() {
                return serde_json::from_str::<Value>(body).expect("an event is JSON");
            }
        }
    };
    let kept = tokio::time::timeout(PATIENCE_ON_AWS, received).await.expect("it is kept");
    assert_eq!(
        (&kept["detail-type"], &kept["detail"]["mark"]),
        (&event["detail-type"], &event["detail"]["mark"])
    );
    assert_eq!(world.user.all("/tasks?", "tasks").await, [Value::Null; 0], "nothing is made of it");
    let log = world.backend.log().await;
    assert!(log.contains("it goes to the dead letters"), "the log says so");
    world.backend.stop().await;
}

/// EventBridge delivers at least once: the repeat of a request is the same task.
#[tokio::test]
async fn an_event_that_comes_twice_makes_one_task() {
    let world = World::<Deployed>::start(Settings::default()).await;
    let Deployed { bed, stack, .. } = &world.backend;
    let pattern = json!({"detail-type": ["task.requested"]});
    let subscribed = bed.call("subscribe", json!({"stack": stack, "pattern": pattern})).await;
    let asked =
        json!({"type": "monitor", "payload": {"service": "system", "note": "x".repeat(60_000)}});
    let event = json!({"event_type": "task.requested", "source_agent": "ci", "payload": asked});
    world.agent.post("/events/publish", event).await.ok();
    let received = async {
        loop {
            let got = bed.call("received", subscribed.clone()).await;
            if let Some(body) = got["bodies"][0].as_str() {
                return serde_json::from_str::<Value>(body).expect("an event is JSON");
            }
        }
    };
    let event = tokio::time::timeout(PATIENCE_ON_AWS, received).await.expect("the event arrives");
    world.user.tasks_once_there("type=monitor").await;
    bed.call("again", json!({"stack": stack, "event": event})).await;
    // What comes after it has been read once this one's task is there.
    let last = json!({"type": "investigate", "payload": {"description": "after it"}});
    let last = json!({"event_type": "task.requested", "source_agent": "ci", "payload": last});
    world.agent.post("/events/publish", last).await.ok();
    world.user.tasks_once_there("type=investigate").await;
    let made = world.user.all("/tasks?type=monitor", "tasks").await;
    assert_eq!(made.len(), 1, "{made:?}");
    // It would show as a dead letter if the repeat had not been answered.
    world.end().await;
}

/// With nothing but another address and key, as its users type it.
#[tokio::test]
async fn the_command_line_works_there_too() {
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
