//! Wakes the tasks that governance deferred when the policy changes: a freeze may have been
//! lifted hours before its end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use watchbill_core::decide::Command;
use watchbill_core::ports::{Item, ListRange, Query, WhichList};
use watchbill_core::repo::{self, decode};
use watchbill_core::service::{CommandError, Core, Rounds, ServiceError};
use watchbill_domain::{Agent, Task, TenantId};

use crate::CONCURRENT_CHECKS;
use crate::turn::Deadline;

/// Tasks read at once.
const PAGE_SIZE: usize = 100;
/// Tasks and lists read per sweep; the next sweep continues. Most lists are empty.
const MAX_TASKS: usize = 2_000;
const MAX_LISTS: usize = 400;
/// Tenant names read at once.
const TENANTS: usize = 100;
/// How long other processes may still use the previous policy: a task woken earlier would be
/// deferred again.
const POLICY_CACHE_TTL: Duration = Duration::from_secs(35);

/// The round over all tenants, one per policy. Its position is kept in the store.
const ROUND: &str = "wake";

/// The walk over deferred tasks, if one is running. A new process continues it at the tenant
/// where the previous one was.
#[derive(Default)]
pub struct Wake(Mutex<State>);

#[derive(Default)]
struct State {
    /// The fingerprint of the current policy.
    policy: Option<String>,
    /// Its walk has started or was already done.
    begun: bool,
    walk: Option<TenantWalk>,
}

#[derive(Clone)]
struct TenantWalk {
    /// The remaining tenants of the current page, the current one last.
    tenants: Vec<TenantId>,
    /// The last tenant of the page, if more pages follow.
    next_page: Option<TenantId>,
    /// The last completed tenant.
    done: Option<TenantId>,
    list: usize,
    cursor: Option<String>,
}

impl Wake {
    /// Sets the current policy. A change during a walk restarts it.
    pub fn follow(&self, fingerprint: &str) {
        let mut state = self.state();
        if state.policy.as_deref() != Some(fingerprint) {
            *state = State { policy: Some(fingerprint.to_owned()), begun: false, walk: None };
        }
    }

    /// Wakes some pages of tasks, if it is time to. Returns the number of woken tasks.
    pub async fn look(
        &self,
        core: &Core,
        rounds: &Rounds,
        within: &Deadline,
    ) -> Result<usize, ServiceError> {
        let (policy, begun) = {
            let state = self.state();
            (state.policy.clone(), state.begun)
        };
        let Some(policy) = policy else { return Ok(0) };
        if !begun {
            let opened = rounds.opened(core.context(), ROUND, &policy).await?;
            if opened.is_some_and(|at| core.clock().now() < at.plus(POLICY_CACHE_TTL)) {
                return Ok(0);
            }
            let walk = match rounds.place(core.context(), ROUND, &policy).await? {
                Some(after) => Some(TenantWalk::page(core, after.as_ref()).await?),
                None => None,
            };
            let mut state = self.state();
            state.walk = walk;
            state.begun = true;
        }
        if self.state().walk.is_none() {
            return Ok(0);
        }
        let woken = self.walk(core, within).await?;
        let done = self.state().walk.as_ref().map(|walk| walk.done.clone());
        match done {
            None => rounds.reached(core.context(), ROUND, (&policy, None)).await,
            Some(Some(tenant)) => {
                rounds.reached(core.context(), ROUND, (&policy, Some(tenant))).await
            }
            Some(None) => {}
        }
        Ok(woken)
    }

    async fn walk(&self, core: &Core, within: &Deadline) -> Result<usize, ServiceError> {
        let (mut woken, mut tasks) = (0, 0);
        for _ in 0..MAX_LISTS {
            if tasks >= MAX_TASKS || within.is_over() {
                break;
            }
            let Some(walk) = self.state().walk.clone() else { break };
            let Some(tenant) = walk.tenants.last() else {
                let next = match &walk.next_page {
                    Some(after) => Some(TenantWalk::page(core, Some(after)).await?),
                    None => None,
                };
                self.state().walk = next;
                continue;
            };
            let partition = match walk.list.checked_sub(1) {
                None => repo::held_list(tenant),
                // Tasks of external workers are in the lists that these workers poll.
                Some(agent) => repo::outside_list(tenant, Agent::ALL[agent]),
            };
            let query = Query {
                list: WhichList::Second,
                partition,
                range: ListRange::default(),
                descending: false,
                limit: PAGE_SIZE,
                cursor: walk.cursor.clone(),
            };
            let page = core.store().query(query).await?;
            tasks += page.entries.len();
            let items = core.context().get_readable(&page.entries).await?;
            let wakes: Vec<_> =
                items.iter().flatten().map(|item| wake_or_log(core, item)).collect();
            let mut wakes = stream::iter(wakes).buffer_unordered(CONCURRENT_CHECKS);
            while let Some(woke) = wakes.next().await {
                woken += usize::from(woke);
            }
            drop(wakes);
            self.state().walk = Some(walk.after(page.next));
        }
        Ok(woken)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failed task must not block the others: its regular check still follows.
async fn wake_or_log(core: &Core, item: &Item) -> bool {
    wake(core, item).await.unwrap_or_else(|error| {
        tracing::warn!(key = %item.key, %error, "a deferred task can't be woken");
        false
    })
}

async fn wake(core: &Core, item: &Item) -> Result<bool, ServiceError> {
    let stored = decode::<Task>(item)?;
    if stored.value.held.is_none() {
        return Ok(false);
    }
    match core.tasks().command_on(stored, &Command::Wake).await {
        Ok(_) => Ok(true),
        Err(CommandError::Rejected { .. }) => Ok(false),
        Err(CommandError::Service(error)) => Err(error),
    }
}

impl TenantWalk {
    /// Starts at the first tenants after the given one.
    async fn page(core: &Core, after: Option<&TenantId>) -> Result<Self, ServiceError> {
        let mut tenants = core.tenants().after(after, TENANTS).await?;
        let next_page = tenants.last().cloned().filter(|_| tenants.len() == TENANTS);
        tenants.reverse();
        Ok(Self { tenants, next_page, done: after.cloned(), list: 0, cursor: None })
    }

    /// The position after a completed page.
    fn after(mut self, cursor: Option<String>) -> Self {
        if cursor.is_none() {
            self.list += 1;
        }
        self.cursor = cursor;
        if self.list > Agent::ALL.len() {
            self.list = 0;
            self.done = self.tenants.pop();
        }
        self
    }
}
