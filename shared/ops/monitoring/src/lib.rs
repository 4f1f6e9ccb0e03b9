//! Monitoring: the machine's own figures and what they mean, and services asked how they are.
//!
//! - `system`: the port of the machine's figures. `judge`: all thresholds, and what they find.
//! - `monitor`: the tool.
//!
//! How to add a figure: a field of [`SystemSample`], its threshold and its words in `judge`, its
//! place in `monitor::metrics`.

mod judge;
mod monitor;
mod system;

pub use judge::{Limit, Thresholds, report};
pub use monitor::{MonitorParameters, Target, monitor};
pub use system::{DiskSample, SystemMetrics, SystemSample};
