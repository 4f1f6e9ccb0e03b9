//! A stopwatch for real time.

use std::time::{Duration, Instant};

/// Measures real time, because what is measured runs in another process.
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a duration is measured, nothing is decided")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
