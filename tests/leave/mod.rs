//! No effect without leave, whatever happens in whatever order: approvals, refusals, expiry,
//! edits of what was approved, other policies, double clicks, links used again, people of
//! another tenant, processes that die between commit and dispatch.

mod provider;
mod world;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use watchbill_core::domain::{ApprovalStatus, What};
use watchbill_core::ports::Entropy as _;
use watchbill_testkit::SeededEntropy;

use world::{Act, World};

/// Stories told in each run of the tests; `WATCHBILL_STORIES` tells more, from the seed
/// `WATCHBILL_SEED` on.
const STORIES: u64 = 300;
/// Rounds of a story; the acts of a round happen at once.
const ROUNDS: usize = 6;

#[tokio::test]
async fn no_effect_without_leave_and_never_two_decisions() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("WATCHBILL_SEED").unwrap_or(0);
    let stories = number("WATCHBILL_STORIES").unwrap_or(STORIES);
    let mut seen = Seen::default();
    for seed in first..first + stories {
        story(seed, &mut seen).await;
    }
    // A story in which nothing can happen proves nothing.
    for (what, least) in [
        ("effects", 20),
        ("approved", 40),
        ("rejected", 20),
        ("expired", 5),
        ("asked anew", 20),
        ("refused by policy", 3),
        ("held by a freeze", 3),
        ("voted", 5),
        ("by link", 10),
        ("turned away", 200),
        ("died before the dispatch", 20),
    ] {
        let found = seen.0.get(what).copied().unwrap_or_default();
        assert!(found >= least, "'{what}' came up {found} times only: {:?}", seen.0);
    }
    println!("{:?}", seen.0);
}

/// How often things came up.
#[derive(Default)]
pub struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub fn count(&mut self, what: &'static str, n: usize) {
        *self.0.entry(what).or_default() += n as u64;
    }
}

async fn story(seed: u64, seen: &mut Seen) {
    let dice = SeededEntropy::new(seed ^ 0x5eed);
    let world = World::new(seed).await;
    for _ in 0..ROUNDS {
        let acts: Vec<Act> = (0..2 + dice.next_u64() % 4).map(|_| Act::random(&dice)).collect();
        let told = join_all(acts.iter().map(|act| world.act(*act, dice.next_u64() % 16))).await;
        for (act, turned_away) in acts.iter().zip(told) {
            seen.count("turned away", usize::from(turned_away));
            seen.count("died before the dispatch", usize::from(matches!(act, Act::Die)));
        }
        check(&world, seed);
    }
    world.provider.assert_all_had_leave(seed);
    seen.count("effects", world.provider.made());
    let log = world.log().await;
    let times = |what: What| log.iter().filter(|entry| entry.what == what).count();
    seen.count("approved", times(What::Approved));
    seen.count("rejected", times(What::Rejected));
    seen.count("expired", times(What::Expired));
    seen.count("voted", times(What::Voted));
    seen.count("held by a freeze", times(What::Held));
    let note = |entry: &&watchbill_core::domain::LogEntry| {
        entry.note.as_deref().is_some_and(|note| note.starts_with("Permission denied"))
    };
    seen.count("refused by policy", log.iter().filter(note).count());
    seen.count("asked anew", world.approvals().len().saturating_sub(1));
    let linked =
        world.approvals().iter().filter(|a| a.votes.iter().any(|v| v.by == "on-call")).count();
    seen.count("by link", linked);
    // An approval is decided on once, and the task's log says the same.
    let decided = |status| world.approvals().iter().filter(|a| a.status == status).count();
    assert_eq!(times(What::Approved), decided(ApprovalStatus::Approved), "seed {seed}");
    assert_eq!(times(What::Rejected), decided(ApprovalStatus::Rejected), "seed {seed}");
    assert_eq!(times(What::Expired), decided(ApprovalStatus::Expired), "seed {seed}");
}

fn check(world: &World, seed: u64) {
    for approval in world.approvals() {
        let mut by: Vec<&str> = approval.votes.iter().map(|vote| vote.by.as_str()).collect();
        by.sort_unstable();
        by.dedup();
        assert_eq!(by.len(), approval.votes.len(), "seed {seed}: someone voted twice");
        // Who submitted it, agents, readers and the other tenant's admin never say yes.
        let may = |name: &&str| ["kim", "sam", "on-call"].contains(name);
        assert!(by.iter().all(may), "seed {seed}: {by:?} have approved");
        if approval.status == ApprovalStatus::Approved {
            assert!(by.len() >= usize::from(approval.quorum), "seed {seed}: too few have approved");
        }
    }
    assert!(world.provider.made() <= 1, "seed {seed}: the effect happened twice");
}

/// What the stories above are about does happen when everything is as it should be.
#[tokio::test]
async fn with_leave_it_happens_once() {
    let world = World::new(7).await;
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
    world.provider.assert_all_had_leave(7);
    let claimed = log.iter().find(|entry| entry.what == What::Claimed).expect("it was claimed");
    let note = claimed.note.as_deref().unwrap_or_default();
    assert!(note.contains("let through by approval"), "the audit says what let it pass: {note}");
}
