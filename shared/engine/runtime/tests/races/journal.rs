//! Journal entries are identified by key and call; a provider that never responds to a lookup.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use watchbill_core::ports::{Clock as _, Commit, Precondition, Store as _, Write};
use watchbill_core::repo::{EffectRecord, decode, encode};
use watchbill_domain::{Agent, Caller, Role, Status, TaskType, ToolCall};
use watchbill_governance::{Planned, Planner, ToolSpecs};
use watchbill_runtime::executor::Executor;
use watchbill_runtime::journal::{Attempt, Effect, EffectOutcome, Journal, Lookup};
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};
use watchbill_testkit::{KnownTools, Machine, MemoryStore, tenant};

const TIME_OUT: Duration = Duration::from_secs(30);

/// Deploys a project, always under the same key.
struct Deploy {
    project: &'static str,
    provider: Arc<Provider>,
}

#[derive(Default)]
struct Provider {
    made: Mutex<Vec<&'static str>>,
    looks: AtomicU32,
    loses_answers: bool,
}

impl Provider {
    fn made(&self) -> Vec<&'static str> {
        self.made.lock().unwrap().clone()
    }
}

#[async_trait]
impl Effect for Deploy {
    fn key(&self) -> String {
        "deploy".into()
    }
    fn what(&self) -> String {
        "create deployment".into()
    }
    fn target(&self) -> String {
        self.project.into()
    }
    fn provider_key(&self) -> String {
        "wb-1".into()
    }
    fn time_out(&self) -> Duration {
        TIME_OUT
    }
    fn call(&self) -> ToolCall {
        let arguments = json!({"environment": "sandbox", "project": self.project});
        let arguments = arguments.as_object().cloned().expect("it is an object");
        ToolCall { tool: "deploy".to_owned(), arguments, mutating: true }
    }
    async fn attempt(&self) -> Attempt {
        self.provider.made.lock().unwrap().push(self.project);
        match self.provider.loses_answers {
            true => Attempt::Unknown { error: "reset".into() },
            false => Attempt::Done(Map::from_iter([("of".to_owned(), self.project.into())])),
        }
    }
    async fn look_up(&self) -> Lookup {
        self.provider.looks.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }
    async fn undo(&self, _result: &Map<String, Value>) {}
}

fn done(of: &str) -> EffectOutcome {
    EffectOutcome::Done(Map::from_iter([("of".to_owned(), of.into())]))
}

/// Deploys its projects in order. Blocks the task if the journal reports a mismatch.
struct Deployer {
    projects: Mutex<Vec<&'static str>>,
    provider: Arc<Provider>,
}

#[async_trait]
impl TaskAgent for Deployer {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        let journal = run.journal.as_ref().expect("the executor gives steps");
        let projects = self.projects.lock().unwrap().clone();
        let mut result = Map::new();
        for project in projects {
            let effect = Deploy { project, provider: self.provider.clone() };
            match journal.execute(&effect).await.unwrap() {
                EffectOutcome::Done(done) => result = done,
                EffectOutcome::Mismatch { error, question } => {
                    return RunOutcome::Blocked { reason: error, question: Some(question) };
                }
                EffectOutcome::Refused { error, .. } => return RunOutcome::terminal(error),
                other => panic!("{other:?}"),
            }
        }
        RunOutcome::Done { result, events: Vec::new() }
    }
}

/// The same key with other arguments is not a repeat and must not return the other call's
/// result.
#[tokio::test]
async fn another_call_under_the_same_key_blocks_the_task_with_a_question() {
    for (answer, status, made) in [
        ("go on anew", Status::Completed, vec!["shop", "bank"]),
        ("cancel", Status::Failed, vec!["shop"]),
        ("perhaps", Status::Blocked, vec!["shop"]),
    ] {
        let store = Arc::new(MemoryStore::new());
        let machine = Machine::at(store.clone(), 1, true);
        let provider = Arc::new(Provider::default());
        let projects = Mutex::new(vec!["shop", "bank"]);
        let agent = Arc::new(Deployer { projects, provider: provider.clone() });
        let executor = Executor::new(machine.core.clone(), agent.clone(), "one");
        let id = machine.create().await;
        executor.handle(&machine.pointer(&id).await).await.unwrap();
        let task = machine.stored(&id).await.value;
        assert_eq!(task.status, Status::Blocked, "{:?}", task.error);
        let question = task.question.unwrap();
        assert!(question.text.contains("the journal holds 'deploy'"), "{}", question.text);
        assert_eq!(question.choices, ["go on anew", "cancel"]);
        assert_eq!(provider.made(), ["shop"]);

        *agent.projects.lock().unwrap() = vec!["bank"];
        let kim = Caller::new("kim", Role::Admin, tenant());
        machine.core.tasks().answer(&kim, &id, answer.into()).await.unwrap();
        executor.handle(&machine.pointer(&id).await).await.unwrap();
        let task = machine.stored(&id).await.value;
        assert_eq!((task.status, provider.made()), (status, made), "{answer}: {:?}", task.error);
        // The earlier effect stays on record.
        let journal = store.items().into_iter().filter(|item| &*item.kind == "step");
        let targets: Vec<String> =
            journal.map(|item| decode::<EffectRecord>(&item).unwrap().value.target).collect();
        assert!(targets.contains(&"shop".to_owned()), "{targets:?}");
    }
}

/// Frozen: records without a hash match any call with their key.
#[tokio::test]
async fn a_record_of_an_earlier_version_is_returned_by_its_key_alone() {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::at(store.clone(), 1, false);
    let id = machine.create().await;
    let task = machine.claim(&id).await.value;
    let journal = Journal::of_run(machine.core.clone(), &task);
    let provider = Arc::new(Provider::default());
    let shop = Deploy { project: "shop", provider: provider.clone() };
    assert_eq!(journal.execute(&shop).await.unwrap(), done("shop"));
    let item = store.items().into_iter().find(|item| &*item.kind == "step").unwrap();
    let step = EffectRecord { call_hash: None, ..decode::<EffectRecord>(&item).unwrap().value };
    let put = Write::Put { item: encode(&step, None), expect: Precondition::Version(item.version) };
    let id = machine.core.entropy().write_id();
    store.commit(Commit { id, writes: vec![put] }).await.unwrap();
    let bank = Deploy { project: "bank", provider: provider.clone() };
    assert_eq!(journal.execute(&bank).await.unwrap(), done("shop"));
    assert_eq!(provider.made(), ["shop"]);
}

#[tokio::test]
async fn a_lookup_without_a_response_ends_within_the_lease_and_is_inconclusive() {
    let machine = Machine::at(Arc::new(MemoryStore::new()), 1, true);
    let id = machine.create().await;
    let task = machine.claim(&id).await.value;
    let until = task.lease.as_ref().unwrap().until;
    let journal = Journal::of_run(machine.core.clone(), &task);
    let provider = Arc::new(Provider { loses_answers: true, ..Provider::default() });
    let shop = Deploy { project: "shop", provider: provider.clone() };
    let first = journal.execute(&shop).await.unwrap();
    let EffectOutcome::Unsettled { after, .. } = first else { panic!("{first:?}") };
    machine.clock.advance(after);
    // Without a limit it would never return.
    let taken = tokio::time::timeout(Duration::from_secs(20), journal.execute(&shop)).await;
    let taken = taken.expect("the look-up ends").unwrap();
    let wanted = "no response to the lookup within 30 s".to_owned();
    assert_eq!(taken, EffectOutcome::Undecidable { error: wanted });
    assert!(machine.clock.now() < until, "the lease outlives the look-up");
    assert_eq!((provider.made().len(), provider.looks.load(Ordering::Relaxed)), (1, 1));
    assert!(!journal.changed_something(), "nobody knows that it did");
}

/// A run that changed something external reports it, also if an earlier run did it.
#[tokio::test]
async fn a_run_knows_whether_it_changed_something() {
    let machine = Machine::at(Arc::new(MemoryStore::new()), 1, true);
    let provider = Arc::new(Provider::default());
    for (projects, read_only) in [(vec![], true), (vec!["shop"], false)] {
        let projects = Mutex::new(projects);
        let agent = Arc::new(Deployer { projects, provider: provider.clone() });
        let executor = Executor::new(machine.core.clone(), agent, "one");
        let id = machine.create().await;
        executor.handle(&machine.pointer(&id).await).await.unwrap();
        let outcome = machine.stored(&id).await.value.outcome.unwrap();
        assert_eq!((outcome.read_only, outcome.reputation.len()), (read_only, 1));
    }
}

/// Counts how often a plan is computed.
#[derive(Default)]
struct Counting(AtomicU32);

impl Planner for Counting {
    fn plan(&self, agent: Agent, kind: TaskType, payload: &Map<String, Value>) -> Planned {
        self.0.fetch_add(1, Ordering::Relaxed);
        KnownTools.plan(agent, kind, payload)
    }

    fn specs(&self) -> &ToolSpecs {
        KnownTools.specs()
    }
}

/// Once for the submission, once for the claim: the run and its effects use the claim's plan.
#[tokio::test]
async fn a_plan_is_computed_once_for_each_submission_and_each_claim() {
    let mut machine = Machine::at(Arc::new(MemoryStore::new()), 1, true);
    let planner = Arc::new(Counting::default());
    machine.core = machine.core.planned_by(planner.clone());
    let provider = Arc::new(Provider::default());
    let projects = Mutex::new(vec!["shop"]);
    let agent = Arc::new(Deployer { projects, provider: provider.clone() });
    let executor = Executor::new(machine.core.clone(), agent, "one");
    let id = machine.create().await;
    assert_eq!(planner.0.load(Ordering::Relaxed), 1);
    executor.handle(&machine.pointer(&id).await).await.unwrap();
    assert_eq!(machine.stored(&id).await.value.status, Status::Completed);
    assert_eq!(provider.made(), ["shop"]);
    assert_eq!(planner.0.load(Ordering::Relaxed), 2);
}
