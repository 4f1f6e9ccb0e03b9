//! Reading logs of any usual form: when, how bad, what, and which lines belong together.

mod entry;
mod level;
mod template;
mod time;

pub use entry::{Entry, bounded, entries};
pub use level::Level;
pub use template::template;
pub use time::TimeContext;
