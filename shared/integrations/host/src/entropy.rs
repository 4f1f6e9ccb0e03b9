//! The operating system's random bytes.

use std::cell::RefCell;

use watchbill_core::ports::Entropy;

/// The operating system's randomness, fetched in blocks: a call per id would cost more than the
/// id.
pub struct SystemEntropy;

const PIECE: usize = 1024;

thread_local! {
    /// The fetched bytes, and how many are used.
    static FETCHED: RefCell<([u8; PIECE], usize)> = const { RefCell::new(([0; PIECE], PIECE)) };
}

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        FETCHED.with_borrow_mut(|(piece, used)| {
            for byte in bytes {
                if *used == PIECE {
                    fetch(piece);
                    *used = 0;
                }
                // Each byte is used once and then erased from memory.
                *byte = std::mem::take(&mut piece[*used]);
                *used += 1;
            }
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the Entropy port's real source")]
fn fetch(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system provides random bytes");
}
