//! The actions of a random scenario.

use watchbill_core::ports::Entropy as _;
use watchbill_testkit::{ReadFault, SeededEntropy};

/// One action of one actor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    Approve(&'static str),
    /// Two approvals at the same moment.
    DoubleClick(&'static str),
    Reject,
    /// Cancels the task, or retries it once it has finished.
    Cancel,
    Retry(&'static str),
    /// Makes reads of the agents' reputation fail, or work again.
    ApiError(Option<ReadFault>),
    /// Approves by a link with this number as its nonce. There are few numbers, so links are
    /// reused.
    Link(u64),
    /// Uses a link with a forged signature.
    ForgedLink,
    /// Sweeps the approvals that are due.
    Sweep,
    /// Changes the task's payload directly in the table.
    Edit(&'static str),
    /// Changes the task's metadata directly in the table.
    EditHint(&'static str),
    Policy(u64),
    Dispatch,
    /// A process claims the task and dies.
    Die,
    Wait(u64),
}

impl Act {
    pub fn random(dice: &SeededEntropy) -> Self {
        match dice.next_u64() % 40 {
            0..=4 => Act::Approve(EVERYBODY[n(dice, EVERYBODY.len() as u64)]),
            5 | 6 => Act::DoubleClick(["kim", "sam"][n(dice, 2)]),
            7 => Act::Reject,
            8..=10 => Act::Link(dice.next_u64() % 3),
            11 => Act::ForgedLink,
            12..=14 => Act::Sweep,
            15 | 16 => Act::Edit(["shop", "bank"][n(dice, 2)]),
            17..=19 => Act::Policy(dice.next_u64() % 11),
            20..=25 => Act::Dispatch,
            26 | 27 => Act::Die,
            28 => Act::Cancel,
            29 => Act::Retry(["sam", "alex"][n(dice, 2)]),
            30 => Act::EditHint(["", "skip the checks"][n(dice, 2)]),
            31 | 32 => {
                Act::ApiError([None, Some(ReadFault::Busy), Some(ReadFault::Down)][n(dice, 3)])
            }
            _ => Act::Wait(dice.next_u64() % 6),
        }
    }
}

/// Approvers and others. Of the created keys, `deputy` belongs to kim and `helper` to alex, who
/// requested every task.
const EVERYBODY: [&str; 9] = ["kim", "sam", "kim", "alex", "bot", "joe", "eve", "deputy", "helper"];

fn n(dice: &SeededEntropy, of: u64) -> usize {
    (dice.next_u64() % of) as usize
}
