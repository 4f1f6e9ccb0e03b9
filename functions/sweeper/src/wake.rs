//! Wakes the tasks that governance holds up once another policy holds: a freeze may have been
//! lifted, hours before it would have ended.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use watchbill_core::decide::Command;
use watchbill_core::ports::{Item, ListRange, Query, WhichList};
use watchbill_core::repo::{self, decode};
use watchbill_core::service::{CommandError, Core, Rounds, ServiceError};
use watchbill_domain::{Agent, Task, TenantId};

use crate::LOOKS_AT_ONCE;
use crate::turn::Within;

/// Tasks read at once.
const PAGE: usize = 100;
/// Tasks and lists that one sweep looks at: the rest comes with the next. Most lists are empty.
const MAX_TASKS: usize = 2_000;
const MAX_LISTS: usize = 400;
/// Tenants whose names are read at once.
const TENANTS: usize = 100;
/// Other processes may go by the policy before this one for so long: a task woken earlier would
/// be held again.
const OLD_POLICY: Duration = Duration::from_secs(35);

/// The round over all tenants, of which there is one for each policy; the store keeps its place.
const ROUND: &str = "wake";

/// The walk over what is held, where there is one. A process that starts anew goes on with it, at
/// the tenant at which another was.
#[derive(Default)]
pub struct Wake(Mutex<State>);

#[derive(Default)]
struct State {
    /// The fingerprint of the policy that holds.
    policy: Option<String>,
    /// Its walk has begun, or was done before.
    begun: bool,
    walk: Option<Walk>,
}

#[derive(Clone)]
struct Walk {
    /// Those of the present page that are left, the present one last.
    tenants: Vec<TenantId>,
    /// The last of the page, where there are more behind it.
    next_page: Option<TenantId>,
    /// The last one that was dealt with.
    done: Option<TenantId>,
    list: usize,
    cursor: Option<String>,
}

impl Wake {
    /// This policy holds. One that changes during a walk begins it anew.
    pub fn follow(&self, fingerprint: &str) {
        let mut state = self.state();
        if state.policy.as_deref() != Some(fingerprint) {
            *state = State { policy: Some(fingerprint.to_owned()), begun: false, walk: None };
        }
    }

    /// Wakes some pages, where it is time to. Answers how many tasks.
    pub async fn look(
        &self,
        core: &Core,
        rounds: &Rounds,
        within: &Within,
    ) -> Result<usize, ServiceError> {
        let (policy, begun) = {
            let state = self.state();
            (state.policy.clone(), state.begun)
        };
        let Some(policy) = policy else { return Ok(0) };
        if !begun {
            let opened = rounds.opened(core.context(), ROUND, &policy).await?;
            if opened.is_some_and(|at| core.clock().now() < at.plus(OLD_POLICY)) {
                return Ok(0);
            }
            let walk = match rounds.place(core.context(), ROUND, &policy).await? {
                Some(after) => Some(Walk::page(core, after.as_ref()).await?),
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

    async fn walk(&self, core: &Core, within: &Within) -> Result<usize, ServiceError> {
        let (mut woken, mut tasks) = (0, 0);
        for _ in 0..MAX_LISTS {
            if tasks >= MAX_TASKS || within.is_over() {
                break;
            }
            let Some(walk) = self.state().walk.clone() else { break };
            let Some(tenant) = walk.tenants.last() else {
                let next = match &walk.next_page {
                    Some(after) => Some(Walk::page(core, Some(after)).await?),
                    None => None,
                };
                self.state().walk = next;
                continue;
            };
            let partition = match walk.list.checked_sub(1) {
                None => repo::held_list(tenant),
                // Those of external workers stand where these look for work.
                Some(agent) => repo::outside_list(tenant, Agent::ALL[agent]),
            };
            let query = Query {
                list: WhichList::Second,
                partition,
                range: ListRange::default(),
                descending: false,
                limit: PAGE,
                cursor: walk.cursor.clone(),
            };
            let page = core.store().query(query).await?;
            tasks += page.entries.len();
            let items = core.context().get_readable(&page.entries).await?;
            let wakes: Vec<_> =
                items.iter().flatten().map(|item| wake_or_tell(core, item)).collect();
            let mut wakes = stream::iter(wakes).buffer_unordered(LOOKS_AT_ONCE);
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

/// Its own look comes all the same: the others must not wait for one that fails.
async fn wake_or_tell(core: &Core, item: &Item) -> bool {
    wake(core, item).await.unwrap_or_else(|error| {
        tracing::warn!(key = %item.key, "{} is not woken: {error}", item.key);
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

impl Walk {
    /// At the first of the tenants that come after one.
    async fn page(core: &Core, after: Option<&TenantId>) -> Result<Self, ServiceError> {
        let mut tenants = core.tenants().after(after, TENANTS).await?;
        let next_page = tenants.last().cloned().filter(|_| tenants.len() == TENANTS);
        tenants.reverse();
        Ok(Self { tenants, next_page, done: after.cloned(), list: 0, cursor: None })
    }

    /// Where it goes on, once a page is done with.
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
