//! Faults that are planted in a story, and seeds of stories that find them: a story that can't
//! see what it is there to see proves nothing.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use watchbill_core::ports::{Clock as _, Commit, Expect, Store as _, Write};
use watchbill_core::repo::encode;
use watchbill_domain::{Approval, ApprovalStatus, Body, Task, TaskId, Vote};

use super::world::World;
use super::{Seen, story};

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The effect is made without asking for leave.
    Unasked,
    /// The effect is made a second time.
    Twice,
    /// What is done is what the task said at first, whatever was approved.
    Outdated,
    /// Approvals are good for a day longer than they say.
    Prolonged,
    /// Someone who may not approve stands among those who have.
    Stranger,
    /// Someone is counted twice, under a key of theirs.
    SamePerson,
    /// Nothing looks at what is due or assigned.
    Stuck,
    /// An approval stays open though its task has ended.
    Orphan,
    /// What a person decided is in no log.
    Untold,
}

/// Each with seeds that find it, and what they say.
const FOUND_BY: [(Break, &[u64], &str); 9] = [
    (Break::Unasked, &[0, 1, 2], "without leave"),
    (Break::Twice, &[0, 8, 13], "has so many effects"),
    (Break::Outdated, &[20, 34, 44], "without leave"),
    (Break::Prolonged, &[0, 8, 11], "without leave"),
    (Break::Stranger, &[0, 3, 4], "have approved"),
    (Break::SamePerson, &[0, 1, 2], "voted twice"),
    (Break::Stuck, &[8, 11, 13], "nothing moves it"),
    (Break::Orphan, &[0, 1, 2], "nobody waits for"),
    (Break::Untold, &[0, 2, 4], "in logs and approvals"),
];

async fn said(seed: u64, planted: Option<Break>) -> Option<String> {
    let mut seen = Seen::default();
    let told = story(seed, planted, &mut seen);
    let panic = AssertUnwindSafe(told).catch_unwind().await.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}

#[tokio::test]
async fn each_planted_break_is_found_by_its_seeds() {
    for (planted, seeds, wanted) in FOUND_BY {
        for seed in seeds {
            assert_eq!(said(*seed, None).await, None, "seed {seed} without a break");
            let found = said(*seed, Some(planted)).await.unwrap_or_default();
            assert!(found.contains(wanted), "seed {seed} does not find {planted:?}: {found}");
        }
    }
}

impl World {
    /// What goes wrong before a task is dispatched.
    pub async fn plant(&self, task: &TaskId, header: &Task) {
        match self.planted {
            Some(Break::Unasked) if self.provider.made_for(task) == 0 => {
                if let Body::In(payload) = header.payload.clone() {
                    self.provider.clone().deploy_unasked(header.clone(), payload).await;
                }
            }
            Some(Break::Outdated) => {
                if let Body::In(payload) = header.payload.clone() {
                    self.provider.first_payload(task, payload);
                }
            }
            Some(Break::Prolonged) => self.prolong(task).await,
            Some(Break::Stranger) => self.forge(task, &["joe"]).await,
            Some(Break::SamePerson) => self.forge(task, &["kim", "deputy"]).await,
            _ => {}
        }
    }

    async fn prolong(&self, task: &TaskId) {
        let until = self.clock.now().plus(Duration::from_secs(24 * 3_600));
        let good = |header: &mut Task| header.grants.iter_mut().for_each(|g| g.use_by = until);
        self.edit(task, good).await;
    }

    /// Writes votes into what waits for a decision.
    async fn forge(&self, task: &TaskId, by: &[&str]) {
        let Some(approval) = self.newest_approval(task) else { return };
        if approval.status != ApprovalStatus::Pending {
            return;
        }
        let vote = |by: &&str| Vote { by: (*by).to_owned(), at: self.clock.now(), made_by: None };
        let votes = by.iter().map(vote).collect();
        self.write(Approval { votes, ..approval }).await;
    }

    /// Opens what was decided once more.
    pub async fn reopen(&self) {
        for approval in self.approvals() {
            if approval.status != ApprovalStatus::Pending {
                self.write(Approval { status: ApprovalStatus::Pending, ..approval }).await;
            }
        }
    }

    async fn write(&self, approval: Approval) {
        let item = encode(&approval, None);
        let Ok(Some(there)) = self.store.get(&item.key).await else { return };
        let expect = Expect::Version(there.version);
        let id = self.core.entropy().write_id();
        let _ = self.store.commit(Commit { id, writes: vec![Write::Put { item, expect }] }).await;
    }
}
