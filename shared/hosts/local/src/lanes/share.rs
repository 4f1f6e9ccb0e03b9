//! Limits how much of the slots' time P0 gets while others wait.
//!
//! It counts slot time, not starts: otherwise four short P0 tasks would make room for one long
//! P3 task and wait behind it. A start is charged with its class's average duration, and
//! corrected at its end, so that simultaneous starts are shared out too.

use std::collections::VecDeque;
use std::time::Duration;

/// P0's maximum while others wait, in percent of slot time over a minute. Slots kept for P0 do
/// not count.
const P0_PERCENT: u128 = 80;
const WINDOW: Duration = Duration::from_secs(60);
/// Charges within one span expire together.
const SPAN: Duration = Duration::from_secs(1);
/// The assumed duration of a class before one of its tasks has ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// The weight of the newest task in the average: one part of this many.
const WEIGHT: u32 = 8;
/// A charge is never zero, or a thousand starts at the same moment would be free.
const MIN_CHARGE: Duration = Duration::from_millis(1);

/// The charge of a start.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    p0: bool,
    began: Duration,
    guess: Duration,
    /// Whether P0 and others waited at its start. Only then the charge counts.
    contended: bool,
}

#[derive(Default)]
pub struct Share {
    p0: Class,
    others: Class,
}

struct Class {
    guess: Duration,
    /// The beginning of each span, and its charges in nanoseconds.
    spans: VecDeque<(Duration, i128)>,
    sum: i128,
}

impl Default for Class {
    fn default() -> Self {
        Self { guess: FIRST_GUESS, spans: VecDeque::new(), sum: 0 }
    }
}

impl Share {
    /// Whether P0 has used its share of the last minute, so that the others go first.
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

    /// The charges within the window. A correction may outlive the charge that it corrects.
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
