//! In which order the shards have their turn, and until when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use watchbill_core::ports::{Clock, DUE_SHARDS};
use watchbill_domain::Timestamp;

/// The shard that is the first of the next sweep: one that had no turn in the last, where that was
/// too short for all. A process that starts anew takes the minute for it, so that none starves
/// where each sweep is a process of its own.
#[derive(Default)]
pub struct Turn(Mutex<Option<u8>>);

impl Turn {
    /// The order of this sweep. A sweep that is given up, because a shard hangs, never says how far it
    /// came: another shard is the first of the next one already.
    pub fn order(&self, now: Timestamp) -> Vec<u8> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.millis().div_euclid(60_000).rem_euclid(DUE_SHARDS.into());
        let first = next.unwrap_or_else(|| u8::try_from(minute).unwrap_or_default());
        *next = Some((first + 1) % DUE_SHARDS);
        (0..DUE_SHARDS).map(|n| (first + n) % DUE_SHARDS).collect()
    }

    /// So many of them were begun, in their order.
    pub fn ended(&self, order: &[u8], begun: usize) {
        // If all were: another one's turn.
        let next = order.get(begun).or(order.get(1)).copied();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

/// A time that ends on the monotonic clock.
pub struct Within {
    clock: Arc<dyn Clock>,
    until: Duration,
}

impl Within {
    /// So many parts of a hundred of a time that begins now.
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
        let turn = Turn::default();
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
