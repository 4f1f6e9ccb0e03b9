//! An external peer at which things are created, and the agent that creates one for each task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use watchbill_core::ports::Entropy as _;
use watchbill_core::service::Core;
use watchbill_domain::{Agent, ToolCall};
use watchbill_runtime::journal::{Attempt, Effect, EffectOutcome, Journal, Lookup};
use watchbill_runtime::run::{Retry, Run, RunOutcome, TaskAgent};
use watchbill_testkit::SeededEntropy;

/// Keeps created things by the key under which the creator looks them up. The peer does not
/// recognise repeats: only our side prevents that a thing is created twice.
pub struct Peer {
    dice: SeededEntropy,
    made: Mutex<BTreeMap<String, Vec<Thing>>>,
}

#[derive(Clone, Debug)]
struct Thing {
    id: String,
    removed: bool,
}

impl Peer {
    pub fn new(seed: u64) -> Self {
        Self { dice: SeededEntropy::new(seed), made: Mutex::default() }
    }

    fn made(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Thing>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many things of a key exist, and how many were removed.
    pub fn count(&self, key: &str) -> (usize, usize) {
        let made = self.made();
        let things = made.get(key).map_or(&[][..], Vec::as_slice);
        let removed = things.iter().filter(|thing| thing.removed).count();
        (things.len() - removed, removed)
    }

    pub fn keys(&self) -> usize {
        self.made().len()
    }

    fn make(&self, key: &str) -> Map<String, Value> {
        let mut made = self.made();
        let things = made.entry(key.to_owned()).or_default();
        let id = format!("{key}/{}", things.len());
        things.push(Thing { id: id.clone(), removed: false });
        Map::from_iter([("id".to_owned(), Value::from(id))])
    }
}

struct Create {
    peer: Arc<Peer>,
    key: String,
}

#[async_trait]
impl Effect for Create {
    fn key(&self) -> String {
        "create".to_owned()
    }

    fn what(&self) -> String {
        "create a thing".to_owned()
    }

    fn target(&self) -> String {
        self.key.clone()
    }

    fn provider_key(&self) -> String {
        self.key.clone()
    }

    fn time_out(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn call(&self) -> ToolCall {
        let arguments = json!({"environment": "sandbox", "project": self.key});
        let arguments = arguments.as_object().cloned().expect("it is an object");
        ToolCall { tool: "deploy".to_owned(), arguments, mutating: true }
    }

    /// One attempt in five fails, like all other calls.
    async fn attempt(&self) -> Attempt {
        let error = "the peer did not answer".to_owned();
        match self.peer.dice.next_u64() % 20 {
            0 => Attempt::Unknown { error },
            1 | 2 => {
                self.peer.make(&self.key);
                Attempt::Unknown { error }
            }
            3 => Attempt::Refused { error: "the peer is busy".to_owned(), retry: true },
            _ => Attempt::Done(self.peer.make(&self.key)),
        }
    }

    async fn look_up(&self) -> Lookup {
        let made = self.peer.made();
        let things = made.get(&self.key).map_or(&[][..], Vec::as_slice);
        match things.iter().find(|thing| !thing.removed) {
            Some(thing) => {
                let id = ("id".to_owned(), Value::from(thing.id.clone()));
                Lookup::Happened(Map::from_iter([id]))
            }
            None => Lookup::Absent,
        }
    }

    async fn undo(&self, result: &Map<String, Value>) {
        let mut made = self.peer.made();
        for thing in made.values_mut().flatten().filter(|thing| result["id"] == thing.id.as_str()) {
            thing.removed = true;
        }
    }
}

/// An agent whose runs have one effect each.
pub struct Creator {
    core: Core,
    peer: Arc<Peer>,
}

impl Creator {
    pub fn new(core: Core, peer: Arc<Peer>) -> Self {
        Self { core, peer }
    }
}

#[async_trait]
impl TaskAgent for Creator {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        let create = Create { peer: self.peer.clone(), key: run.task.id.to_string() };
        let journal = Journal::of_run(self.core.clone(), &run.task);
        match journal.execute(&create).await {
            Ok(EffectOutcome::Done(result)) => RunOutcome::Done { result, events: Vec::new() },
            Ok(EffectOutcome::Refused { error, retry: true }) => RunOutcome::retryable(error),
            Ok(EffectOutcome::Refused { error, retry: false }) => RunOutcome::terminal(error),
            Ok(EffectOutcome::Unsettled { after, error }) => {
                RunOutcome::Suspended { resume_at: run.clock.now().plus(after), note: error }
            }
            Ok(EffectOutcome::Mismatch { error, question }) => {
                RunOutcome::Blocked { reason: error, question: Some(question) }
            }
            Ok(EffectOutcome::Undecidable { error }) => {
                RunOutcome::Blocked { reason: error, question: None }
            }
            Ok(EffectOutcome::NotAuthorized(withheld)) => RunOutcome::NotAuthorized(withheld),
            Ok(EffectOutcome::Stopped { reason }) => RunOutcome::retryable(reason),
            Err(error) => RunOutcome::Failed {
                error: error.to_string(),
                retry: Retry::Yes { after: None },
                events: Vec::new(),
            },
        }
    }
}

/// Does nothing, like the agent of the benchmarks: what remains is the cost of the product.
pub struct Idle;

#[async_trait]
impl TaskAgent for Idle {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, _run: &Run) -> RunOutcome {
        let result = Map::from_iter([("status".to_owned(), Value::from("healthy"))]);
        RunOutcome::Done { result, events: Vec::new() }
    }
}
