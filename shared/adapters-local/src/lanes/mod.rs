//! The lanes of one process. P0 strictly first; P1, P2, P3 by shares, and what one does not
//! use the others get; tenants in turn within each. What is taken and not done with comes
//! back after its visibility, as from a queue.

mod schedule;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_core::domain::{Agent, Priority};
use watchbill_core::ports::{Clock, LaneMessage, Lanes, LanesError};

use schedule::Schedule;

/// Which messages a slot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Any,
    /// Kept free for P0.
    OnlyP0,
}

pub struct LocalLanes {
    clock: Arc<dyn Clock>,
    visibility: Duration,
    state: Mutex<State>,
    /// One bell for each kind of slot: a message wakes one slot, not all of them.
    any: Notify,
    p0: Notify,
}

#[derive(Default)]
struct State {
    ready: Schedule,
    /// Messages to come, by their moment.
    later: BinaryHeap<Reverse<(Duration, u64)>>,
    waiting: HashMap<u64, LaneMessage>,
    /// Taken and not done with.
    taken: HashMap<u64, LaneMessage>,
    /// When what was taken comes back: one visibility for all, so in the order of taking.
    back: VecDeque<(Duration, u64)>,
    /// Slots that sleep until something ripens. One is needed, or nobody would notice.
    timed: u32,
    next: u64,
    depth: BTreeMap<(Agent, Priority), u64>,
    closed: bool,
}

/// A message in hand. Dropped without a word it comes back after its visibility.
pub struct Delivery {
    lanes: Arc<LocalLanes>,
    receipt: u64,
    pub message: LaneMessage,
}

impl Delivery {
    /// Done with.
    pub fn done(self) {
        let mut state = self.lanes.state();
        state.taken.remove(&self.receipt);
    }

    /// Back into its lane after a while.
    pub fn back(self, after: Duration) {
        let mut state = self.lanes.state();
        if let Some(message) = state.taken.remove(&self.receipt) {
            let at = self.lanes.clock.monotonic() + after;
            state.put_later(message, at);
        }
        drop(state);
        self.lanes.any.notify_one();
        self.lanes.p0.notify_one();
    }
}

impl LocalLanes {
    /// `visibility`: after this long a message that was taken and never done with is back.
    pub fn new(clock: Arc<dyn Clock>, visibility: Duration) -> Arc<Self> {
        Arc::new(Self {
            clock,
            visibility,
            state: Mutex::default(),
            any: Notify::new(),
            p0: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next message; nothing once the lanes are closed.
    pub async fn take(self: &Arc<Self>, slot: Slot) -> Option<Delivery> {
        let bell = match slot {
            Slot::Any => &self.any,
            Slot::OnlyP0 => &self.p0,
        };
        loop {
            let ringing = bell.notified();
            let wait = {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                let now = self.clock.monotonic();
                state.ripen(now);
                if let Some(delivery) = self.take_ready(&mut state, slot, now) {
                    let unwatched = state.timed == 0 && state.next_ripe(now).is_some();
                    let more = !state.ready.is_empty() || unwatched;
                    drop(state);
                    if more {
                        // Pass the bell on: one ring may stand for many messages, and while
                        // this slot works another must watch what ripens.
                        self.any.notify_one();
                    }
                    return Some(delivery);
                }
                // One watches for all: it passes the bell on when it leaves.
                let wait =
                    state.next_ripe(now).filter(|_| state.timed == 0 || slot == Slot::OnlyP0);
                state.timed += u32::from(wait.is_some());
                wait
            };
            match wait {
                None => ringing.await,
                Some(wait) => {
                    let _watch = Watch(self);
                    tokio::select! {
                        () = ringing => {}
                        () = self.clock.sleep(wait) => {}
                    }
                }
            }
        }
    }

    fn take_ready(
        self: &Arc<Self>,
        state: &mut State,
        slot: Slot,
        now: Duration,
    ) -> Option<Delivery> {
        let message = match slot {
            Slot::Any => state.ready.next(),
            Slot::OnlyP0 => state.ready.next_p0(),
        }?;
        state.less(&message);
        let receipt = state.number();
        state.taken.insert(receipt, message.clone());
        state.back.push_back((now + self.visibility, receipt));
        Some(Delivery { lanes: self.clone(), receipt, message })
    }

    /// No more messages are handed out.
    pub fn close(&self) {
        self.state().closed = true;
        self.any.notify_waiters();
        self.p0.notify_waiters();
        self.any.notify_one();
        self.p0.notify_one();
    }

    /// Whether nothing waits and nothing is in hand.
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.ready.is_empty() && state.waiting.is_empty() && state.taken.is_empty()
    }
}

/// Counts a slot that watches what ripens, until it stops.
struct Watch<'a>(&'a LocalLanes);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.state().timed -= 1;
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn more(&mut self, message: &LaneMessage) {
        *self.depth.entry((message.agent, message.priority)).or_default() += 1;
    }

    fn less(&mut self, message: &LaneMessage) {
        if let Some(depth) = self.depth.get_mut(&(message.agent, message.priority)) {
            *depth = depth.saturating_sub(1);
        }
    }

    fn put_ready(&mut self, message: LaneMessage) {
        self.more(&message);
        self.ready.put(message);
    }

    fn put_later(&mut self, message: LaneMessage, at: Duration) {
        let number = self.number();
        self.waiting.insert(number, message);
        self.later.push(Reverse((at, number)));
    }

    /// Moves what is due into its lane: delayed messages, and taken ones nobody is done with.
    fn ripen(&mut self, now: Duration) {
        while let Some(Reverse((at, number))) = self.later.peek().copied() {
            if at > now {
                break;
            }
            self.later.pop();
            if let Some(message) = self.waiting.remove(&number) {
                self.put_ready(message);
            }
        }
        while let Some((at, number)) = self.back.front().copied() {
            let there = self.taken.contains_key(&number);
            if there && at > now {
                break;
            }
            self.back.pop_front();
            if let Some(message) = self.taken.remove(&number) {
                self.put_ready(message);
            }
        }
    }

    /// How long until something is due.
    fn next_ripe(&self, now: Duration) -> Option<Duration> {
        let later = self.later.peek().map(|Reverse((at, _))| *at);
        let back = self.back.front().map(|(at, _)| *at);
        let next = [later, back].into_iter().flatten().min()?;
        Some(next.saturating_sub(now).max(Duration::from_millis(1)))
    }
}

#[async_trait]
impl Lanes for LocalLanes {
    async fn offer(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError> {
        let now = self.clock.monotonic();
        let mut p0 = false;
        let count = messages.len();
        {
            let mut state = self.state();
            for (message, delay) in messages {
                p0 |= message.priority == Priority::P0;
                if delay.is_zero() {
                    state.put_ready(message);
                } else {
                    state.put_later(message, now + delay);
                }
            }
        }
        // A slot for each, at once: each waking the next would take them one by one.
        for _ in 0..count {
            self.any.notify_one();
        }
        if p0 {
            self.p0.notify_one();
        }
        Ok(())
    }

    async fn backlog(&self, agent: Agent, priority: Priority) -> Result<u64, LanesError> {
        Ok(self.state().depth.get(&(agent, priority)).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
