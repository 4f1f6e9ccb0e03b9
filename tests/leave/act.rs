//! What may happen in a story.

use watchbill_core::ports::Entropy as _;
use watchbill_testkit::{ReadFault, SeededEntropy};

/// Something that someone does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    Approve(&'static str),
    /// Twice at the same moment.
    DoubleClick(&'static str),
    Reject,
    /// The task is cancelled, or tried again once it has ended.
    Cancel,
    Retry(&'static str),
    /// Reads of the agents' score fail, or work again.
    Fault(Option<ReadFault>),
    /// By a link of this number: few numbers, so that links are used again.
    Link(u64),
    /// By a link that is not one.
    ForgedLink,
    /// The sweeper looks at what is due.
    Sweep,
    /// Someone changes what stands in the table.
    Edit(&'static str),
    /// The same to what stands in its metadata.
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
            31 | 32 => Act::Fault([None, Some(ReadFault::Busy), Some(ReadFault::Down)][n(dice, 3)]),
            _ => Act::Wait(dice.next_u64() % 6),
        }
    }
}

/// Approvers and others. Of the made keys `deputy` is kim's, `helper` alex's, who asks for it all.
const EVERYBODY: [&str; 9] = ["kim", "sam", "kim", "alex", "bot", "joe", "eve", "deputy", "helper"];

fn n(dice: &SeededEntropy, of: u64) -> usize {
    (dice.next_u64() % of) as usize
}
