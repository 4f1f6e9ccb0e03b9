//! How much of the slots' time P0 takes while others wait.
//!
//! Slot-time, not starts: by starts, four short P0 tasks would make room for one long P3 task
//! and wait behind it. A start is charged with what its class takes on average, and corrected
//! at its end, so that many starts in one moment are shared out too.

use std::collections::VecDeque;
use std::time::Duration;

/// Of the slots that are not kept for P0, so many percent of their time over a minute are
/// P0's at most while others wait.
const P0_PERCENT: u128 = 80;
const WINDOW: Duration = Duration::from_secs(60);
/// Charges of one span are forgotten together.
const SPAN: Duration = Duration::from_secs(1);
/// What a class is taken to need before one of its tasks has ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// How much the newest task counts in the average: one part of so many.
const WEIGHT: u32 = 8;
/// A charge is never nothing, or a thousand starts in one moment would be free.
const MIN_CHARGE: Duration = Duration::from_millis(1);

/// What a start was charged with.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    p0: bool,
    began: Duration,
    guess: Duration,
    /// Whether P0 and others waited at its start: only then it counts.
    contended: bool,
}

#[derive(Default)]
pub struct Share {
    p0: Class,
    others: Class,
}

struct Class {
    guess: Duration,
    /// Begin of the span, and what was charged in it, in nanoseconds.
    spans: VecDeque<(Duration, i128)>,
    sum: i128,
}

impl Default for Class {
    fn default() -> Self {
        Self { guess: FIRST_GUESS, spans: VecDeque::new(), sum: 0 }
    }
}

impl Share {
    /// Whether P0 has had its part of the last minute, so that it is the others' turn.
    pub fn is_used_up(&mut self, now: Duration) -> bool {
        let (p0, others) = (self.p0.within(now), self.others.within(now));
        p0 > 0 && p0 * 100 >= (p0 + others) * P0_PERCENT
    }

    /// A task begins on a slot that is not kept for P0.
    pub fn begin(&mut self, p0: bool, contended: bool, now: Duration) -> Charge {
        let class = self.class(p0);
        let guess = class.guess;
        if contended {
            class.charge(guess.as_nanos() as i128, now);
        }
        Charge { p0, began: now, guess, contended }
    }

    /// The same task has left its slot.
    pub fn end(&mut self, charge: Charge, now: Duration) {
        let took = now.saturating_sub(charge.began).clamp(MIN_CHARGE, WINDOW);
        let class = self.class(charge.p0);
        class.guess = (class.guess * (WEIGHT - 1) + took) / WEIGHT;
        if charge.contended {
            class.charge(took.as_nanos() as i128 - charge.guess.as_nanos() as i128, now);
        }
    }

    fn class(&mut self, p0: bool) -> &mut Class {
        if p0 { &mut self.p0 } else { &mut self.others }
    }
}

impl Class {
    fn charge(&mut self, nanos: i128, now: Duration) {
        self.sum += nanos;
        match self.spans.back_mut() {
            Some((began, sum)) if now.saturating_sub(*began) < SPAN => *sum += nanos,
            _ => self.spans.push_back((now, nanos)),
        }
    }

    /// What was charged within the window; a correction may outlive what it corrects.
    fn within(&mut self, now: Duration) -> u128 {
        while let Some((began, nanos)) = self.spans.front().copied() {
            if now.saturating_sub(began) < WINDOW {
                break;
            }
            self.spans.pop_front();
            self.sum -= nanos;
        }
        self.sum.max(0) as u128
    }
}
