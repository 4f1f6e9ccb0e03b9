//! External workers, as they identify themselves.

use watchbill_core::decide::Claimant;

use super::{Life, Move};

/// The fence that the caller acts under: mostly the current one, or none.
pub fn fence(step: &Move, current: u64) -> Option<u64> {
    match step.random % 8 {
        0 => Some(current + 1),
        1 => Some(current.saturating_sub(1)),
        2..=4 => Some(current),
        _ => None,
    }
}

impl Life {
    /// Two keys; the workers of one of them have names, and most endings have the right fence.
    pub fn claimant(&self, step: &Move) -> Claimant {
        let owner = if step.c.is_multiple_of(3) { "worker:b" } else { "worker:a" }.to_owned();
        let worker = match step.b {
            0..=3 => Some("one".to_owned()),
            4 => Some("two".to_owned()),
            _ => None,
        };
        Claimant { owner, worker, fence: fence(step, self.task.fence) }
    }
}
