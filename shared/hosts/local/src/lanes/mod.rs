//! The lanes of one process. P0 first, with at most 80 % of the slots' time over a minute while
//! others wait; P1, P2, P3 by shares, and what one does not use the others get; tenants in turn
//! within each. What is taken and not done with comes back after its visibility, as from a
//! queue. A message that waits already is not kept twice.

mod schedule;
mod share;

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_core::ports::{Clock, LaneMessage, Lanes, LanesError};
use watchbill_domain::{Agent, Priority, TaskId, TenantId};

use schedule::Schedule;
use share::{Charge, Share};

/// The heap of messages to come is rebuilt when more than this and half of it are void.
const MIN_REBUILD: usize = 1_024;

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

/// What a message points at: of two with the same one is enough.
type Pointer = (TenantId, TaskId, u32);

/// Where a message waits.
#[derive(Clone, Copy)]
enum Place {
    Ready,
    Later { at: Duration, number: u64 },
}

/// A message that was taken and not done with.
struct Taken {
    message: LaneMessage,
    /// Nothing for a slot that is kept for P0.
    charge: Option<Charge>,
}

#[derive(Default)]
struct State {
    ready: Schedule,
    share: Share,
    /// Every message that waits, ready or to come. One that is taken may come again: its run may
    /// end without another look.
    places: HashMap<Pointer, Place>,
    /// Messages that were not kept because the same one waited.
    duplicates: u64,
    /// Messages to come, by their moment; without one in `waiting` an entry is void.
    later: BinaryHeap<Reverse<(Duration, u64)>>,
    waiting: HashMap<u64, LaneMessage>,
    taken: HashMap<u64, Taken>,
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
        let now = self.lanes.clock.monotonic();
        self.lanes.state().give_up(self.receipt, now);
    }

    /// Back into its lane after a while.
    pub fn back(self, after: Duration) {
        let now = self.lanes.clock.monotonic();
        let mut state = self.lanes.state();
        let given_up = state.give_up(self.receipt, now);
        let is_next = given_up.is_some_and(|message| state.put_later(message, now + after));
        drop(state);
        self.lanes.ring(1, is_next);
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

    /// Wakes a slot for each of `count` messages. Where one of them is the next to ripen, all that
    /// sleep: only one of them watches what ripens, and nobody knows which, so a ring for another
    /// would leave it asleep until what was next before.
    fn ring(&self, count: usize, is_next_to_ripen: bool) {
        if is_next_to_ripen {
            self.any.notify_waiters();
        }
        // At once: each waking the next would take them one by one.
        for _ in 0..count {
            self.any.notify_one();
        }
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
        let (message, charge) = state.next(slot, now)?;
        let receipt = state.number();
        state.taken.insert(receipt, Taken { message: message.clone(), charge });
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

    /// How many messages were not kept because the same one waited already.
    pub fn duplicates(&self) -> u64 {
        self.state().duplicates
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

    /// The next message that such a slot takes, out of its lane.
    fn next(&mut self, slot: Slot, now: Duration) -> Option<(LaneMessage, Option<Charge>)> {
        let contended = self.ready.is_contended();
        let message = match slot {
            Slot::Any => {
                let p0_first = !contended || !self.share.is_used_up(now);
                self.ready.next(p0_first)
            }
            Slot::OnlyP0 => self.ready.next_p0(),
        }?;
        self.less(&message);
        self.places.remove(&pointer(&message));
        let p0 = message.priority == Priority::P0;
        let charge = (slot == Slot::Any).then(|| self.share.begin(p0, contended, now));
        Some((message, charge))
    }

    /// Ends what was taken: its message, if it has not gone back yet.
    fn give_up(&mut self, receipt: u64, now: Duration) -> Option<LaneMessage> {
        let taken = self.taken.remove(&receipt)?;
        if let Some(charge) = taken.charge {
            self.share.end(charge, now);
        }
        Some(taken.message)
    }

    fn put_ready(&mut self, message: LaneMessage) {
        match self.places.insert(pointer(&message), Place::Ready) {
            Some(Place::Ready) => {
                self.duplicates += 1;
                return;
            }
            Some(Place::Later { number, .. }) => {
                self.duplicates += 1;
                self.waiting.remove(&number);
            }
            None => {}
        }
        self.more(&message);
        self.ready.put(message);
    }

    /// Of two messages the earlier one stays. True where this one is now the next to ripen.
    fn put_later(&mut self, message: LaneMessage, at: Duration) -> bool {
        let number = self.number();
        let place = Place::Later { at, number };
        match self.places.entry(pointer(&message)) {
            Entry::Vacant(free) => _ = free.insert(place),
            Entry::Occupied(mut there) => {
                self.duplicates += 1;
                match *there.get() {
                    Place::Later { at: before, number } if at < before => {
                        self.waiting.remove(&number);
                        there.insert(place);
                    }
                    _ => return false,
                }
            }
        }
        self.waiting.insert(number, message);
        self.later.push(Reverse((at, number)));
        if self.later.len() > 2 * self.waiting.len() + MIN_REBUILD {
            self.later.retain(|Reverse((_, number))| self.waiting.contains_key(number));
        }
        self.later.peek().is_some_and(|Reverse((_, next))| *next == number)
    }

    /// Moves what is due into its lane: delayed messages, and taken ones nobody is done with.
    fn ripen(&mut self, now: Duration) {
        while let Some(Reverse((at, number))) = self.later.peek().copied() {
            let void = !self.waiting.contains_key(&number);
            if at > now && !void {
                break;
            }
            self.later.pop();
            if let Some(message) = self.waiting.remove(&number) {
                self.places.remove(&pointer(&message));
                self.put_ready(message);
            }
        }
        while let Some((at, number)) = self.back.front().copied() {
            let there = self.taken.contains_key(&number);
            if there && at > now {
                break;
            }
            self.back.pop_front();
            if let Some(taken) = self.taken.remove(&number) {
                // When its slot was left nobody knows: what it was charged stands.
                self.put_ready(taken.message);
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

fn pointer(message: &LaneMessage) -> Pointer {
    (message.tenant.clone(), message.task_id.clone(), message.assignment)
}

#[async_trait]
impl Lanes for LocalLanes {
    async fn offer(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError> {
        let now = self.clock.monotonic();
        let (mut p0, mut is_next) = (false, false);
        let count = messages.len();
        {
            let mut state = self.state();
            for (message, delay) in messages {
                p0 |= message.priority == Priority::P0;
                if delay.is_zero() {
                    state.put_ready(message);
                } else {
                    is_next |= state.put_later(message, now + delay);
                }
            }
        }
        self.ring(count, is_next);
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
mod share_tests;
#[cfg(test)]
mod tests;
