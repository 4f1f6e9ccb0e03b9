//! The machine's metrics, by the `sysinfo` crate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sysinfo::{
    CpuRefreshKind, Disks, MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, ProcessRefreshKind,
    ProcessesToUpdate, RefreshKind, System,
};
use watchbill_core::ports::Clock;
use watchbill_monitoring::{DiskSample, SystemMetrics, SystemSample};
use watchbill_runtime::port_error::PortError;

/// CPU use is measured between two readings, at least this far apart.
const SPAN: Duration = Duration::from_millis(250);
/// A reading older than this is no start for the next: the average would describe the past.
const STALE: Duration = Duration::from_secs(15);

/// File systems that are always full, or in memory.
const NOT_DISKS: &[&str] =
    &["squashfs", "iso9660", "tmpfs", "devtmpfs", "ramfs", "erofs", "udf", "cdfs"];

/// The machine's host name.
pub fn host_name() -> String {
    System::host_name().filter(|name| !name.is_empty()).unwrap_or_else(|| "host".to_owned())
}

/// Measures the machine that this process runs on.
pub struct LocalSystem {
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<SamplerState>>,
}

struct SamplerState {
    system: System,
    /// On the monotonic clock.
    read_at: Option<Duration>,
}

impl LocalSystem {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let kept = SamplerState { system: System::new(), read_at: None };
        Self { clock, kept: Arc::new(Mutex::new(kept)) }
    }

    async fn on_a_blocking_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SamplerState) -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let kept = self.kept.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(|error| PortError::Unavailable {
            what: "the machine's metrics",
            reason: error.to_string(),
        })
    }
}

#[async_trait]
impl SystemMetrics for LocalSystem {
    async fn sample(&self) -> Result<SystemSample, PortError> {
        let span = SPAN.max(MINIMUM_CPU_UPDATE_INTERVAL);
        let now = self.clock.monotonic();
        let wait = self
            .on_a_blocking_thread(move |kept| {
                let age = kept.read_at.map(|at| now.saturating_sub(at));
                match age.filter(|age| *age <= STALE) {
                    Some(age) => span.saturating_sub(age),
                    None => {
                        kept.system.refresh_cpu_usage();
                        kept.read_at = Some(now);
                        span
                    }
                }
            })
            .await?;
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
        let (at, now) = (self.clock.now(), self.clock.monotonic());
        self.on_a_blocking_thread(move |kept| {
            // If another caller took a reading while we waited, it is used.
            if kept.read_at.is_none_or(|last| now.saturating_sub(last) >= span) {
                kept.read_at = Some(now);
                let cpu =
                    RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_cpu_usage());
                kept.system.refresh_specifics(cpu);
            }
            read(&mut kept.system, at)
        })
        .await
    }
}

fn read(system: &mut System, at: watchbill_domain::Timestamp) -> SystemSample {
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    let nothing = ProcessRefreshKind::nothing();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, nothing.without_tasks());
    let load = System::load_average();
    let (memory_total, memory_used) = memory(system);
    SystemSample {
        at,
        cpu_percent: f64::from(system.global_cpu_usage()).clamp(0.0, 100.0),
        cores: u32::try_from(system.cpus().len()).unwrap_or(u32::MAX).max(1),
        memory_total,
        memory_used,
        swap_total: system.total_swap(),
        swap_used: system.used_swap(),
        disks: disks(),
        load: [load.one, load.five, load.fifteen],
        uptime: Duration::from_secs(System::uptime()),
        processes: system.processes().len() as u64,
    }
}

/// Total and used memory: the container's if its limit is below the machine's memory.
fn memory(system: &System) -> (u64, u64) {
    let (total, available) = (system.total_memory(), system.available_memory());
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < total => {
            (limits.total_memory, limits.total_memory.saturating_sub(limits.free_memory))
        }
        _ => (total, total.saturating_sub(available)),
    }
}

/// Each device once, though it may be mounted several times.
fn disks() -> Vec<DiskSample> {
    let listed = Disks::new_with_refreshed_list();
    let mut seen: Vec<(std::ffi::OsString, u64)> = Vec::new();
    let mut out: Vec<DiskSample> = Vec::new();
    for disk in listed.list() {
        let kind = disk.file_system().to_string_lossy().to_lowercase();
        let identity = (disk.name().to_owned(), disk.total_space());
        if disk.total_space() == 0 || NOT_DISKS.contains(&kind.as_str()) || seen.contains(&identity)
        {
            continue;
        }
        seen.push(identity);
        out.push(DiskSample {
            mount: disk.mount_point().to_string_lossy().into_owned(),
            total: disk.total_space(),
            used: disk.total_space().saturating_sub(disk.available_space()),
        });
    }
    out.sort_by(|a, b| a.mount.cmp(&b.mount));
    out
}

#[cfg(test)]
mod tests {
    use watchbill_testkit::FakeClock;

    use super::*;

    #[tokio::test]
    async fn the_metrics_are_of_a_real_machine() {
        let clock = Arc::new(FakeClock::auto(Default::default()));
        let system = LocalSystem::new(clock.clone());
        let sample = system.sample().await.unwrap();
        assert!((0.0..=100.0).contains(&sample.cpu_percent), "{sample:?}");
        assert!(sample.cores >= 1 && sample.memory_total > 1 << 20, "{sample:?}");
        assert!(sample.memory_used > 0 && sample.memory_used <= sample.memory_total);
        assert!((0.0..=100.0).contains(&sample.memory_percent()));
        assert!(sample.processes > 0 && !sample.uptime.is_zero());
        assert!(sample.disks.iter().all(|disk| disk.used <= disk.total));
        let waited = clock.monotonic();
        assert!(waited >= SPAN, "the first reading spans {waited:?}");
        // A fresh reading starts the next one.
        clock.advance(Duration::from_secs(1));
        system.sample().await.unwrap();
        assert_eq!(clock.monotonic(), waited + Duration::from_secs(1));
    }
}
