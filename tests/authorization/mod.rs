//! No effect happens without authorization, in any order of events: approvals, rejections,
//! expiry, edits of an approved task, policy changes, double clicks, reused links, users of
//! another tenant, created keys, cancelled and retried tasks, similar ids, unreadable
//! reputations, and processes that die between commit and dispatch. At the end of each scenario
//! no task may be stuck.

mod act;
mod planted;
mod provider;
mod requests;
mod shelf;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use watchbill_core::ports::Entropy as _;
use watchbill_domain::{Approval, ApprovalStatus, ChangeKind, Status};
use watchbill_testkit::SeededEntropy;

use act::Act;
use planted::Break;
use world::World;

/// Scenarios per test run. `WATCHBILL_STORIES` sets another number, and `WATCHBILL_SEED` the
/// first seed.
const STORIES: u64 = 300;
/// Rounds of a scenario. The actions of one round happen concurrently.
const ROUNDS: usize = 6;

#[tokio::test]
async fn no_effect_without_authorization_and_never_two_decisions() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("WATCHBILL_SEED").unwrap_or(0);
    let stories = number("WATCHBILL_STORIES").unwrap_or(STORIES);
    let mut seen = Seen::default();
    for seed in first..first + stories {
        story(seed, None, &mut seen).await;
    }
    // A scenario in which nothing can happen proves nothing.
    for (what, least) in [
        ("effects", 20),
        ("approved", 40),
        ("rejected", 20),
        ("expired", 5),
        ("requested anew", 20),
        ("refused by policy", 3),
        ("held by a freeze", 3),
        ("voted", 5),
        ("by link", 10),
        ("refused", 200),
        ("died before the dispatch", 20),
        ("tried again", 10),
        ("by a made key", 10),
        ("with a hint", 5),
        ("waits at the end", 50),
        ("completed", 100),
    ] {
        let found = seen.0.get(what).copied().unwrap_or_default();
        assert!(found >= least, "'{what}' occurred only {found} times: {:?}", seen.0);
    }
    println!("{:?}", seen.0);
}

/// How often each thing occurred.
#[derive(Default)]
pub struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub fn count(&mut self, what: &'static str, n: usize) {
        *self.0.entry(what).or_default() += n as u64;
    }
}

async fn story(seed: u64, planted: Option<Break>, seen: &mut Seen) {
    let dice = SeededEntropy::new(seed ^ 0x5eed);
    let world = World::with(seed, planted).await;
    for _ in 0..ROUNDS {
        let acts: Vec<Act> = (0..2 + dice.next_u64() % 4).map(|_| Act::random(&dice)).collect();
        let refusals = join_all(acts.iter().map(|act| world.act(*act, dice.next_u64() % 16))).await;
        for (act, refused) in acts.iter().zip(refusals) {
            seen.count("refused", usize::from(refused));
            seen.count("died before the dispatch", usize::from(matches!(act, Act::Die)));
        }
        world.provider.assert_all_were_authorized(seed);
        check(&world, seed);
        check_scores(&world, seed).await;
    }
    live(&world, seed, seen).await;
    check(&world, seed);
    check_scores(&world, seed).await;
    world.provider.assert_all_were_authorized(seed);
    seen.count("effects", world.provider.made());
    let log = world.log().await;
    let times = |what: ChangeKind| log.iter().filter(|entry| entry.what == what).count();
    seen.count("approved", times(ChangeKind::Approved));
    seen.count("rejected", times(ChangeKind::Rejected));
    seen.count("expired", times(ChangeKind::Expired));
    seen.count("voted", times(ChangeKind::Voted));
    seen.count("held by a freeze", times(ChangeKind::Held));
    let note = |entry: &&watchbill_domain::LogEntry| {
        entry.note.as_deref().is_some_and(|note| note.starts_with("Permission denied"))
    };
    seen.count("refused by policy", log.iter().filter(note).count());
    seen.count("requested anew", world.approvals().len().saturating_sub(world.tasks().len()));
    seen.count("tried again", world.tasks().len() - 2);
    let made = |a: &&Approval| a.votes.iter().any(|v| v.by == "deputy");
    seen.count("by a made key", world.approvals().iter().filter(made).count());
    let hint = |a: &&Approval| a.shown["metadata"].get("rule_hint").is_some();
    seen.count("with a hint", world.approvals().iter().filter(hint).count());
    let linked =
        world.approvals().iter().filter(|a| a.votes.iter().any(|v| v.by == "on-call")).count();
    seen.count("by link", linked);
    // An approval is decided once, and the task's log agrees.
    let decided = |status| world.approvals().iter().filter(|a| a.status == status).count();
    for (what, status) in [
        (ChangeKind::Approved, ApprovalStatus::Approved),
        (ChangeKind::Rejected, ApprovalStatus::Rejected),
        (ChangeKind::Expired, ApprovalStatus::Expired),
    ] {
        assert_eq!(times(what), decided(status), "seed {seed}: {status:?} in logs and approvals");
    }
}

/// A store error while a reputation is read leads to a retry. It must not count as unavailable
/// governance, which would reject or allow work for good. Only a scenario that removes the
/// policy may report unavailable governance.
async fn check_scores(world: &World, seed: u64) {
    if world.loses_scores {
        return;
    }
    let mut said: Vec<String> = world.log().await.into_iter().filter_map(|l| l.note).collect();
    for task in world.tasks() {
        let header = world.header(&task).await;
        said.extend(header.held.map(|held| held.why));
        said.extend(header.error);
    }
    for text in said {
        let ungoverned =
            text.contains("governance can't be reached") || text.contains("without governance");
        assert!(!ungoverned || text.contains("the file is gone"), "seed {seed}: {text}");
    }
}

fn check(world: &World, seed: u64) {
    for approval in world.approvals() {
        let by: Vec<&str> = approval.votes.iter().map(|vote| vote.by.as_str()).collect();
        // As people: a created key counts as its creator.
        let person = |name: &&str| match *name {
            "deputy" => "kim".to_owned(),
            "helper" => "alex".to_owned(),
            name => name.to_owned(),
        };
        let people: BTreeSet<String> = by.iter().map(person).collect();
        assert_eq!(people.len(), by.len(), "seed {seed}: someone voted twice: {by:?}");
        let alone = world.rules.approve_own && approval.quorum == 1;
        for name in &people {
            // Agents, readers and the other tenant's admin never approve. The holder of a link
            // may, where one approval by anyone is enough.
            let may = match name.as_str() {
                "kim" | "sam" | "lee" => true,
                "alex" => world.rules.approve_own,
                "on-call" => alone,
                _ => false,
            };
            assert!(may, "seed {seed}: {by:?} have approved {}", approval.id);
            let asked = world.asked(&approval.task_id);
            let own = asked.contains(name.as_str());
            let allowed = !own || world.rules.approve_own;
            assert!(allowed, "seed {seed}: {name} requested {} and approved it", approval.task_id);
        }
        if approval.status == ApprovalStatus::Approved {
            assert!(by.len() >= usize::from(approval.quorum), "seed {seed}: too few have approved");
        }
    }
    for task in world.tasks() {
        let made = world.provider.made_for(&task);
        assert!(made <= 1, "seed {seed}: the effect of {task} happened {made} times");
    }
}

/// Once the faults are over and time has passed, every task that may run has run or waits for an
/// approver. Once approved, it runs.
async fn live(world: &World, seed: u64, seen: &mut Seen) {
    world.settle().await;
    waits_or_ended(world, seed, seen).await;
    world.approve_all().await;
    waits_or_ended(world, seed, &mut Seen::default()).await;
    for task in world.tasks() {
        let header = world.header(&task).await;
        assert!(
            header.status.is_terminal(),
            "seed {seed}: {task} was approved and is still {}: {header:#?}",
            header.status
        );
        if header.status == Status::Completed {
            let made = world.provider.made_for(&task);
            assert_eq!(made, 1, "seed {seed}: the number of effects of {task}");
            seen.count("completed", 1);
        }
    }
}

async fn waits_or_ended(world: &World, seed: u64, seen: &mut Seen) {
    let pending = || {
        let all = world.approvals().into_iter();
        all.filter(|approval| approval.status == ApprovalStatus::Pending)
    };
    let mut waiting = BTreeSet::new();
    for task in world.tasks() {
        let header = world.header(&task).await;
        match header.status {
            Status::Pending | Status::Blocked => {
                let named = header.approval.as_ref().map(|approval| approval.id.clone());
                let open = pending().find(|approval| Some(&approval.id) == named.as_ref());
                let Some(open) = open else {
                    panic!("seed {seed}: {task} is pending without an approval: {header:#?}");
                };
                assert_eq!(open.task_id, task, "seed {seed}: it is another task's approval");
                seen.count("waits at the end", 1);
                waiting.insert(open.id);
            }
            status if status.is_terminal() => seen.count("ended", 1),
            status => panic!("seed {seed}: {task} is stuck as {status}: {header:#?}"),
        }
    }
    for approval in pending() {
        assert!(
            waiting.contains(&approval.id),
            "seed {seed}: no task waits for the approval {}: {approval:#?}",
            approval.id
        );
    }
}

/// Without faults, the authorized effect happens exactly once.
#[tokio::test]
async fn an_authorized_effect_happens_once() {
    let world = World::new(8).await;
    assert!(!world.rules.approve_own, "as it is by default");
    assert!(world.act(Act::Approve("alex"), 0).await, "nobody approves their own");
    for _ in 0..4 {
        if !world.act(Act::Approve("kim"), 0).await {
            break;
        }
    }
    for _ in 0..6 {
        world.act(Act::Dispatch, 0).await;
        world.act(Act::Wait(2), 0).await;
    }
    let log = world.log().await;
    assert_eq!(world.provider.made(), 1, "{log:#?}");
    world.provider.assert_all_were_authorized(8);
    let claimed =
        log.iter().find(|entry| entry.what == ChangeKind::Claimed).expect("it was claimed");
    let note = claimed.note.as_deref().unwrap_or_default();
    assert!(
        note.contains("permitted by approval"),
        "the audit names the approval that permitted it: {note}"
    );
}
