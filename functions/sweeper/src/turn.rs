//! The order in which a sweep visits the shards, and its time limit.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use watchbill_core::ports::{Clock, DUE_SHARDS};
use watchbill_domain::Timestamp;

/// The first shard of the next sweep: one that got no turn in the last sweep, if that ran out of
/// time. A new process derives it from the minute, so that no shard starves where each sweep is
/// a process of its own.
#[derive(Default)]
pub struct FirstShard(Mutex<Option<u8>>);

impl FirstShard {
    /// The order of this sweep. A sweep that is aborted because a shard hangs never calls
    /// `ended`, so this already moves the next sweep's start to another shard.
    pub fn order(&self, now: Timestamp) -> Vec<u8> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.millis().div_euclid(60_000).rem_euclid(DUE_SHARDS.into());
        let first = next.unwrap_or_else(|| u8::try_from(minute).unwrap_or_default());
        *next = Some((first + 1) % DUE_SHARDS);
        (0..DUE_SHARDS).map(|n| (first + n) % DUE_SHARDS).collect()
    }

    /// Reports how many shards, in their order, were begun.
    pub fn ended(&self, order: &[u8], begun: usize) {
        // If all were: start with the next shard.
        let next = order.get(begun).or(order.get(1)).copied();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

/// A deadline on the monotonic clock.
pub struct Deadline {
    clock: Arc<dyn Clock>,
    until: Duration,
}

impl Deadline {
    /// The given percentage of a time span that starts now.
    pub fn new(clock: &Arc<dyn Clock>, time: Duration, percent: u32) -> Self {
        let share = time.checked_mul(percent).map_or(time, |time| time / 100);
        Self { clock: clock.clone(), until: clock.monotonic().saturating_add(share) }
    }

    pub fn is_over(&self) -> bool {
        self.clock.monotonic() >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_that_had_no_turn_are_the_next_ones() {
        let turn = FirstShard::default();
        let now = Timestamp::from_millis(5 * 60_000);
        let order = turn.order(now);
        assert_eq!((order[0], order.len()), (5, usize::from(DUE_SHARDS)));
        assert_eq!(order.last(), Some(&4));
        turn.ended(&order, 7);
        let order = turn.order(now);
        assert_eq!(order[0], 12);
        turn.ended(&order, usize::from(DUE_SHARDS));
        assert_eq!(turn.order(now)[0], 13, "another one, also where there was time for all");
        assert_eq!(turn.order(now)[0], 14, "that sweep was given up: the next one is not the same");
    }
}
