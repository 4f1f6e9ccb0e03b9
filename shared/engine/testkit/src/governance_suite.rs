//! What budgets and reputation guarantee on every store. Each function needs a core of its own,
//! with a clock that `skip` advances, at a time that is not near the end of an hour.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Map;
use tokio::task::JoinSet;
use watchbill_core::decide::{Command, Rejection, VersionedAuthorization};
use watchbill_core::ledger::{Batch, Entry, LedgerReader};
use watchbill_core::ports::{Commit, Precondition, Write};
use watchbill_core::repo;
use watchbill_core::service::{CommandError, Core, Identity, NewTask, ServiceError};
use watchbill_domain::{
    Agent, Amount, Caller, Outcome, Priority, ReputationEvent, Role, ScoreDelta, TaskId, TaskType,
    TenantId,
};
use watchbill_governance::{AuditRecord, BudgetLimits, Level, RecordKind};

use crate::a_completion;

/// Advances the core's clock.
pub type Skip<'a> = dyn Fn(Duration) + Send + Sync + 'a;

const ASKED: Amount = Amount { micro_usd: 1_000, tokens: 10 };
const USED: Amount = Amount { micro_usd: 700, tokens: 7 };
/// Longer than any lease.
const PAST_LEASES: Duration = Duration::from_secs(120);

pub fn tenant() -> TenantId {
    TenantId::default()
}

pub fn admin() -> Caller {
    Caller { name: "kim".into(), role: Role::Admin, tenant: tenant(), made_by: None }
}

/// The same limits for the day and the hour. The limit per task is fixed and far above one
/// call.
pub fn limits(all: Amount) -> BudgetLimits {
    BudgetLimits { day: all, hour: all, task: Amount { micro_usd: 500_000, tokens: 10_000 } }
}

/// Creates and claims a task. Returns its id and the run's fence.
pub async fn running(core: &Core, n: usize) -> (TaskId, u64) {
    let new = NewTask {
        tenant: tenant(),
        task_type: TaskType::Monitor,
        priority: Priority::P2,
        source: "user".into(),
        payload: Map::new(),
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: Some("trace".into()),
        max_retries: None,
        created_by: "alex".into(),
        also_requested_by: Vec::new(),
        identity: Identity::IdempotencyKey(format!("key-{n}")),
        hops: 0,
    };
    let created = patiently(core, || core.tasks().create(new.clone())).await.task;
    let (id, agent) = (created.task.id.clone(), created.task.agent);
    let authorization = VersionedAuthorization::granted(created.version);
    let assignment = created.task.assignment;
    let claim = Command::Claim { agent, owner: "one".into(), assignment, authorization };
    let claimed = core.tasks().command(&tenant(), &id, &claim).await.expect("it can be claimed");
    (id, claimed.value.fence)
}

/// Retries the call while the store is busy.
async fn patiently<T, F>(core: &Core, call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, ServiceError>>,
{
    loop {
        match call().await {
            Ok(done) => return done,
            Err(ServiceError::Busy { after }) => core.clock().sleep(after).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reserves for one call. Returns `None` if the limit has no room.
pub async fn reserve(core: &Core, id: &TaskId, fence: u64) -> Option<u64> {
    loop {
        match core.tasks().reserve(&tenant(), id, fence, ASKED).await {
            Ok(stored) => return stored.value.reservation.map(|open| open.n),
            Err(CommandError::Rejected { rejection: Rejection::OverBudget(why), .. }) => {
                let text = why.to_string();
                assert!(text.starts_with("Budget exceeded: of the limit of $"), "{text}");
                return None;
            }
            Err(CommandError::Service(ServiceError::Busy { after })) => {
                core.clock().sleep(after).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn command(core: &Core, id: &TaskId, command: &Command) {
    loop {
        match core.tasks().command(&tenant(), id, command).await {
            Ok(_) => return,
            Err(CommandError::Service(ServiceError::Busy { after })) => {
                core.clock().sleep(after).await;
            }
            Err(error) => panic!("{command:?}: {error}"),
        }
    }
}

/// `tasks` runs make reservations, `at_once` concurrently; three in ten have room. An unsettled
/// reservation is released when its lease ends, and charged if the call may have been sent.
pub async fn reservations_stop_at_the_cap(
    core: &Core,
    skip: &Skip<'_>,
    tasks: usize,
    at_once: usize,
) {
    let room = tasks * 3 / 10;
    let cap = Amount { micro_usd: room as u64 * ASKED.micro_usd, tokens: 1_000_000_000 };
    core.budgets().set_limits(&admin(), limits(cap)).await.expect("they are in bounds");
    let all =
        each(core, (0..tasks).collect(), at_once, |core, n| async move { running(&core, n).await })
            .await;
    let reserved = each(core, all, at_once, move |core, (id, fence)| async move {
        let n = reserve(&core, &id, fence).await;
        let own = tenant();
        let day = patiently(&core, || core.budgets().state(&own)).await.day;
        let sum = day.used.plus(day.reserved);
        assert!(sum.micro_usd <= cap.micro_usd, "{sum} of {cap} is used or reserved");
        n.map(|n| (id, fence, n))
    })
    .await;
    let reserved: Vec<_> = reserved.into_iter().flatten().collect();
    assert_eq!(reserved.len(), room, "of {tasks} that asked");
    let (settled, sent) = (room / 3, room / 3);
    let work: Vec<_> = reserved.into_iter().enumerate().collect();
    let ids = each(core, work, at_once, move |core, (at, (id, fence, n))| async move {
        if at < settled + sent {
            command(&core, &id, &Command::Sent { fence, n }).await;
        }
        if at < settled {
            command(&core, &id, &Command::Settle { fence, n, used: USED }).await;
        }
        (at >= settled).then_some(id)
    })
    .await;
    skip(PAST_LEASES);
    each(core, ids.into_iter().flatten().collect(), at_once, |core, id: TaskId| async move {
        command(&core, &id, &Command::Tick { lane_busy: false }).await;
    })
    .await;
    let day = core.budgets().state(&tenant()).await.expect("it can be read").day;
    let money = settled as u64 * USED.micro_usd + sent as u64 * ASKED.micro_usd;
    assert_eq!((day.used.micro_usd, day.reserved), (money, Amount::NONE));
    marks_are_told_once(core).await;
}

/// The day and the hour have a record for each threshold, written once.
async fn marks_are_told_once(core: &Core) {
    let at = core.clock().now().minus(PAST_LEASES);
    let hour: String = at.to_string().chars().take(13).collect();
    for (period, name) in [("day", at.day()), ("hour", hour)] {
        for mark in ["warning", "critical"] {
            let id =
                AuditRecord::id_of(&tenant(), RecordKind::BudgetThreshold, &[period, &name, mark]);
            let item = core.store().get(&repo::record_key(&tenant(), &id)).await;
            let item = item.expect("it can be read").unwrap_or_else(|| panic!("no {mark} {name}"));
            assert_eq!(item.version, 1, "{mark} of {name}");
        }
    }
}

/// Runs `work` for each item, `at_once` of them concurrently. The results come in any order.
async fn each<I, T, F>(
    core: &Core,
    items: Vec<I>,
    at_once: usize,
    work: impl Fn(Core, I) -> F + Send + Sync + 'static,
) -> Vec<T>
where
    I: Send + 'static,
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let work = Arc::new(work);
    let queue = Arc::new(std::sync::Mutex::new(items));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (core, queue, work) = (core.clone(), queue.clone(), work.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let next = queue.lock().expect("nobody panics while holding it").pop();
                let Some(next) = next else { return done };
                done.push(work(core.clone(), next).await);
            }
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

/// The ledger entry of a task by which its agent gets these score changes.
pub fn earning(n: u64, at: watchbill_domain::Timestamp, score_delta: &[ScoreDelta]) -> Entry {
    let outcome = Outcome { reputation: score_delta.to_vec(), ..Outcome::default() };
    Entry::Task(a_completion(n, at, outcome))
}

/// Appends a batch to the ledger, as the recorder does.
pub async fn append(core: &Core, entries: Vec<Entry>) {
    let ledger = LedgerReader::new(core.store().clone(), tenant());
    let head = ledger.head().await.expect("it can be read");
    let now = core.clock().now().max(head.recorded_at);
    let (_, item) = Batch::new(tenant(), head.seq + 1, now, head.hash, head.seq, entries);
    let writes = vec![Write::Put { item, expect: Precondition::Absent }];
    let id = core.entropy().write_id();
    core.store().commit(Commit { id, writes }).await.expect("nobody else appends");
}

/// One second after a score change is recorded, every reader applies it.
pub async fn what_is_recorded_counts_within_a_second(core: &Core, skip: &Skip<'_>) {
    let level = async || {
        core.reputation().standing(&tenant(), Agent::Ops).await.expect("it can be read").level
    };
    let score_delta = |event| core.rules().reputation.score_delta(event);
    let (success, violation) = (
        score_delta(ReputationEvent::TaskSuccess),
        score_delta(ReputationEvent::ViolationDetected),
    );
    assert_eq!(level().await, Level::SandboxOnly, "a new agent");
    append(core, vec![earning(1, core.clock().now(), &[success])]).await;
    skip(Duration::from_secs(1));
    assert_eq!(level().await, Level::StagingAccess, "after its first success");
    for n in 0..3 {
        append(core, vec![earning(2 + 2 * n, core.clock().now(), &[violation])]).await;
        skip(Duration::from_secs(1));
        assert_eq!(level().await, Level::SandboxOnly, "after a violation");
        let again = vec![success; 10];
        append(core, vec![earning(3 + 2 * n, core.clock().now(), &again)]).await;
        skip(Duration::from_secs(1));
        assert_eq!(level().await, Level::StagingAccess, "after ten successes");
    }
}
