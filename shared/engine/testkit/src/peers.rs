//! Lanes, bus and wake in memory. Lanes and bus refuse what SQS and EventBridge refuse, and
//! return messages as parsed from their wire format.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use watchbill_core::ports::{Bus, BusError, LaneMessage, Lanes, LanesError, Topic, Wake};
use watchbill_domain::{Agent, Event, EventId, Priority, TaskId, TenantId};
use watchbill_wire::{BusEvent, LaneForm, NoticeForm, is_portable};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts down the number that a test set. Returns true while it is above zero.
fn takes_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

/// Lanes that keep enqueued messages until a test takes them.
#[derive(Default)]
pub struct MemoryLanes {
    waiting: Mutex<Vec<(LaneMessage, Duration)>>,
    refuse: AtomicUsize,
    lose: AtomicUsize,
    breaks: Mutex<Option<Priority>>,
    never: Mutex<BTreeSet<TaskId>>,
}

impl MemoryLanes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Drains the lanes: returns all waiting messages in the order they were enqueued.
    pub fn take_all(&self) -> Vec<(LaneMessage, Duration)> {
        std::mem::take(&mut *lock(&self.waiting))
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.waiting).is_empty()
    }

    /// Refuses the next `n` calls of `enqueue`.
    pub fn refuse_next(&self, n: usize) {
        self.refuse.store(n, Ordering::Relaxed);
    }

    /// Accepts the messages of the next `n` calls and returns an error nevertheless.
    pub fn lose_answers(&self, n: usize) {
        self.lose.store(n, Ordering::Relaxed);
    }

    /// Always refuses messages of this task.
    pub fn never_take(&self, task: TaskId) {
        lock(&self.never).insert(task);
    }

    /// Reading the backlog of this priority panics.
    pub fn break_off_at(&self, priority: Priority) {
        *lock(&self.breaks) = Some(priority);
    }
}

#[async_trait]
impl Lanes for MemoryLanes {
    async fn enqueue(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError> {
        let sent = messages.len();
        if takes_one(&self.refuse) {
            return Err(LanesError::Down { reason: "refused on purpose".into() });
        }
        let (mut refused, mut taken) = (Vec::new(), Vec::new());
        for (message, delay) in messages {
            let text = LaneForm::write(&message);
            match text.chars().all(is_portable) && !lock(&self.never).contains(&message.task_id) {
                true => taken.push((LaneForm::read(&text).expect("it was just written"), delay)),
                false => refused.push(message),
            }
        }
        lock(&self.waiting).extend(taken);
        if !refused.is_empty() {
            let reason = "SQS would refuse them".into();
            return Err(LanesError::Refused { messages: refused, reason });
        }
        if takes_one(&self.lose) {
            let reason = "the answer was lost on purpose".into();
            return Err(LanesError::Partial { sent, failed: sent, reason });
        }
        Ok(())
    }

    async fn backlog(&self, agent: Agent, priority: Priority) -> Result<u64, LanesError> {
        let breaks = *lock(&self.breaks);
        assert_ne!(Some(priority), breaks, "it breaks off on purpose");
        let of_lane =
            |(m, _): &&(LaneMessage, Duration)| m.agent == agent && m.priority == priority;
        Ok(lock(&self.waiting).iter().filter(of_lane).count() as u64)
    }
}

/// A bus that keeps every event it accepted, including repeats.
#[derive(Default)]
pub struct MemoryBus {
    taken: Mutex<Vec<(TenantId, Event)>>,
    refuse: AtomicUsize,
    never: Mutex<BTreeSet<EventId>>,
}

impl MemoryBus {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn events(&self) -> Vec<(TenantId, Event)> {
        lock(&self.taken).clone()
    }

    /// Always refuses these events.
    pub fn never_take(&self, events: impl IntoIterator<Item = EventId>) {
        *lock(&self.never) = events.into_iter().collect();
    }

    /// Refuses the next `n` batches.
    pub fn refuse_next(&self, n: usize) {
        self.refuse.store(n, Ordering::Relaxed);
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        if takes_one(&self.refuse) {
            return Err(BusError::Down { reason: "refused on purpose".into() });
        }
        let takes = |event: &&Event| {
            is_carried(tenant, event) && !lock(&self.never).contains(&event.event_id)
        };
        let (taken, refused): (Vec<&Event>, Vec<&Event>) = events.iter().partition(takes);
        lock(&self.taken).extend(taken.into_iter().map(|event| (tenant.clone(), event.clone())));
        if refused.is_empty() {
            return Ok(());
        }
        let events = refused.into_iter().map(|event| event.event_id.clone()).collect();
        Err(BusError::Refused { events, reason: "SQS would refuse them".into() })
    }
}

/// Whether EventBridge and SQS would accept the event in our wire format.
fn is_carried(tenant: &TenantId, event: &Event) -> bool {
    let plain = serde_json::to_string(event).expect("an event can be written");
    if plain.chars().all(is_portable) {
        return true;
    }
    let form = BusEvent::from(event.clone());
    let texts = [NoticeForm::write(tenant, event), form.detail_text(), form.source];
    texts.iter().all(|text| text.chars().all(is_portable))
}

/// Wake marks by topic. A wait ignores its timeout and ends only by a wake-up; instead of
/// waiting, a test moves its clock and wakes the topic.
#[derive(Default)]
pub struct MemoryWake {
    marks: Mutex<BTreeMap<String, watch::Sender<u64>>>,
}

impl MemoryWake {
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, topic: &Topic, act: impl FnOnce(&watch::Sender<u64>) -> T) -> T {
        act(lock(&self.marks).entry(format!("{topic:?}")).or_insert_with(|| watch::Sender::new(0)))
    }
}

#[async_trait]
impl Wake for MemoryWake {
    fn mark(&self, topic: &Topic) -> u64 {
        self.with(topic, |mark| *mark.borrow())
    }

    async fn wait(&self, topic: &Topic, seen: u64, _at_most: Duration) {
        let mut mark = self.with(topic, watch::Sender::subscribe);
        // Can't fail: `self` owns the sender.
        let _ = mark.wait_for(|now| *now != seen).await;
    }

    fn wake(&self, topic: &Topic) {
        self.with(topic, |mark| mark.send_modify(|now| *now += 1));
    }
}
