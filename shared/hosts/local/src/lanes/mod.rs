//! The lanes of one process. P0 goes first, with at most 80 % of the slots' time over a minute
//! while others wait. P1, P2 and P3 share by weight, and unused shares go to the others. Tenants
//! take turns within each. A taken message that is not completed comes back after its visibility
//! timeout. A waiting message is not enqueued twice.

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

/// The heap of delayed messages is rebuilt when more than this many and half of it are void.
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
    /// One notification for each kind of slot, so that a message wakes one slot, not all.
    any: Notify,
    p0: Notify,
}

/// The task reference of a message. Of two messages with the same reference one is enough.
type TaskReference = (TenantId, TaskId, u32);

/// Where a message waits.
#[derive(Clone, Copy)]
enum Position {
    Ready,
    Later { at: Duration, number: u64 },
}

/// A message that was taken and not completed.
struct InFlight {
    message: LaneMessage,
    /// `None` for a slot that is kept for P0.
    charge: Option<Charge>,
}

#[derive(Default)]
struct State {
    ready: Schedule,
    share: Share,
    /// Every waiting message, ready or delayed. A taken one may be enqueued again: its run may
    /// end without another check.
    places: HashMap<TaskReference, Position>,
    /// How many messages were dropped because the same one waited.
    duplicates: u64,
    /// Delayed messages by their due time. An entry that is not in `waiting` is void.
    later: BinaryHeap<Reverse<(Duration, u64)>>,
    waiting: HashMap<u64, LaneMessage>,
    taken: HashMap<u64, InFlight>,
    /// When taken messages come back. All have the same visibility timeout, so in the order of
    /// taking.
    back: VecDeque<(Duration, u64)>,
    /// Slots that sleep until a message is due. One is needed, or due messages would go
    /// unnoticed.
    timed: u32,
    next: u64,
    depth: BTreeMap<(Agent, Priority), u64>,
    closed: bool,
}

/// A taken message. If it is dropped, it comes back after its visibility timeout.
pub struct Delivery {
    lanes: Arc<LocalLanes>,
    receipt: u64,
    pub message: LaneMessage,
}

impl Delivery {
    /// Completes the message.
    pub fn done(self) {
        let now = self.lanes.clock.monotonic();
        self.lanes.state().give_up(self.receipt, now);
    }

    /// Requeues the message after a delay.
    pub fn back(self, after: Duration) {
        let now = self.lanes.clock.monotonic();
        let mut state = self.lanes.state();
        let given_up = state.give_up(self.receipt, now);
        let is_next = given_up.is_some_and(|message| state.put_later(message, now + after));
        drop(state);
        self.lanes.wake(1, is_next);
        self.lanes.p0.notify_one();
    }
}

impl LocalLanes {
    /// `visibility`: a message that was taken and not completed comes back after this.
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

    /// Wakes one slot for each of `count` messages. If one of them is now the next to become due,
    /// it wakes every sleeping slot: only one of them waits for that time, and it is not known
    /// which, so waking another one would leave it asleep until the old time.
    fn wake(&self, count: usize, is_next_due: bool) {
        if is_next_due {
            self.any.notify_waiters();
        }
        // All at once: a chain of notifications would be slower.
        for _ in 0..count {
            self.any.notify_one();
        }
    }

    /// Waits for the next message. Returns `None` once the lanes are closed.
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
                        // One notification may stand for many messages, and while this slot
                        // works another must watch for due ones.
                        self.any.notify_one();
                    }
                    return Some(delivery);
                }
                // One slot watches for all, and notifies another when it leaves.
                let wait =
                    state.next_ripe(now).filter(|_| state.timed == 0 || slot == Slot::OnlyP0);
                state.timed += u32::from(wait.is_some());
                wait
            };
            match wait {
                None => ringing.await,
                Some(wait) => {
                    let _watch = WatchGuard(self);
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
        state.taken.insert(receipt, InFlight { message: message.clone(), charge });
        state.back.push_back((now + self.visibility, receipt));
        Some(Delivery { lanes: self.clone(), receipt, message })
    }

    /// Stops handing out messages.
    pub fn close(&self) {
        self.state().closed = true;
        self.any.notify_waiters();
        self.p0.notify_waiters();
        self.any.notify_one();
        self.p0.notify_one();
    }

    /// How many messages were dropped because the same one waited already.
    pub fn duplicates(&self) -> u64 {
        self.state().duplicates
    }

    /// Whether no message waits or is taken.
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.ready.is_empty() && state.waiting.is_empty() && state.taken.is_empty()
    }
}

/// Counts a slot that watches for due messages, until it stops.
struct WatchGuard<'a>(&'a LocalLanes);

impl Drop for WatchGuard<'_> {
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

    /// Removes the next message for such a slot from its lane.
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
        self.places.remove(&task_reference(&message));
        let p0 = message.priority == Priority::P0;
        let charge = (slot == Slot::Any).then(|| self.share.begin(p0, contended, now));
        Some((message, charge))
    }

    /// Ends a taken message. Returns it if it has not come back yet.
    fn give_up(&mut self, receipt: u64, now: Duration) -> Option<LaneMessage> {
        let taken = self.taken.remove(&receipt)?;
        if let Some(charge) = taken.charge {
            self.share.end(charge, now);
        }
        Some(taken.message)
    }

    fn put_ready(&mut self, message: LaneMessage) {
        match self.places.insert(task_reference(&message), Position::Ready) {
            Some(Position::Ready) => {
                self.duplicates += 1;
                return;
            }
            Some(Position::Later { number, .. }) => {
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
        let place = Position::Later { at, number };
        match self.places.entry(task_reference(&message)) {
            Entry::Vacant(free) => _ = free.insert(place),
            Entry::Occupied(mut existing) => {
                self.duplicates += 1;
                match *existing.get() {
                    Position::Later { at: before, number } if at < before => {
                        self.waiting.remove(&number);
                        existing.insert(place);
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

    /// Moves due messages into their lanes: delayed ones, and taken ones that were not
    /// completed.
    fn ripen(&mut self, now: Duration) {
        while let Some(Reverse((at, number))) = self.later.peek().copied() {
            let void = !self.waiting.contains_key(&number);
            if at > now && !void {
                break;
            }
            self.later.pop();
            if let Some(message) = self.waiting.remove(&number) {
                self.places.remove(&task_reference(&message));
                self.put_ready(message);
            }
        }
        while let Some((at, number)) = self.back.front().copied() {
            let in_flight = self.taken.contains_key(&number);
            if in_flight && at > now {
                break;
            }
            self.back.pop_front();
            if let Some(taken) = self.taken.remove(&number) {
                // When it left its slot is unknown, so its charge stays.
                self.put_ready(taken.message);
            }
        }
    }

    /// How long until a message is due.
    fn next_ripe(&self, now: Duration) -> Option<Duration> {
        let later = self.later.peek().map(|Reverse((at, _))| *at);
        let back = self.back.front().map(|(at, _)| *at);
        let next = [later, back].into_iter().flatten().min()?;
        Some(next.saturating_sub(now).max(Duration::from_millis(1)))
    }
}

fn task_reference(message: &LaneMessage) -> TaskReference {
    (message.tenant.clone(), message.task_id.clone(), message.assignment)
}

#[async_trait]
impl Lanes for LocalLanes {
    async fn enqueue(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError> {
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
        self.wake(count, is_next);
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
