//! Kills the shipped binary under load again and again, on the same folder and without a
//! shutdown. What it accepted must end exactly once.
//!
//! `WATCHBILL_ROUNDS` sets the number of kills (soak: 200), `WATCHBILL_SEED` the requests and
//! the moments of the kills. The seed is printed.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::{Books, Client, KEYS, Launch, Server, Stopwatch, is_terminal, settled};
use load::{Dice, Submission, What};

const ROUNDS: u64 = 6;
const CONNECTIONS: u64 = 8;
/// Milliseconds from the first request of a round to the kill.
const KILL: std::ops::Range<u64> = 30..330;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}='{text}' is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_task_ends_once() {
    let rounds = number("WATCHBILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("WATCHBILL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    println!("crash: WATCHBILL_SEED={seed} WATCHBILL_ROUNDS={rounds}");
    let watch = Stopwatch::start();
    let mut crash = Crash::begin().await;
    for round in 1..=rounds {
        crash.round(&mut Dice::new(seed.wrapping_add(round << 32)), round).await;
    }
    let kills = watch.elapsed();
    crash.end().await;
    crash.restarts.sort();
    let restart = crash.restarts.get(crash.restarts.len() / 2).copied().unwrap_or_default();
    let accepted = crash.sent.iter().filter(|one| one.id.is_some()).count();
    println!(
        "crash: {rounds} rounds and kills in {kills:.1?}, {} sent, {accepted} accepted, \
         {} answers lost, restart p50 {restart:.1?}; audited after {:.1?}",
        crash.sent.len(),
        crash.lost,
        watch.elapsed(),
    );
}

struct Crash {
    launch: Launch,
    server: Option<Server>,
    agent: Client,
    sent: Vec<Submission>,
    lost: usize,
    restarts: Vec<Duration>,
    _folder: tempfile::TempDir,
}

impl Crash {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let launch = Launch::quiet(folder.path()).env("WATCHBILL_GATES", "off");
        let server = Some(launch.start().await);
        let agent = Client::new(&launch.url(), KEYS.agent);
        let (sent, restarts) = (Vec::new(), Vec::new());
        Self { launch, server, agent, sent, lost: 0, restarts, _folder: folder }
    }

    async fn round(&mut self, dice: &mut Dice, round: u64) {
        let mut load = tokio::task::JoinSet::new();
        for connection in 0..CONNECTIONS {
            let (name, dice) = (format!("{round}.{connection}"), Dice::new(dice.next()));
            // Each has its own connection.
            load.spawn(load::run(Client::new(&self.launch.url(), KEYS.agent), dice, name));
        }
        tokio::time::sleep(Duration::from_millis(dice.within(KILL))).await;
        let server = self.server.take().expect("it runs between rounds");
        server.kill().await;
        let sent: Vec<Submission> = load.join_all().await.into_iter().flatten().collect();
        let watch = Stopwatch::start();
        self.server = Some(self.launch.start().await);
        self.restarts.push(watch.elapsed());
        self.lost += sent.iter().filter(|one| one.id.is_none()).count();
        let mut repeats = tokio::task::JoinSet::new();
        for one in sent {
            repeats.spawn(repeat(self.agent.clone(), one));
        }
        self.sent.extend(repeats.join_all().await);
    }

    async fn end(&mut self) {
        settled(&self.agent).await;
        // Tasks that their agent can't do wait for a person, through any number of crashes.
        for task in self.agent.all("/tasks?status=blocked", "tasks").await {
            let path = format!("/tasks/{}/cancel", task["task_id"].as_str().expect("an id"));
            self.agent.post(&path, json!({"reason": "the test is over"})).await.ok();
        }
        settled(&self.agent).await;
        let books = Books::read(&self.agent).await;
        books.check();
        self.compare(&books);
        let server = self.server.take().expect("it runs between rounds");
        assert!(server.end("TERM").await.success());
    }

    /// Compares what was sent with what is recorded.
    fn compare(&self, books: &Books) {
        let mut wrong = Vec::new();
        let mut by_name = BTreeMap::<&str, Vec<&str>>::new();
        let mut reactions = BTreeSet::new();
        for (id, task) in &books.tasks {
            if !is_terminal(&task["status"]) {
                wrong.push(format!("{id} is still {}", task["status"]));
            }
            let (name, event) = (&task["metadata"]["name"], &task["metadata"]["event_id"]);
            match (name.as_str(), event.as_str()) {
                // A reaction to one of the alerts that were sent.
                (None, Some(event)) if !reactions.insert(event) => {
                    wrong.push(format!("{id} is another reaction to the event {event}"));
                }
                (None, Some(_)) => {}
                (name, _) => by_name.entry(name.unwrap_or_default()).or_default().push(id),
            }
        }
        for one in &self.sent {
            let made = by_name.remove(one.name.as_str()).unwrap_or_default();
            let fits = match (&one.id, one.what) {
                (Some(id), What::Task) => made == [id],
                (Some(_), What::Event) => made.len() == 1,
                // The outcome is unknown, but there must not be two.
                (None, _) => made.len() <= 1,
            };
            if !fits {
                wrong.push(format!("{} ({:?}, {:?}) became {made:?}", one.name, one.what, one.id));
            }
        }
        wrong.extend(by_name.iter().map(|(name, made)| format!("nobody sent '{name}': {made:?}")));
        wrong.extend(endings(books));
        assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// A request with a key can be repeated. If its response was lost, the repeat returns the task;
/// otherwise it must return the same one.
async fn repeat(agent: Client, mut one: Submission) -> Submission {
    if let Some(key) = &one.key {
        let repeated = agent.send(Method::POST, "/tasks", Some(&one.body), Some(key)).await;
        let answer = repeated.expect("it runs").ok();
        let id = answer["task_id"].as_str().expect("a task has an id").to_owned();
        if let Some(known) = &one.id {
            assert_eq!(*known, id, "a repeat made another task of {}", one.name);
        }
        one.id = Some(id);
    }
    one
}

/// Each task must have one event of its end.
fn endings(books: &Books) -> Vec<String> {
    let ends = ["task.completed", "task.failed", "task.cancelled"];
    let mut ids = BTreeMap::<&str, BTreeSet<&str>>::new();
    for event in books.events.iter().filter(|e| ends.iter().any(|end| e["event_type"] == *end)) {
        let (task, id) = (event["task_id"].as_str(), event["event_id"].as_str());
        ids.entry(task.unwrap_or_default()).or_default().insert(id.unwrap_or_default());
    }
    let count = |id: &String| ids.get(id.as_str()).map_or(0, BTreeSet::len);
    let odd = books.tasks.keys().filter(|id| count(id) != 1);
    odd.map(|id| format!("{id} has {} events of its end", count(id))).collect()
}
