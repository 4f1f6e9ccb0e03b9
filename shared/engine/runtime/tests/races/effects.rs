//! Effects at a provider that responds late, not at all, or to two runs at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use watchbill_core::ports::{Clock as _, Store};
use watchbill_core::repo::{EffectRecord, decode};
use watchbill_domain::{Caller, Role, Status, TaskId, ToolCall};
use watchbill_runtime::journal::{Attempt, Effect, EffectOutcome, Journal, Lookup};
use watchbill_testkit::{FlakyStore, Machine, MemoryStore, tenant};

const TIME_OUT: Duration = Duration::from_secs(30);
/// The timeout, and how long the provider may still act after it.
const SETTLED: Duration = Duration::from_secs(40);

/// What the provider does with the next attempt.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    Done,
    /// Happens, and the response is lost.
    LostAfter,
    /// Does not happen, and no response comes.
    LostBefore,
    Refuse,
    TryAgain,
    /// Happens at once, and responds when signalled.
    LateWord,
    /// Happens and responds when signalled.
    LateDone,
}

/// A provider that records what was created.
#[derive(Default)]
struct Provider {
    answers: Mutex<VecDeque<Answer>>,
    made: Mutex<Vec<u64>>,
    calls: Mutex<Vec<String>>,
    begun: Notify,
    go_on: Notify,
    can_tell: AtomicBool,
}

impl Provider {
    fn answering(answers: &[Answer]) -> Arc<Self> {
        let provider = Self::default();
        provider.answers.lock().unwrap().extend(answers);
        provider.can_tell.store(true, Ordering::Relaxed);
        Arc::new(provider)
    }

    fn make(&self) -> Map<String, Value> {
        let mut made = self.made.lock().unwrap();
        let id = made.last().map_or(1, |last| last + 1) + self.undone();
        made.push(id);
        json!({"id": id}).as_object().cloned().unwrap()
    }

    fn undone(&self) -> u64 {
        self.calls.lock().unwrap().iter().filter(|call| call.starts_with("undo")).count() as u64
    }

    fn made(&self) -> Vec<u64> {
        self.made.lock().unwrap().clone()
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

struct Deploy(Arc<Provider>);

#[async_trait]
impl Effect for Deploy {
    fn key(&self) -> String {
        "deploy/shop#1".into()
    }
    fn what(&self) -> String {
        "create deployment".into()
    }
    fn target(&self) -> String {
        "shop".into()
    }
    fn provider_key(&self) -> String {
        "wb-1".into()
    }
    fn time_out(&self) -> Duration {
        TIME_OUT
    }

    fn call(&self) -> ToolCall {
        let arguments = json!({"environment": "sandbox", "project": "shop"});
        let arguments = arguments.as_object().cloned().expect("it is an object");
        ToolCall { tool: "deploy".to_owned(), arguments, mutating: true }
    }

    async fn attempt(&self) -> Attempt {
        self.0.note("attempt");
        let answer = self.0.answers.lock().unwrap().pop_front().unwrap_or(Answer::Done);
        let unknown = || Attempt::Unknown { error: "reset".into() };
        match answer {
            Answer::Done => Attempt::Done(self.0.make()),
            Answer::LostAfter => {
                self.0.make();
                unknown()
            }
            Answer::LostBefore => unknown(),
            Answer::Refuse => Attempt::Refused { error: "no such project".into(), retry: false },
            Answer::TryAgain => Attempt::Refused { error: "too many".into(), retry: true },
            Answer::LateWord => {
                let made = self.0.make();
                self.0.begun.notify_one();
                self.0.go_on.notified().await;
                Attempt::Done(made)
            }
            Answer::LateDone => {
                self.0.begun.notify_one();
                self.0.go_on.notified().await;
                Attempt::Done(self.0.make())
            }
        }
    }

    async fn look_up(&self) -> Lookup {
        self.0.note("look up");
        if !self.0.can_tell.load(Ordering::Relaxed) {
            return Lookup::Inconclusive { error: "the list is out of reach".into() };
        }
        match self.0.made().first() {
            // Described differently from the response to its creation, as by real providers.
            Some(id) => {
                Lookup::Happened(json!({"id": id, "state": "READY"}).as_object().cloned().unwrap())
            }
            None => Lookup::Absent,
        }
    }

    async fn undo(&self, result: &Map<String, Value>) {
        let id = result.get("id").and_then(Value::as_u64).unwrap_or_default();
        self.0.note(format!("undo {id}"));
        self.0.made.lock().unwrap().retain(|made| *made != id);
    }
}

fn made(taken: &EffectOutcome) -> Option<u64> {
    match taken {
        EffectOutcome::Done(result) => result.get("id").and_then(Value::as_u64),
        _ => None,
    }
}

/// A task that a machine has claimed.
async fn running(store: Arc<dyn Store>) -> (Machine, TaskId, Journal) {
    let machine = Machine::at(store, 1, false);
    let id = machine.create().await;
    let task = machine.claim(&id).await.value;
    let journal = Journal::of_run(machine.core.clone(), &task);
    (machine, id, journal)
}

fn recorded(store: &MemoryStore) -> Vec<EffectRecord> {
    let items = store.items();
    let journal = items.iter().filter(|item| &*item.kind == "step");
    journal.map(|item| decode::<EffectRecord>(item).unwrap().value).collect()
}

/// A deployment by a tool that is registered as one that reads.
struct SaysItReads(Deploy);

#[async_trait]
impl Effect for SaysItReads {
    fn key(&self) -> String {
        self.0.key()
    }
    fn what(&self) -> String {
        self.0.what()
    }
    fn target(&self) -> String {
        self.0.target()
    }
    fn provider_key(&self) -> String {
        self.0.provider_key()
    }
    fn time_out(&self) -> Duration {
        self.0.time_out()
    }
    fn call(&self) -> ToolCall {
        ToolCall { tool: "monitor".to_owned(), mutating: false, ..self.0.call() }
    }
    async fn attempt(&self) -> Attempt {
        self.0.attempt().await
    }
    async fn look_up(&self) -> Lookup {
        self.0.look_up().await
    }
    async fn undo(&self, result: &Map<String, Value>) {
        self.0.undo(result).await;
    }
}

#[tokio::test]
async fn an_effect_of_a_tool_that_only_reads_is_not_attempted() {
    let (_, _, journal) = running(Arc::new(MemoryStore::new())).await;
    let provider = Provider::answering(&[Answer::Done]);
    let taken = journal.execute(&SaysItReads(Deploy(provider.clone()))).await.unwrap();
    let EffectOutcome::Refused { error, retry: false } = taken else { panic!("{taken:?}") };
    assert!(error.contains("'monitor' is mutating"), "{error}");
    assert!(provider.calls().is_empty() && provider.made().is_empty());
}

#[tokio::test]
async fn an_intent_is_durable_before_the_attempt_and_an_outcome_after() {
    let store = Arc::new(MemoryStore::new());
    let (machine, _, journal) = running(store.clone()).await;
    let provider = Provider::answering(&[Answer::LateDone]);
    let taking = tokio::spawn({
        let (journal, provider) = (journal.clone(), provider.clone());
        async move { journal.execute(&Deploy(provider)).await }
    });
    provider.begun.notified().await;
    let intent = recorded(&store);
    assert_eq!(intent.len(), 1);
    assert!(intent[0].outcome.is_none());
    assert_eq!(intent[0].settles_at, machine.clock.now().plus(SETTLED));
    provider.go_on.notify_one();
    assert_eq!(made(&taking.await.unwrap().unwrap()), Some(1));
    assert!(recorded(&store)[0].outcome.as_ref().unwrap().success);
    // Executed again, by this run or another, it returns the record.
    assert_eq!(made(&journal.execute(&Deploy(provider.clone())).await.unwrap()), Some(1));
    assert_eq!(provider.calls(), ["attempt"]);
}

#[tokio::test]
async fn an_unknown_outcome_is_looked_up_when_settled_and_never_repeated() {
    let store = Arc::new(MemoryStore::new());
    let (machine, _, journal) = running(store.clone()).await;
    let provider = Provider::answering(&[Answer::LostAfter]);
    let effect = Deploy(provider.clone());
    let first = journal.execute(&effect).await.unwrap();
    assert!(
        matches!(first, EffectOutcome::Unsettled { after, .. } if after == SETTLED),
        "{first:?}"
    );
    machine.clock.advance(SETTLED - Duration::from_millis(1));
    let early = journal.execute(&effect).await.unwrap();
    let moment = Duration::from_millis(1);
    assert!(
        matches!(early, EffectOutcome::Unsettled { after, .. } if after == moment),
        "{early:?}"
    );
    assert_eq!(provider.calls(), ["attempt"]);
    machine.clock.advance(moment);
    assert_eq!(made(&journal.execute(&effect).await.unwrap()), Some(1));
    assert_eq!(provider.calls(), ["attempt", "look up"]);
    assert!(recorded(&store)[0].outcome.as_ref().unwrap().looked_up);
    assert_eq!(provider.made(), [1]);
}

#[tokio::test]
async fn what_did_not_happen_is_attempted_again_after_a_lookup() {
    let (machine, _, journal) = running(Arc::new(MemoryStore::new())).await;
    let provider = Provider::answering(&[Answer::LostBefore, Answer::TryAgain, Answer::Done]);
    let effect = Deploy(provider.clone());
    assert!(matches!(journal.execute(&effect).await.unwrap(), EffectOutcome::Unsettled { .. }));
    machine.clock.advance(SETTLED);
    let again = journal.execute(&effect).await.unwrap();
    assert!(matches!(again, EffectOutcome::Refused { retry: true, .. }), "{again:?}");
    machine.clock.advance(SETTLED);
    assert_eq!(made(&journal.execute(&effect).await.unwrap()), Some(1));
    assert_eq!(provider.calls(), ["attempt", "look up", "attempt", "look up", "attempt"]);
}

#[tokio::test]
async fn no_answer_in_time_is_unknown() {
    let (machine, _, journal) = running(Arc::new(MemoryStore::new())).await;
    let provider = Provider::answering(&[Answer::LateDone]);
    let taking = tokio::spawn({
        let provider = provider.clone();
        async move { journal.execute(&Deploy(provider)).await }
    });
    provider.begun.notified().await;
    machine.clock.advance(TIME_OUT);
    let taken = taking.await.unwrap().unwrap();
    let settling = Duration::from_secs(10);
    assert!(
        matches!(taken, EffectOutcome::Unsettled { after, .. } if after == settling),
        "{taken:?}"
    );
}

#[tokio::test]
async fn a_provider_that_cannot_tell_leaves_it_to_a_person() {
    let (machine, _, journal) = running(Arc::new(MemoryStore::new())).await;
    let provider = Provider::answering(&[Answer::LostAfter]);
    provider.can_tell.store(false, Ordering::Relaxed);
    let effect = Deploy(provider.clone());
    journal.execute(&effect).await.unwrap();
    machine.clock.advance(SETTLED);
    let taken = journal.execute(&effect).await.unwrap();
    assert!(matches!(taken, EffectOutcome::Undecidable { .. }), "{taken:?}");
    assert_eq!(provider.made(), [1], "and nothing is done meanwhile");
}

#[tokio::test]
async fn a_refusal_for_good_is_recorded_and_not_asked_for_again() {
    let store = Arc::new(MemoryStore::new());
    let (_, _, journal) = running(store.clone()).await;
    let provider = Provider::answering(&[Answer::Refuse]);
    for _ in 0..2 {
        let taken = journal.execute(&Deploy(provider.clone())).await.unwrap();
        let error = "no such project".to_owned();
        assert_eq!(taken, EffectOutcome::Refused { error, retry: false });
    }
    assert_eq!(provider.calls(), ["attempt"]);
}

#[tokio::test]
async fn an_effect_starts_only_if_its_time_out_fits_into_the_lease() {
    let (machine, _, journal) = running(Arc::new(MemoryStore::new())).await;
    let provider = Provider::answering(&[]);
    machine.clock.advance(Duration::from_secs(305) - TIME_OUT);
    let taken = journal.execute(&Deploy(provider.clone())).await.unwrap();
    assert!(matches!(taken, EffectOutcome::Stopped { .. }), "{taken:?}");
    assert_eq!(provider.calls().len(), 0);
}

#[tokio::test]
async fn a_cancelled_run_stops_at_its_next_intent_and_records_what_it_had_begun() {
    let store = Arc::new(MemoryStore::new());
    let (machine, id, journal) = running(store.clone()).await;
    let provider = Provider::answering(&[Answer::LateDone]);
    let taking = tokio::spawn({
        let (journal, provider) = (journal.clone(), provider.clone());
        async move { journal.execute(&Deploy(provider)).await }
    });
    provider.begun.notified().await;
    let kim = Caller { name: "kim".into(), role: Role::Admin, tenant: tenant(), made_by: None };
    machine.core.tasks().cancel(&kim, &id, None).await.unwrap();
    provider.go_on.notify_one();
    assert_eq!(made(&taking.await.unwrap().unwrap()), Some(1));
    assert!(recorded(&store)[0].outcome.as_ref().unwrap().success, "what was done was done");
    let next = journal.execute(&Deploy(Provider::answering(&[]))).await.unwrap();
    assert!(matches!(next, EffectOutcome::Stopped { .. }), "{next:?}");
    assert_eq!(machine.stored(&id).await.value.status, Status::Cancelled);
    let timeline = machine.core.tasks().timeline(&tenant(), &id).await.unwrap();
    assert!(timeline.iter().any(|entry| entry.text == "done"), "and the timeline says so");
}

/// Two machines: the first one is suspended in the middle of its attempt, and so is its clock.
struct Two {
    store: Arc<MemoryStore>,
    provider: Arc<Provider>,
    sleeping: tokio::task::JoinHandle<EffectOutcome>,
    young: Machine,
    journal: Journal,
}

async fn two(answers: &[Answer]) -> Two {
    let store = Arc::new(MemoryStore::new());
    let (_stale, id, journal) = running(store.clone()).await;
    let provider = Provider::answering(answers);
    let sleeping = tokio::spawn({
        let provider = provider.clone();
        async move { journal.execute(&Deploy(provider)).await.unwrap() }
    });
    provider.begun.notified().await;
    let young = Machine::at(store.clone(), 2, false);
    young.clock.advance(Duration::from_secs(306));
    let task = young.claim(&id).await.value;
    assert_eq!(task.fence, 2);
    let journal = Journal::of_run(young.core.clone(), &task);
    Two { store, provider, sleeping, young, journal }
}

#[tokio::test]
async fn of_two_that_slipped_through_the_younger_is_undone() {
    let two = two(&[Answer::LateDone, Answer::Done]).await;
    // The lookup finds nothing, so the second run makes its own; then the first one's
    // completes.
    let second = two.journal.execute(&Deploy(two.provider.clone())).await.unwrap();
    assert_eq!(made(&second), Some(1));
    two.provider.go_on.notify_one();
    let first = two.sleeping.await.unwrap();
    assert_eq!(made(&first), Some(1), "both runs go on with the one that is kept");
    assert_eq!(two.provider.calls(), ["attempt", "look up", "attempt", "undo 2"]);
    assert_eq!(two.provider.made(), [1]);
    assert_eq!(recorded(&two.store).len(), 1);
}

#[tokio::test]
async fn of_two_that_slipped_through_the_first_to_be_recorded_is_kept() {
    let two = two(&[Answer::LateDone, Answer::LateDone]).await;
    let (journal, provider) = (two.journal.clone(), two.provider.clone());
    let second = tokio::spawn(async move { journal.execute(&Deploy(provider)).await.unwrap() });
    two.provider.begun.notified().await;
    // The first signal reaches the run that has waited longer: its attempt completes and is
    // recorded over the second run's intent.
    two.provider.go_on.notify_one();
    assert_eq!(made(&two.sleeping.await.unwrap()), Some(1));
    two.provider.go_on.notify_one();
    assert_eq!(made(&second.await.unwrap()), Some(1));
    assert_eq!(two.provider.made(), [1]);
    assert_eq!(two.provider.calls().last().map(String::as_str), Some("undo 2"));
}

/// A run receives its response after another run has looked up the same effect. It is one
/// effect, though the provider describes it differently, and must not be undone.
#[tokio::test]
async fn an_effect_that_another_run_looked_up_is_not_undone_as_a_twin() {
    let two = two(&[Answer::LateWord]).await;
    let second = two.journal.execute(&Deploy(two.provider.clone())).await.unwrap();
    assert_eq!(made(&second), Some(1));
    two.provider.go_on.notify_one();
    assert_eq!(made(&two.sleeping.await.unwrap()), Some(1));
    assert_eq!(two.provider.calls(), ["attempt", "look up"]);
    assert_eq!(two.provider.made(), [1]);
    assert!(two.young.clock.now() > recorded(&two.store)[0].intended_at);
}

#[tokio::test]
async fn a_stale_run_is_refused_its_next_intent() {
    let store = Arc::new(MemoryStore::new());
    let (stale, id, journal) = running(store.clone()).await;
    let young = Machine::at(store.clone(), 2, false);
    young.clock.advance(Duration::from_secs(306));
    young.claim(&id).await;
    // By its own clock its lease is still valid for long.
    assert!(stale.stored(&id).await.value.lease.unwrap().until > stale.clock.now());
    let provider = Provider::answering(&[]);
    let taken = journal.execute(&Deploy(provider.clone())).await.unwrap();
    assert!(matches!(taken, EffectOutcome::Stopped { .. }), "{taken:?}");
    assert_eq!((provider.calls().len(), recorded(&store).len()), (0, 0));
}

/// With a store that loses responses an effect is made once, or looked up; never made twice.
#[tokio::test]
async fn answers_lost_around_an_effect_make_it_once() {
    let mut taken_at_once = 0;
    for seed in 0..80 {
        let store = Arc::new(MemoryStore::new());
        let flaky = Arc::new(FlakyStore::new(store.clone(), seed, 30));
        let machine = Machine::at(flaky, seed, true);
        let id = machine.create().await;
        let task = machine.claim(&id).await.value;
        let journal = Journal::of_run(machine.core.clone(), &task);
        let provider = Provider::answering(&[]);
        let effect = Deploy(provider.clone());
        let mut looks = 0;
        loop {
            match journal.execute(&effect).await {
                Ok(EffectOutcome::Done(_)) => break,
                Ok(EffectOutcome::Unsettled { after, .. }) => machine.clock.advance(after),
                Ok(other) => panic!("seed {seed}: {other:?}"),
                // The run would fail and be retried; this test just executes it again.
                Err(_) => machine.clock.advance(Duration::from_secs(1)),
            }
            looks += 1;
            assert!(looks < 60, "seed {seed}: never done");
        }
        taken_at_once += usize::from(looks == 0);
        assert_eq!(provider.made().len(), 1, "seed {seed}: {:?}", provider.calls());
        assert_eq!(provider.undone(), 0);
        assert_eq!(recorded(&store).len(), 1);
    }
    assert!(taken_at_once > 20, "only {taken_at_once} of 80 at once");
}
