//! Runs that call a model, and how they use their budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use serde_json::Map;
use watchbill_core::service::{Core, Governance, OnFailure};
use watchbill_domain::{
    Agent, Amount, Caller, Price, ReputationEvent, Role, ScoreDelta, Status, Task, Usage,
};
use watchbill_governance::{BudgetLimits, Policies, Policy, PolicyUnavailable, Prices};
use watchbill_runtime::executor::Executor;
use watchbill_runtime::model_budget::{ModelBudget, SpendError};
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};
use watchbill_testkit::{FlakyStore, Machine, MemoryStore, tenant};

/// Maximum tokens in and out of each call, and its real usage.
const MAX_TOKENS: (u64, u64) = (1_000, 500);
const USED: Usage = Usage { input_tokens: 600, output_tokens: 100 };
/// In millionths of a dollar, at one dollar per million tokens in and ten per million out.
const MAX_COSTS: u64 = 6_000;
const USED_COSTS: u64 = 1_600;

/// Where a run panics in its last call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Breaks {
    Never,
    BeforeSending,
    AfterSending,
}

/// Makes this many model calls, then is done.
struct Talker {
    calls: u32,
    breaks: Breaks,
    made: AtomicU32,
}

impl Talker {
    async fn calls(&self, spending: &ModelBudget) -> Result<(), SpendError> {
        for n in 1..=self.calls {
            let last = n == self.calls;
            let reserved = spending.reserve("new", MAX_TOKENS.0, MAX_TOKENS.1).await?;
            assert_eq!(reserved.amount(), Amount { micro_usd: MAX_COSTS, tokens: 1_500 });
            assert!(!last || self.breaks != Breaks::BeforeSending, "breaks before sending");
            let sent = reserved.send().await?;
            self.made.fetch_add(1, Ordering::Relaxed);
            assert!(!last || self.breaks != Breaks::AfterSending, "breaks after sending");
            sent.settle(USED).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl TaskAgent for Talker {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        match self.calls(run.spending.as_ref().expect("the executor gives it")).await {
            Ok(()) => RunOutcome::Done { result: Map::new(), events: Vec::new() },
            Err(error) => error.into(),
        }
    }
}

fn policy() -> Policy {
    let price = Price { input: 1_000_000, output: 10_000_000 };
    Policy { prices: Prices([("big".to_owned(), price)].into()), ..Policy::without_gates() }
}

fn priced(machine: &Machine) -> Core {
    machine.core.clone().governed_by(Governance::fixed(policy()))
}

/// Takes one task through one run.
async fn run(machine: &Machine, core: &Core, calls: u32, breaks: Breaks) -> (Task, u32) {
    let agent = Arc::new(Talker { calls, breaks, made: AtomicU32::new(0) });
    let id = machine.create().await;
    let executor = Executor::new(core.clone(), agent.clone(), "lambda:1");
    executor.handle(&machine.pointer(&id).await).await.unwrap();
    (machine.stored(&id).await.value, agent.made.load(Ordering::Relaxed))
}

async fn used(core: &Core) -> (u64, u64) {
    let day = core.budgets().state(&tenant()).await.unwrap().day;
    assert_eq!(day.reserved, Amount::NONE, "nothing stays set aside");
    (day.used.micro_usd, day.used.tokens)
}

async fn set_day(core: &Core, day: Amount) {
    let caller = Caller { name: "kim".into(), role: Role::Admin, tenant: tenant(), made_by: None };
    core.budgets()
        .set_limits(&caller, BudgetLimits { day, ..BudgetLimits::default() })
        .await
        .unwrap();
}

fn memory() -> (Machine, Core) {
    let machine = Machine::at(Arc::new(MemoryStore::new()), 1, true);
    let core = priced(&machine);
    (machine, core)
}

#[tokio::test]
async fn what_the_calls_of_a_run_used_comes_with_its_end() {
    let (machine, core) = memory();
    let (task, made) = run(&machine, &core, 3, Breaks::Never).await;
    assert_eq!((task.status, made), (Status::Completed, 3));
    let outcome = task.outcome.unwrap();
    assert_eq!((outcome.micro_usd, outcome.tokens), (3 * USED_COSTS, 2_100));
    assert_eq!(used(&core).await, (3 * USED_COSTS, 2_100));
}

#[tokio::test]
async fn a_call_that_no_limit_has_room_for_is_not_made_and_fails_the_task() {
    let (machine, core) = memory();
    // Room for the real cost of two calls, but not for the most that a third could cost.
    set_day(&core, Amount { micro_usd: 2 * USED_COSTS + MAX_COSTS - 1, tokens: 1_000_000 }).await;
    let (task, made) = run(&machine, &core, 3, Breaks::Never).await;
    assert_eq!((task.status, made), (Status::Failed, 2));
    let error = task.error.unwrap();
    assert!(error.starts_with("Budget exceeded: of the limit of $0.009199 a day (UTC)"), "{error}");
    let outcome = task.outcome.unwrap();
    assert_eq!(outcome.reputation, [ScoreDelta(ReputationEvent::BudgetExceeded, -10)]);
    assert_eq!(outcome.micro_usd, 2 * USED_COSTS, "with what it had used before");
    let last = task.log.last().unwrap();
    let types: Vec<&str> = last.events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(types, ["task.failed", "budget.exceeded", "alert.triggered"]);
    assert_eq!(used(&core).await.0, 2 * USED_COSTS);
    // A run that calls no model is not stopped by an exhausted budget.
    set_day(&core, Amount::NONE).await;
    let (task, _) = run(&machine, &core, 0, Breaks::Never).await;
    assert_eq!(task.status, Status::Completed);
}

#[tokio::test]
async fn a_run_that_breaks_off_in_a_call_is_charged_once_the_call_may_have_gone_out() {
    for (breaks, charged) in [(Breaks::BeforeSending, 0), (Breaks::AfterSending, MAX_COSTS)] {
        let (machine, core) = memory();
        let (task, _) = run(&machine, &core, 2, breaks).await;
        assert_eq!((task.status, task.retries), (Status::Assigned, 1), "tried again");
        assert_eq!(task.outcome.unwrap().micro_usd, USED_COSTS + charged, "{breaks:?}");
        assert_eq!(used(&core).await.0, USED_COSTS + charged, "{breaks:?}");
    }
}

#[tokio::test]
async fn without_prices_no_model_is_called_and_the_error_says_what_to_set() {
    let machine = Machine::at(Arc::new(MemoryStore::new()), 1, true);
    let (task, made) = run(&machine, &machine.core, 1, Breaks::Never).await;
    assert_eq!((task.status, made), (Status::Blocked, 0));
    let error = task.error.unwrap();
    assert!(error.contains("'new'") && error.contains("set 'prices'"), "{error}");
}

struct Unreadable;

#[async_trait]
impl Policies for Unreadable {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        Err(PolicyUnavailable("policy.yaml is a folder".into()))
    }
}

#[tokio::test]
async fn without_its_limits_a_run_is_deferred_or_denied_and_no_score_changes() {
    for (on_failure, status) in
        [(OnFailure::Restrict, Status::InProgress), (OnFailure::Deny, Status::Failed)]
    {
        let machine = Machine::at(Arc::new(MemoryStore::new()), 1, true);
        let governance = Governance::new(Arc::new(Unreadable), on_failure);
        let core = machine.core.clone().governed_by(governance);
        let (task, made) = run(&machine, &core, 1, Breaks::Never).await;
        assert_eq!((task.status, made), (status, 0), "{:?}", task.error);
        assert_eq!(task.resume_at.is_some(), status == Status::InProgress);
        assert!(task.outcome.is_none_or(|outcome| outcome.reputation.is_empty()));
        let note = task.log.last().unwrap().note.clone().unwrap();
        assert!(note.contains("can't be reached") && note.contains("folder"), "{note}");
    }
}

/// A policy that can be read this many times, and changes its price each time.
struct Fading {
    reads: AtomicU32,
    readable: u32,
}

#[async_trait]
impl Policies for Fading {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        let n = self.reads.fetch_add(1, Ordering::Relaxed);
        if n >= self.readable {
            return Err(PolicyUnavailable("policy.yaml is a folder".into()));
        }
        let price = Price { input: 1_000_000 * u64::from(n + 1), output: 10_000_000 };
        Ok(Arc::new(Policy { prices: Prices([("new".to_owned(), price)].into()), ..policy() }))
    }
}

/// The price is that of the reservation. A policy that can't be read later does not lose a
/// response that was paid for.
#[tokio::test]
async fn a_call_is_settled_at_the_price_it_was_reserved_at_whatever_becomes_of_the_policy() {
    // One read for the price, one for the limits; or any number of reads.
    for readable in [2, u32::MAX] {
        let machine = Machine::at(Arc::new(MemoryStore::new()), 1, true);
        let policies = Fading { reads: AtomicU32::new(0), readable };
        let governance = Governance::new(Arc::new(policies), OnFailure::Restrict);
        let core = machine.core.clone().governed_by(governance);
        let id = machine.create().await;
        let claimed = machine.claim(&id).await.value;
        let spending = ModelBudget::of_run(core.clone(), &claimed);
        let reserved = spending.reserve("new", MAX_TOKENS.0, MAX_TOKENS.1).await.unwrap();
        let stored = machine.stored(&id).await.value.reservation.unwrap();
        assert_eq!(stored.price, Some(Price { input: 1_000_000, output: 10_000_000 }));
        let used = reserved.send().await.unwrap().settle(USED).await.unwrap();
        assert_eq!(used, Amount { micro_usd: USED_COSTS, tokens: 700 }, "{readable} reads");
        let task = machine.stored(&id).await.value;
        assert_eq!((task.spent, task.reservation), (used, None));
    }
}

/// Whatever responses are lost, each call is charged once.
#[tokio::test]
async fn lost_answers_charge_each_call_once() {
    for seed in 0..60 {
        let store = Arc::new(FlakyStore::new(Arc::new(MemoryStore::new()), seed, 25));
        let machine = Machine::at(store, seed, true);
        let core = priced(&machine);
        let id = machine.create().await;
        let claimed = machine.claim(&id).await.value;
        let spending = ModelBudget::of_run(core.clone(), &claimed);
        let talker = Talker { calls: 10, breaks: Breaks::Never, made: AtomicU32::new(0) };
        talker.calls(&spending).await.unwrap();
        assert_eq!(used(&core).await, (10 * USED_COSTS, 7_000), "seed {seed}");
        let task = machine.stored(&id).await.value;
        assert_eq!(task.spent, Amount { micro_usd: 10 * USED_COSTS, tokens: 7_000 });
        assert_eq!(talker.made.load(Ordering::Relaxed), 10, "seed {seed}");
    }
}
