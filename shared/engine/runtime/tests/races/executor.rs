//! Runs that end in every way, while others compete for the task and the store fails.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Notify;
use watchbill_core::decide::Command;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Clock as _;
use watchbill_domain::{Agent, Caller, Role, Status, TaskId};
use watchbill_runtime::executor::Executor;
use watchbill_runtime::run::{Retry, Run, RunOutcome, TaskAgent};
use watchbill_testkit::{FlakyStore, Machine, MemoryStore, assert_nothing_due, tenant, whats};

/// What an agent of these tests does with a task.
type Work = dyn Fn(u32) -> RunOutcome + Send + Sync;

struct Scripted {
    agent: Agent,
    runs: AtomicU32,
    /// If set, a run signals that it has begun and waits.
    gate: Option<(Arc<Notify>, Arc<Notify>)>,
    work: Box<Work>,
}

#[async_trait]
impl TaskAgent for Scripted {
    fn agent(&self) -> Agent {
        self.agent
    }

    async fn run(&self, _run: &Run) -> RunOutcome {
        let nth = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((begun, go_on)) = &self.gate {
            begun.notify_one();
            go_on.notified().await;
        }
        (self.work)(nth)
    }
}

fn agent(work: impl Fn(u32) -> RunOutcome + Send + Sync + 'static) -> Arc<Scripted> {
    Arc::new(Scripted {
        agent: Agent::Ops,
        runs: AtomicU32::new(0),
        gate: None,
        work: Box::new(work),
    })
}

fn done() -> RunOutcome {
    let result = json!({"status": "healthy"}).as_object().cloned().unwrap();
    RunOutcome::Done { result, events: Vec::new() }
}

fn executor(machine: &Machine, agent: &Arc<Scripted>) -> Executor {
    Executor::new(machine.core.clone(), agent.clone(), "lambda:1")
}

fn memory() -> (Arc<MemoryStore>, Machine) {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::at(store.clone(), 1, false);
    (store, machine)
}

/// Advances the clock to the time from which a task may run.
async fn to_resume(machine: &Machine, id: &TaskId) {
    let task = machine.stored(id).await.value;
    machine.clock.advance(task.resume_at.unwrap_or_default().since(machine.clock.now()));
}

#[tokio::test]
async fn a_panic_is_that_tasks_failure_and_is_tried_again() {
    let (store, machine) = memory();
    let agent = agent(|nth| if nth == 1 { panic!("index out of bounds") } else { done() });
    let executor = executor(&machine, &agent);
    let (broken, fine) = (machine.create().await, machine.create().await);
    let (first, second) = (machine.pointer(&broken).await, machine.pointer(&fine).await);
    let (one, other) = tokio::join!(executor.handle(&first), executor.handle(&second));
    assert!(one.is_ok() && other.is_ok());
    let task = machine.stored(&broken).await.value;
    assert_eq!((task.status, task.retries), (Status::Assigned, 1));
    assert!(task.error.unwrap().contains("index out of bounds"));
    assert_eq!(machine.stored(&fine).await.value.status, Status::Completed);
    to_resume(&machine, &broken).await;
    executor.handle(&machine.pointer(&broken).await).await.unwrap();
    let stored = machine.stored(&broken).await;
    assert_eq!(whats(&stored), ["created", "claimed", "retrying", "claimed", "completed"]);
    assert_nothing_due(&store);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_broken_off_and_tried_again() {
    let (_, machine) = memory();
    let gate = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = Arc::new(Scripted {
        agent: Agent::Ops,
        runs: AtomicU32::new(0),
        gate: Some(gate.clone()),
        work: Box::new(|_| done()),
    });
    let executor = executor(&machine, &slow);
    let id = machine.create().await;
    let message = machine.pointer(&id).await;
    let running = tokio::spawn(async move { executor.handle(&message).await });
    gate.0.notified().await;
    machine.clock.advance(Duration::from_secs(299));
    tokio::task::yield_now().await;
    assert!(!running.is_finished());
    machine.clock.advance(Duration::from_secs(1));
    running.await.unwrap().unwrap();
    let task = machine.stored(&id).await.value;
    assert_eq!((task.status, task.retries), (Status::Assigned, 1));
    assert!(task.error.unwrap().contains("the run exceeded its limit of 300 s"));
}

#[tokio::test]
async fn failures_are_retried_up_to_the_limit() {
    let (store, machine) = memory();
    let agent = agent(|_| RunOutcome::retryable("no route"));
    let executor = executor(&machine, &agent);
    let id = machine.create().await;
    let mut messages = 0;
    while !machine.stored(&id).await.value.status.is_terminal() {
        to_resume(&machine, &id).await;
        executor.handle(&machine.pointer(&id).await).await.unwrap();
        messages += 1;
        assert!(messages < 10, "never given up");
    }
    let task = machine.stored(&id).await.value;
    assert_eq!((task.status, task.retries, messages), (Status::Failed, 3, 4));
    executor.handle(&machine.pointer(&id).await).await.unwrap();
    assert_eq!(agent.runs.load(Ordering::Relaxed), 4, "a pointer too many runs nothing");
    assert_nothing_due(&store);
}

#[tokio::test]
async fn a_failure_for_good_is_not_tried_again() {
    let (store, machine) = memory();
    let agent = agent(|_| RunOutcome::Failed {
        error: "no such service".into(),
        retry: Retry::No,
        events: Vec::new(),
    });
    let id = machine.create().await;
    executor(&machine, &agent).handle(&machine.pointer(&id).await).await.unwrap();
    assert_eq!(machine.stored(&id).await.value.status, Status::Failed);
    assert_nothing_due(&store);
}

#[tokio::test]
async fn a_task_at_the_wrong_agent_is_rerouted_and_counted() {
    let (_, machine) = memory();
    let wrong = Arc::new(Scripted {
        agent: Agent::Dev,
        runs: AtomicU32::new(0),
        gate: None,
        work: Box::new(|_| done()),
    });
    let id = machine.create().await;
    let message = machine.pointer(&id).await;
    executor(&machine, &wrong).handle(&message).await.unwrap();
    // The same message again: its assignment is over.
    executor(&machine, &wrong).handle(&message).await.unwrap();
    let task = machine.stored(&id).await.value;
    assert_eq!((task.status, task.misrouted, task.assignment), (Status::Assigned, 1, 2));
    assert_eq!((task.agent, wrong.runs.load(Ordering::Relaxed)), (Agent::Ops, 0));
    let right = agent(|_| done());
    executor(&machine, &right).handle(&machine.pointer(&id).await).await.unwrap();
    assert_eq!(machine.stored(&id).await.value.status, Status::Completed);
}

#[tokio::test]
async fn a_message_for_a_running_task_is_retried_after_its_lease() {
    let (_, machine) = memory();
    let id = machine.create().await;
    let message = machine.pointer(&id).await;
    machine.claim(&id).await;
    let agent = agent(|_| done());
    let held = executor(&machine, &agent).handle(&message).await;
    let Err(HandlerError::Retry { after, .. }) = held else { panic!("{held:?}") };
    assert_eq!(after, Duration::from_secs(306), "once the lease is over, and not before");
    machine.clock.advance(after);
    executor(&machine, &agent).handle(&message).await.unwrap();
    let stored = machine.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "reclaimed", "completed"]);
}

/// Two writers: an executor that was suspended past its lease, and one that took over.
#[tokio::test]
async fn a_stale_run_whose_lease_ended_in_an_external_call_writes_nothing() {
    let store = Arc::new(MemoryStore::new());
    // Two machines: the clock of the first stands still while it is suspended.
    let (stale, young) =
        (Machine::at(store.clone(), 1, false), Machine::at(store.clone(), 2, false));
    let gate = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = Arc::new(Scripted {
        agent: Agent::Ops,
        runs: AtomicU32::new(0),
        gate: Some(gate.clone()),
        work: Box::new(|_| RunOutcome::terminal("the stale one")),
    });
    let id = stale.create().await;
    let message = stale.pointer(&id).await;
    let sleeping = tokio::spawn({
        let (executor, message) = (executor(&stale, &slow), message.clone());
        async move { executor.handle(&message).await }
    });
    gate.0.notified().await;
    young.clock.advance(Duration::from_secs(306));
    let second = young.claim(&id).await.value;
    assert_eq!(second.fence, 2);
    gate.1.notify_one();
    sleeping.await.unwrap().unwrap();
    let task = young.stored(&id).await;
    assert_eq!((task.value.status, task.value.fence), (Status::InProgress, 2));
    assert_eq!(whats(&task), ["created", "claimed", "reclaimed"]);
}

#[tokio::test]
async fn a_run_cancelled_meanwhile_writes_nothing() {
    let (store, machine) = memory();
    let gate = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = Arc::new(Scripted {
        agent: Agent::Ops,
        runs: AtomicU32::new(0),
        gate: Some(gate.clone()),
        work: Box::new(|_| done()),
    });
    let id = machine.create().await;
    let message = machine.pointer(&id).await;
    let executor = executor(&machine, &slow);
    let running = tokio::spawn(async move { executor.handle(&message).await });
    gate.0.notified().await;
    let kim = Caller { name: "kim".into(), role: Role::Admin, tenant: tenant(), made_by: None };
    machine.core.tasks().cancel(&kim, &id, None).await.unwrap();
    gate.1.notify_one();
    running.await.unwrap().unwrap();
    let stored = machine.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "cancelled"]);
    assert_nothing_due(&store);
}

#[tokio::test]
async fn an_ending_is_not_lost_to_a_store_that_is_busy() {
    for refused in [1, 9, 40, 200] {
        let store = Arc::new(MemoryStore::new());
        let machine = Machine::at(store.clone(), 1, true);
        let id = machine.create().await;
        let message = machine.pointer(&id).await;
        let busy = store.clone();
        let agent = agent(move |_| {
            busy.refuse_next(refused);
            done()
        });
        executor(&machine, &agent).handle(&message).await.unwrap();
        let stored = machine.stored(&id).await;
        assert_eq!(whats(&stored), ["created", "claimed", "completed"], "{refused} times busy");
        assert_nothing_due(&store);
    }
}

/// After the lease it is not retried: the message is redelivered, and the run starts again.
#[tokio::test]
async fn a_store_busy_for_ever_sends_the_message_back() {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::at(store.clone(), 1, true);
    let id = machine.create().await;
    let message = machine.pointer(&id).await;
    let busy = store.clone();
    let agent = agent(move |nth| {
        if nth == 1 {
            busy.refuse_next(1_000_000);
        }
        done()
    });
    let answer = executor(&machine, &agent).handle(&message).await;
    assert!(matches!(answer, Err(HandlerError::Retry { .. })), "{answer:?}");
    store.refuse_next(0);
    executor(&machine, &agent).handle(&message).await.unwrap();
    let stored = machine.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "reclaimed", "completed"]);
    assert_nothing_due(&store);
}

#[tokio::test]
async fn answers_lost_at_claim_and_end_run_each_task_once() {
    for seed in 0..60 {
        let store = Arc::new(MemoryStore::new());
        let flaky = Arc::new(FlakyStore::new(store.clone(), seed, 25));
        let machine = Machine::at(flaky, seed, true);
        let large = json!({"text": "x".repeat(9_000)}).as_object().cloned().unwrap();
        let agent = agent(move |_| RunOutcome::Done { result: large.clone(), events: Vec::new() });
        let executor = executor(&machine, &agent);
        let id = machine.create().await;
        let message = machine.pointer(&id).await;
        executor.handle(&message).await.unwrap();
        let _ = executor.handle(&message).await;
        let stored = machine.stored(&id).await;
        assert_eq!(whats(&stored), ["created", "claimed", "completed"], "seed {seed}");
        assert_eq!(agent.runs.load(Ordering::Relaxed), 1, "seed {seed}");
        let full = machine.core.tasks().get(&tenant(), &id).await.unwrap();
        assert_eq!(full.result.unwrap()["text"].as_str().map(str::len), Some(9_000));
        assert_nothing_due(&store);
    }
}

/// Many messages for one task, on executors that interleave in many orders.
#[tokio::test]
async fn many_messages_for_one_task_make_one_run() {
    for seed in 0..20 {
        let store = Arc::new(MemoryStore::new());
        let machine = Machine::at(Arc::new(FlakyStore::new(store.clone(), seed, 0)), seed, true);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let agent = agent({
            let seen = seen.clone();
            move |nth| {
                seen.lock().unwrap().push(nth);
                done()
            }
        });
        let id = machine.create().await;
        let message = machine.pointer(&id).await;
        let executor = executor(&machine, &agent);
        let all = futures_util::future::join_all((0..12).map(|_| executor.handle(&message))).await;
        let returned = all.iter().filter(|answer| answer.is_err()).count();
        assert!(returned < 12, "seed {seed}");
        assert_eq!(seen.lock().unwrap().len(), 1, "seed {seed}");
        assert_eq!(machine.stored(&id).await.value.fence, 1);
        assert_nothing_due(&store);
    }
}

#[tokio::test]
async fn an_executor_that_finds_one_lost_run_too_many_runs_nothing() {
    let (store, machine) = memory();
    let id = machine.create().await;
    for _ in 0..6 {
        machine.claim(&id).await;
        machine.clock.advance(Duration::from_secs(306));
    }
    let agent = agent(|_| done());
    executor(&machine, &agent).handle(&machine.pointer(&id).await).await.unwrap();
    assert_eq!(machine.stored(&id).await.value.status, Status::Failed);
    assert_eq!(agent.runs.load(Ordering::Relaxed), 0);
    assert_nothing_due(&store);
}

#[tokio::test]
async fn a_suspended_run_frees_its_executor_and_comes_back() {
    let (store, machine) = memory();
    let resume_at = machine.clock.now().plus(Duration::from_secs(600));
    let agent = agent(move |nth| match nth {
        1 => RunOutcome::Suspended { resume_at, note: "the build runs".into() },
        _ => done(),
    });
    let executor = executor(&machine, &agent);
    let id = machine.create().await;
    executor.handle(&machine.pointer(&id).await).await.unwrap();
    let early = executor.handle(&machine.pointer(&id).await).await;
    let Err(HandlerError::Retry { after, .. }) = early else { panic!("{early:?}") };
    assert_eq!(after, Duration::from_secs(600));
    machine.clock.advance(after);
    executor.handle(&machine.pointer(&id).await).await.unwrap();
    let stored = machine.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "suspended", "resumed", "completed"]);
    assert_nothing_due(&store);
}

/// A newer build's task waits for a newer build.
#[tokio::test]
async fn newer_schema_sends_the_message_back() {
    let (store, machine) = memory();
    let id = machine.create().await;
    let message = machine.pointer(&id).await;
    let mut items = store.items();
    let old = items.remove(0);
    let item = watchbill_core::ports::NewItem {
        key: old.key,
        kind: "task".into(),
        schema: 7,
        body: old.body,
        list: old.list,
        list2: None,
        due: old.due,
        expires: None,
    };
    let expect = watchbill_core::ports::Precondition::Version(1);
    let writes = vec![watchbill_core::ports::Write::Put { item, expect }];
    let commit = watchbill_core::ports::Commit { id: machine.core.entropy().write_id(), writes };
    watchbill_core::ports::Store::commit(&*store, commit).await.unwrap();
    let agent = agent(|_| done());
    let answer = executor(&machine, &agent).handle(&message).await;
    assert!(matches!(answer, Err(HandlerError::Retry { .. })), "{answer:?}");
    let command = Command::Tick { lane_busy: false };
    assert!(machine.core.tasks().command(&tenant(), &id, &command).await.is_err());
    assert_eq!(agent.runs.load(Ordering::Relaxed), 0);
}

fn large(bytes: usize) -> RunOutcome {
    let result = json!({ "log": "x".repeat(bytes) }).as_object().cloned().unwrap();
    RunOutcome::Done { result, events: Vec::new() }
}

/// A result of a megabyte, with a blob store that is busy at first: the run is not repeated.
#[tokio::test]
async fn a_result_of_a_megabyte_is_kept_though_the_blob_store_is_busy() {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::at(store.clone(), 1, true);
    let agent = agent(|_| large(1 << 20));
    let id = machine.create().await;
    machine.blobs.refuse_next(3);
    executor(&machine, &agent).handle(&machine.pointer(&id).await).await.unwrap();
    let stored = machine.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "completed"]);
    let read = machine.core.tasks().get(&tenant(), &id).await.unwrap();
    assert_eq!(read.result.unwrap()["log"].as_str().unwrap().len(), 1 << 20);
    assert_eq!(agent.runs.load(Ordering::Relaxed), 1);
    assert!(stored.value.log.len() == 3 && store.items().iter().all(|i| i.body.len() < 4_096));
    assert_nothing_due(&store);
}

/// An unavailable blob store costs this run, not the task: the message is redelivered.
#[tokio::test]
async fn a_result_that_cannot_be_kept_in_time_leaves_the_task_to_the_next_run() {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::at(store.clone(), 1, true);
    let agent = agent(|_| large(150_000));
    let executor = executor(&machine, &agent);
    let id = machine.create().await;
    machine.blobs.refuse_next(usize::MAX);
    let late = executor.handle(&machine.pointer(&id).await).await;
    assert!(matches!(late, Err(HandlerError::Retry { .. })), "{late:?}");
    assert_eq!(machine.stored(&id).await.value.status, Status::InProgress);
    machine.blobs.refuse_next(0);
    executor.handle(&machine.pointer(&id).await).await.unwrap();
    assert_eq!(machine.stored(&id).await.value.status, Status::Completed);
    assert_nothing_due(&store);
}

#[tokio::test]
async fn a_result_beyond_the_limit_ends_the_task_with_its_size() {
    let (store, machine) = memory();
    let agent = agent(|_| large(4 << 20));
    let id = machine.create().await;
    executor(&machine, &agent).handle(&machine.pointer(&id).await).await.unwrap();
    let task = machine.stored(&id).await.value;
    let error = task.error.unwrap();
    assert_eq!(task.status, Status::Failed);
    assert!(error.contains("result has 4194314 bytes; the maximum is 4194304"), "{error}");
    assert_eq!(machine.blobs.keys(), []);
    assert_nothing_due(&store);
}
