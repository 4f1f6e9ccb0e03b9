//! Faults that are planted in a scenario, with seeds whose scenarios must detect them: a
//! scenario that can't detect its fault proves nothing.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use watchbill_core::ports::{Clock as _, Commit, Precondition, Store as _, Write};
use watchbill_core::repo::encode;
use watchbill_domain::{Approval, ApprovalStatus, Body, Task, TaskId, Vote};

use super::world::World;
use super::{Seen, story};

/// The fault to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The effect happens without a check of its authorization.
    Unauthorized,
    /// The effect happens twice.
    Twice,
    /// The effect uses the task's first payload, whatever was approved.
    Outdated,
    /// The `use_by` of authorizations is moved to a day from now.
    Prolonged,
    /// A user who may not approve is among those who have approved.
    Stranger,
    /// One person is counted twice, the second time by a key they created.
    SamePerson,
    /// No process sweeps due items or dispatches assigned tasks.
    Stuck,
    /// An approval stays pending although its task has finished.
    Orphan,
    /// A person's decision is missing from the logs.
    Unlogged,
}

/// Each fault with seeds that detect it, and a part of the failure message.
const FOUND_BY: [(Break, &[u64], &str); 9] = [
    (Break::Unauthorized, &[0, 1, 2], "without authorization"),
    (Break::Twice, &[0, 8, 13], "the number of effects of"),
    (Break::Outdated, &[20, 34, 44], "without authorization"),
    (Break::Prolonged, &[0, 8, 11], "without authorization"),
    (Break::Stranger, &[0, 3, 4], "have approved"),
    (Break::SamePerson, &[0, 1, 2], "voted twice"),
    (Break::Stuck, &[8, 11, 13], "is stuck as"),
    (Break::Orphan, &[0, 1, 2], "no task waits for"),
    (Break::Unlogged, &[0, 2, 4], "in logs and approvals"),
];

async fn failure(seed: u64, planted: Option<Break>) -> Option<String> {
    let mut seen = Seen::default();
    let scenario = story(seed, planted, &mut seen);
    let panic = AssertUnwindSafe(scenario).catch_unwind().await.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}

#[tokio::test]
async fn each_planted_fault_is_detected_by_its_seeds() {
    for (planted, seeds, wanted) in FOUND_BY {
        for seed in seeds {
            assert_eq!(failure(*seed, None).await, None, "seed {seed} without a fault");
            let found = failure(*seed, Some(planted)).await.unwrap_or_default();
            assert!(found.contains(wanted), "seed {seed} does not detect {planted:?}: {found}");
        }
    }
}

impl World {
    /// Applies the planted fault before a task is dispatched.
    pub async fn plant(&self, task: &TaskId, header: &Task) {
        match self.planted {
            Some(Break::Unauthorized) if self.provider.made_for(task) == 0 => {
                if let Body::In(payload) = header.payload.clone() {
                    self.provider.clone().deploy_unauthorized(header.clone(), payload).await;
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

    /// Writes votes into the pending approval.
    async fn forge(&self, task: &TaskId, by: &[&str]) {
        let Some(approval) = self.newest_approval(task) else { return };
        if approval.status != ApprovalStatus::Pending {
            return;
        }
        let vote = |by: &&str| Vote { by: (*by).to_owned(), at: self.clock.now(), made_by: None };
        let votes = by.iter().map(vote).collect();
        self.write(Approval { votes, ..approval }).await;
    }

    /// Sets decided approvals back to pending.
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
        let expect = Precondition::Version(there.version);
        let id = self.core.entropy().write_id();
        let _ = self.store.commit(Commit { id, writes: vec![Write::Put { item, expect }] }).await;
    }
}
