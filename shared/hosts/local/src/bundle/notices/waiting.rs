//! Notices that wait for their delivery: tenants in turn, and none that fills the lane for all.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use watchbill_domain::{Event, TenantId};

use super::MOST;

pub struct Notice {
    pub tenant: TenantId,
    pub event: Event,
    pub tries: u32,
    /// Not tried again before, on the monotonic clock.
    not_before: Duration,
}

/// What is to be done next.
pub enum Next {
    Deliver(Notice),
    /// For news, or until this on the monotonic clock.
    Wait(Option<Duration>),
}

#[derive(Default)]
pub struct Waiting {
    queues: Mutex<Queues>,
    pub news: Notify,
}

#[derive(Default)]
struct Queues {
    by_tenant: BTreeMap<TenantId, VecDeque<Notice>>,
    len: usize,
    /// Of whom a notice was tried last.
    last: Option<TenantId>,
    at_work: bool,
    dropped: u64,
}

impl Waiting {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, tenant: TenantId, event: Event) {
        let mut queues = self.queues();
        queues.push(Notice { tenant, event, tries: 0, not_before: Duration::ZERO });
        let over = if queues.len > MOST { queues.drop_one() } else { None };
        let dropped = queues.dropped;
        drop(queues);
        self.news.notify_one();
        if let Some(Notice { tenant, event, .. }) = over {
            let id = event.event_id;
            tracing::error!(
                %tenant, event = %id, dropped,
                "notice of {id} is dropped: {MOST} wait for the webhook already, most of them of \
                 tenant {tenant}; {dropped} were dropped since the start"
            );
        }
    }

    pub fn next(&self, now: Duration) -> Next {
        self.queues().next(now)
    }

    /// One that was not delivered is tried again, behind the others of its tenant.
    pub fn again(&self, notice: Notice, not_before: Duration) {
        let mut queues = self.queues();
        queues.at_work = false;
        queues.push(Notice { tries: notice.tries + 1, not_before, ..notice });
    }

    pub fn done(&self) {
        self.queues().at_work = false;
    }

    pub fn undelivered(&self) -> usize {
        let queues = self.queues();
        queues.len + usize::from(queues.at_work)
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

    /// The newest of whoever has most waiting.
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
            self.at_work = true;
            return Next::Deliver(notice);
        }
        Next::Wait(self.by_tenant.values().flatten().map(|of| of.not_before).min())
    }
}
