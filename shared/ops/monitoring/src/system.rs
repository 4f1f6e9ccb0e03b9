//! The port of the machine's own metrics.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::Timestamp;
use watchbill_runtime::port_error::PortError;

/// Reads the machine's own metrics.
#[async_trait]
pub trait SystemMetrics: Send + Sync {
    async fn sample(&self) -> Result<SystemSample, PortError>;
}

/// One measurement. Percentages are 0–100, sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemSample {
    pub at: Timestamp,
    /// Over all cores, so at most 100.
    pub cpu_percent: f64,
    pub cores: u32,
    /// Memory available to programs: the machine's, or the container's limit if that is less.
    pub memory_total: u64,
    pub memory_used: u64,
    pub swap_total: u64,
    pub swap_used: u64,
    pub disks: Vec<DiskSample>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    pub uptime: Duration,
    pub processes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DiskSample {
    pub mount: String,
    pub total: u64,
    pub used: u64,
}

impl DiskSample {
    pub fn percent(&self) -> f64 {
        percent(self.used, self.total)
    }
}

impl SystemSample {
    pub fn memory_percent(&self) -> f64 {
        percent(self.memory_used, self.memory_total)
    }

    pub fn fullest_disk(&self) -> Option<&DiskSample> {
        self.disks.iter().max_by(|a, b| a.percent().total_cmp(&b.percent()))
    }

    /// One-minute load divided by the number of cores.
    pub fn load_per_core(&self) -> f64 {
        self.load[0] / f64::from(self.cores.max(1))
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
