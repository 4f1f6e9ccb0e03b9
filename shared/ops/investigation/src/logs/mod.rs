//! Parses logs of all common formats: time, level, message, and which lines belong together.

mod entry;
mod level;
mod template;
mod time;

pub use entry::{Entry, bounded, entries};
pub use level::LogLevel;
pub use template::template;
pub use time::TimeContext;
