//! Reservations, usage and threshold records of a tenant's budget.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::{Command, EngineConfig, Rejection};
use watchbill_core::ports::{Clock as _, Store as _};
use watchbill_core::repo;
use watchbill_core::service::{CommandError, Core, Governance, Ports, ServiceError};
use watchbill_domain::{Amount, LogEntry, Price, TaskId, Timestamp, Usage};
use watchbill_governance::{BudgetLimits, BudgetState, Policy, Prices, RecordKind};
use watchbill_testkit::governance_suite::{self as suite, admin, limits, running};
use watchbill_testkit::{FakeClock, FlakyStore, MemoryStore, SeededEntropy, ports_over};

use crate::common::{World, end, succeeded, tenant};

const CALL: Amount = Amount { micro_usd: 100_000, tokens: 2_000 };
const LESS: Amount = Amount { micro_usd: 60_000, tokens: 1_500 };

async fn reserve(
    core: &Core,
    id: &TaskId,
    fence: u64,
    amount: Amount,
) -> Result<u64, CommandError> {
    let stored = core.tasks().reserve(&tenant(), id, fence, amount).await?;
    Ok(stored.value.reservation.unwrap().n)
}

async fn does(core: &Core, id: &TaskId, command: Command) {
    core.tasks().command(&tenant(), id, &command).await.unwrap();
}

async fn state(core: &Core) -> BudgetState {
    core.budgets().state(&tenant()).await.unwrap()
}

fn refused(answer: Result<u64, CommandError>) -> String {
    match answer {
        Err(CommandError::Rejected { rejection: rejection @ Rejection::OverBudget(_), .. }) => {
            rejection.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_is_reserved_then_settled_and_counts_in_day_hour_and_task() {
    let world = World::new(EngineConfig::default());
    let core = &world.core;
    let (id, fence) = running(core, 1).await;
    let n = reserve(core, &id, fence, CALL).await.unwrap();
    let state_now = state(core).await;
    assert_eq!((state_now.day.used, state_now.day.reserved), (Amount::NONE, CALL));
    assert_eq!((state_now.hour.used, state_now.hour.reserved), (Amount::NONE, CALL));
    does(core, &id, Command::Sent { fence, n }).await;
    does(core, &id, Command::Settle { fence, n, used: LESS }).await;
    let state_now = state(core).await;
    assert_eq!((state_now.day.used, state_now.day.reserved), (LESS, Amount::NONE));
    assert_eq!((state_now.hour.used, state_now.hour.reserved), (LESS, Amount::NONE));
    // Released: nothing is used.
    let n = reserve(core, &id, fence, CALL).await.unwrap();
    does(core, &id, Command::Release { fence, n }).await;
    assert_eq!(state(core).await.day.used, LESS);
    // The actual usage counts, even where it exceeds the reservation.
    let n = reserve(core, &id, fence, CALL).await.unwrap();
    let more = Amount { micro_usd: 150_000, tokens: 2_500 };
    does(core, &id, Command::Settle { fence, n, used: more }).await;
    assert_eq!(state(core).await.day.used, LESS.plus(more));
    let ended = world.end(&id, fence, succeeded()).await.unwrap().value;
    let told = ended.outcome.unwrap();
    assert_eq!((told.micro_usd, told.tokens), (210_000, 4_000));
    assert_eq!((ended.spent, ended.run_spent), (LESS.plus(more), Amount::NONE));
    let told: Vec<u64> =
        ended.log.iter().filter_map(|e: &LogEntry| e.outcome.as_ref()).map(|o| o.tokens).collect();
    assert_eq!(told, [4_000], "once, with the end");
}

#[tokio::test]
async fn each_limit_says_what_it_has_no_room_for() {
    let world = World::new(EngineConfig::default());
    let core = &world.core;
    let all = |micro_usd, tokens| Amount { micro_usd, tokens };
    let set = |day, hour, task| BudgetLimits { day, hour, task };
    let room = all(1_000_000, 100_000);
    for (n, limits, wanted) in [
        (1, set(all(50_000, 100_000), room, room), "the limit of $0.05 a day (UTC)"),
        (2, set(room, all(1_000_000, 1_999), room), "the limit of 1999 tokens an hour"),
        (3, set(room, room, all(99_999, 100_000)), "the limit of $0.099999 a task"),
    ] {
        core.budgets().set_limits(&admin(), limits).await.unwrap();
        let (id, fence) = running(core, n).await;
        let said = refused(reserve(core, &id, fence, CALL).await);
        assert!(said.starts_with("Budget exceeded: of "), "{said}");
        assert!(said.contains(wanted) && said.contains("the call could cost"), "{said}");
        assert_eq!(state(core).await.day.reserved, Amount::NONE, "{said}");
    }
    // A call that costs no money is not stopped by the money limit, nor one without tokens by
    // the token limit.
    core.budgets()
        .set_limits(&admin(), set(all(0, 5_000), all(0, 5_000), all(0, 5_000)))
        .await
        .unwrap();
    let (id, fence) = running(core, 4).await;
    reserve(core, &id, fence, all(0, 5_000)).await.unwrap();
}

#[tokio::test]
async fn a_task_has_one_reservation_at_a_time_and_only_its_run_makes_it() {
    let world = World::new(EngineConfig::default());
    let core = &world.core;
    let (id, fence) = running(core, 1).await;
    let stale = reserve(core, &id, fence - 1, CALL).await;
    assert!(
        matches!(stale, Err(CommandError::Rejected { rejection: Rejection::Fenced { .. }, .. })),
        "{stale:?}"
    );
    let n = reserve(core, &id, fence, CALL).await.unwrap();
    let second = reserve(core, &id, fence, CALL).await;
    assert!(second.unwrap_err().to_string().contains("second reservation"));
    let other = core
        .tasks()
        .command(&tenant(), &id, &Command::Settle { fence, n: n + 1, used: LESS })
        .await;
    assert!(other.unwrap_err().to_string().contains("no open reservation"));
    does(core, &id, Command::Sent { fence, n }).await;
    let back = core.tasks().command(&tenant(), &id, &Command::Release { fence, n }).await;
    assert!(back.unwrap_err().to_string().contains("may have been sent"));
}

/// Whatever ends or takes away a run settles its open reservation.
#[tokio::test]
async fn open_reservations_are_released_or_charged_as_estimated() {
    for (n, sent) in [(0, false), (1, true)] {
        let world = World::new(EngineConfig::default());
        let core = &world.core;
        let mut charged = Amount::NONE;
        for (m, way) in ["ended", "cancelled", "looked at", "taken over"].iter().enumerate() {
            let (id, fence) = running(core, 10 * n + m).await;
            let open = reserve(core, &id, fence, CALL).await.unwrap();
            if sent {
                does(core, &id, Command::Sent { fence, n: open }).await;
                charged = charged.plus(CALL);
            }
            let due = world.stored(&id).await.due.unwrap();
            let lease = world.stored(&id).await.value.lease.unwrap();
            assert!(due <= lease.until, "someone looks when the lease is over");
            match *way {
                "ended" => drop(world.end(&id, fence, succeeded()).await.unwrap()),
                "cancelled" => drop(core.tasks().cancel(&admin(), &id, None).await.unwrap()),
                "looked at" => {
                    world.clock.advance(Duration::from_secs(65));
                    does(core, &id, Command::Tick { lane_busy: false }).await;
                }
                _ => {
                    world.clock.advance(Duration::from_secs(65));
                    world.claim(&id).await.unwrap();
                }
            }
            let state = state(core).await;
            assert_eq!((state.day.used, state.day.reserved), (charged, Amount::NONE), "{way}");
            let task = world.stored(&id).await.value;
            let told: u64 =
                task.log.iter().filter_map(|e| e.outcome.as_ref()).map(|o| o.micro_usd).sum();
            // A check alone ends no run: the usage is logged with its end.
            let pending = task.run_spent.micro_usd;
            assert_eq!(told + pending, task.spent.micro_usd, "{way}");
            assert_eq!(pending > 0, *way == "looked at" && sent, "{way}");
        }
    }
}

#[tokio::test]
async fn settled_after_midnight_it_counts_in_the_day_and_hour_it_was_reserved_in() {
    let world = World::new(EngineConfig::default());
    let core = &world.core;
    let eve = Timestamp::parse("2026-03-01T23:59:40Z").unwrap();
    world.clock.advance(eve.since(world.clock.now()));
    let (id, fence) = running(core, 1).await;
    let n = reserve(core, &id, fence, CALL).await.unwrap();
    let before = world.clock.now();
    assert_eq!(before.day(), "2026-03-01");
    world.clock.advance(Duration::from_secs(30));
    does(core, &id, Command::Sent { fence, n }).await;
    does(core, &id, Command::Settle { fence, n, used: LESS }).await;
    let today = state(core).await;
    assert_eq!((today.day.used, today.hour.used), (Amount::NONE, Amount::NONE));
    let row = world.store.get(&repo::budget_key(&tenant(), before)).await.unwrap();
    let limits = core.budgets().limits(&tenant()).await.unwrap();
    for period in repo::COUNTED {
        let state = repo::period_state(row.as_ref(), period, before, &limits);
        assert_eq!((state.used, state.reserved), (LESS, Amount::NONE), "{period:?}");
    }
}

#[tokio::test]
async fn a_thousand_reservations_at_once_stop_at_the_cap() {
    for (seed, percent) in [(1, 0), (2, 0), (3, 10)] {
        let (core, clock) = flaky(seed, percent);
        suite::reservations_stop_at_the_cap(&core, &|by| clock.advance(by), 1_000, 1_000).await;
    }
}

fn flaky(seed: u64, percent: u64) -> (Core, Arc<FakeClock>) {
    // Other tasks get their turn around each call, even where no call fails.
    let store = Arc::new(FlakyStore::new(Arc::new(MemoryStore::new()), seed, percent));
    let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
    let ports = ports_over(store, clock.clone(), seed);
    (Core::new(ports, Arc::new(EngineConfig::default()), 1), clock)
}

#[tokio::test]
async fn limits_are_the_tenants_own_else_the_policys_and_changes_are_recorded() {
    let policy = Policy { limits: limits(CALL), ..Policy::default() };
    let world = World::new(EngineConfig::default());
    let core = world.core.clone().governed_by(Governance::fixed(policy));
    assert_eq!(core.budgets().limits(&tenant()).await.unwrap(), limits(CALL));
    // Another process, which has cached the limits already.
    let ports = Ports {
        store: world.store.clone(),
        blobs: world.blobs.clone(),
        clock: world.clock.clone(),
        entropy: Arc::new(SeededEntropy::new(9)),
        wake: world.wake.clone(),
    };
    let other = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    assert_eq!(other.budgets().limits(&tenant()).await.unwrap(), BudgetLimits::default());
    for own in [LESS, CALL, CALL] {
        core.budgets().set_limits(&admin(), limits(own)).await.unwrap();
        assert_eq!(core.budgets().limits(&tenant()).await.unwrap(), limits(own), "here at once");
    }
    world.clock.advance(Duration::from_secs(30));
    assert_eq!(other.budgets().limits(&tenant()).await.unwrap(), limits(CALL), "there within 30 s");
    assert_eq!(world.count("record"), 2, "the third changed nothing");
    let too_much = BudgetLimits { day: Amount { micro_usd: u64::MAX, tokens: 0 }, ..limits(CALL) };
    let refused = core.budgets().set_limits(&admin(), too_much).await;
    assert!(matches!(refused, Err(ServiceError::Invalid { field: "limits", .. })), "{refused:?}");
}

#[tokio::test]
async fn thresholds_are_recorded_at_80_and_95_percent_with_their_events() {
    let world = World::new(EngineConfig::default());
    let core = &world.core;
    let cap = Amount { micro_usd: 1_000, tokens: 1_000_000 };
    core.budgets()
        .set_limits(&admin(), BudgetLimits { day: cap, ..BudgetLimits::default() })
        .await
        .unwrap();
    let records = || world.count("record") - 1;
    for (n, micro_usd, wanted) in [(1, 799, 0), (2, 1, 1), (3, 149, 1), (4, 1, 2), (5, 50, 2)] {
        let (id, fence) = running(core, n).await;
        let amount = Amount { micro_usd, tokens: 1 };
        let open = reserve(core, &id, fence, amount).await.unwrap();
        does(core, &id, Command::Settle { fence, n: open, used: amount }).await;
        assert_eq!(records(), wanted, "after call {n}");
    }
    let id = |mark| {
        let day = world.clock.now().day();
        let kind = RecordKind::BudgetThreshold;
        watchbill_governance::AuditRecord::id_of(&tenant(), kind, &["day", &day, mark])
    };
    for (mark, percent) in [("warning", 80), ("critical", 95)] {
        let item = world.store.get(&repo::record_key(&tenant(), &id(mark))).await.unwrap().unwrap();
        let record: watchbill_governance::AuditRecord = repo::decode(&item).unwrap().value;
        let types: Vec<&str> = record.events.iter().map(|e| e.event_type.as_str()).collect();
        assert_eq!(types, [format!("budget.{mark}").as_str(), "alert.triggered"]);
        assert_eq!(record.details["percent"], percent, "{}", record.text);
    }
}

#[test]
fn a_call_costs_by_its_models_price_and_an_unknown_one_as_the_dearest() {
    let price = |input, output| Price { input, output };
    let prices = Prices(
        [
            ("small".to_owned(), price(250_000, 1_000_000)),
            ("big".to_owned(), price(3_000_000, 9_000_000)),
            ("chatty".to_owned(), price(1_000_000, 20_000_000)),
        ]
        .into(),
    );
    let usage = |input_tokens, output_tokens| Usage { input_tokens, output_tokens };
    for (model, usage, wanted) in [
        ("small", usage(1_000, 100), 350),
        ("small", usage(1, 0), 1),
        ("big", usage(1_000, 100), 3_900),
        // The highest price of any model for that kind of token.
        ("new", usage(1_000, 0), 3_000),
        ("new", usage(0, 1_000), 20_000),
    ] {
        let cost = prices.cost(model, usage).unwrap();
        assert_eq!(
            (cost.micro_usd, cost.tokens),
            (wanted, usage.input_tokens + usage.output_tokens)
        );
    }
    let none = Prices::default().cost("small", usage(1, 1)).unwrap_err().to_string();
    assert!(none.contains("set 'prices'"), "{none}");
}

/// The usage that an ending reports is ignored: the header has the usage.
#[tokio::test]
async fn a_run_that_called_no_model_used_nothing() {
    let world = World::new(EngineConfig::default());
    let (id, fence) = running(&world.core, 1).await;
    let Command::End { ending, events, notes, mut outcome, .. } = end(fence, succeeded()) else {
        unreachable!("it is an end")
    };
    outcome.tokens = 7;
    let command = Command::End { fence, ending, events, notes, outcome };
    let ended = world.core.tasks().command(&tenant(), &id, &command).await.unwrap().value;
    assert_eq!(ended.outcome.unwrap().tokens, 0);
    assert_eq!(world.count("budget"), 0);
}
