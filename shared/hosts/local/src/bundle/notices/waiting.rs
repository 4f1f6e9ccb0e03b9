//! Notices that wait for delivery: tenants take turns, and none can fill the lane for all.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use watchbill_domain::{Event, TenantId};

use super::MAX_WAITING;

pub struct Notice {
    pub tenant: TenantId,
    pub event: Event,
    pub tries: u32,
    /// The earliest time of the next attempt, on the monotonic clock.
    not_before: Duration,
}

/// What to do next.
pub enum Next {
    Deliver(Notice),
    /// Wait for a new notice, or until this time on the monotonic clock.
    Wait(Option<Duration>),
}

#[derive(Default)]
pub struct WaitingNotices {
    queues: Mutex<Queues>,
    pub news: Notify,
}

#[derive(Default)]
struct Queues {
    by_tenant: BTreeMap<TenantId, VecDeque<Notice>>,
    len: usize,
    /// The tenant whose notice was attempted last.
    last: Option<TenantId>,
    delivering: bool,
    dropped: u64,
}

impl WaitingNotices {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, tenant: TenantId, event: Event) {
        let mut queues = self.queues();
        queues.push(Notice { tenant, event, tries: 0, not_before: Duration::ZERO });
        let over = if queues.len > MAX_WAITING { queues.drop_one() } else { None };
        let dropped = queues.dropped;
        drop(queues);
        self.news.notify_one();
        if let Some(Notice { tenant, event, .. }) = over {
            tracing::error!(
                %tenant, event = %event.event_id, dropped,
                "notice dropped: {MAX_WAITING} wait for the webhook already, most of them of this \
                 tenant"
            );
        }
    }

    pub fn next(&self, now: Duration) -> Next {
        self.queues().next(now)
    }

    /// Requeues a notice that was not delivered, behind the others of its tenant.
    pub fn again(&self, notice: Notice, not_before: Duration) {
        let mut queues = self.queues();
        queues.delivering = false;
        queues.push(Notice { tries: notice.tries + 1, not_before, ..notice });
    }

    pub fn done(&self) {
        self.queues().delivering = false;
    }

    pub fn undelivered(&self) -> usize {
        let queues = self.queues();
        queues.len + usize::from(queues.delivering)
    }

    #[cfg(test)]
    pub fn dropped(&self) -> u64 {
        self.queues().dropped
    }
}

impl Queues {
    fn push(&mut self, notice: Notice) {
        self.len += 1;
        self.by_tenant.entry(notice.tenant.clone()).or_default().push_back(notice);
    }

    /// Removes the newest notice of the tenant with the most waiting ones.
    fn drop_one(&mut self) -> Option<Notice> {
        let longest = self.by_tenant.iter().max_by_key(|(_, waiting)| waiting.len());
        let tenant = longest?.0.clone();
        let last = self.by_tenant.get(&tenant)?.len().checked_sub(1)?;
        self.dropped += 1;
        self.take(&tenant, last)
    }

    fn take(&mut self, tenant: &TenantId, place: usize) -> Option<Notice> {
        let waiting = self.by_tenant.get_mut(tenant)?;
        let notice = waiting.remove(place)?;
        self.len -= 1;
        if waiting.is_empty() {
            self.by_tenant.remove(tenant);
        }
        Some(notice)
    }

    fn next(&mut self, now: Duration) -> Next {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.by_tenant.range::<TenantId, _>((after, Bound::Unbounded));
        let in_turn = behind.chain(&self.by_tenant);
        let ready = |waiting: &VecDeque<Notice>| waiting.iter().position(|of| of.not_before <= now);
        let found = in_turn.filter_map(|(tenant, of)| Some((tenant.clone(), ready(of)?))).next();
        if let Some(notice) = found.and_then(|(tenant, place)| self.take(&tenant, place)) {
            self.last = Some(notice.tenant.clone());
            self.delivering = true;
            return Next::Deliver(notice);
        }
        Next::Wait(self.by_tenant.values().flatten().map(|of| of.not_before).min())
    }
}
