//! Monitoring: the machine's own metrics and their interpretation, and health checks of
//! services.
//!
//! - `system`: the port of the machine's metrics. `health`: all thresholds, and the issues they
//!   find.
//! - `monitor`: the tool.
//!
//! How to add a metric: add a field to [`SystemSample`], its threshold and its text in
//! `health`, and its place in `monitor::metrics`.

mod health;
mod monitor;
mod system;

pub use health::{Limit, Thresholds, report};
pub use monitor::{MonitorParameters, Target, monitor};
pub use system::{DiskSample, SystemMetrics, SystemSample};
