//! Judges metrics: all thresholds in one place, and the texts of the issues they find.

use watchbill_runtime::evidence::{Health, Issue, MetricAssessment, Resource, SystemReport};

use super::monitor::metrics;
use super::system::SystemSample;

/// Lowest values that count as `degraded` and as `unhealthy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub degraded: f64,
    pub unhealthy: f64,
}

impl Limit {
    pub fn assess(self, value: f64) -> Health {
        if value >= self.unhealthy {
            Health::Unhealthy
        } else if value >= self.degraded {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Percent.
    pub cpu: Limit,
    /// Percent.
    pub memory: Limit,
    /// Percent of the fullest disk.
    pub disk: Limit,
    /// One-minute load average divided by the number of cores.
    pub load_per_core: Limit,
    /// Milliseconds until the response's head.
    pub latency_ms: Limit,
    /// Days until a certificate expires; fewer are worse (see [`Thresholds::tls`]).
    pub tls_days_left: Limit,
}

impl Thresholds {
    pub const DEFAULT: Thresholds = Thresholds {
        cpu: Limit { degraded: 85.0, unhealthy: 95.0 },
        memory: Limit { degraded: 85.0, unhealthy: 95.0 },
        disk: Limit { degraded: 85.0, unhealthy: 95.0 },
        load_per_core: Limit { degraded: 1.5, unhealthy: 3.0 },
        latency_ms: Limit { degraded: 1_000.0, unhealthy: 5_000.0 },
        tls_days_left: Limit { degraded: 21.0, unhealthy: 3.0 },
    };

    /// Few days are bad, so values below the limit count.
    pub fn tls(&self, days_left: i64) -> Health {
        let days = days_left as f64;
        if days < self.tls_days_left.unhealthy {
            Health::Unhealthy
        } else if days < self.tls_days_left.degraded {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The machine's issues; empty if all is well.
pub fn system_issues(sample: &SystemSample, limits: &Thresholds) -> Vec<Issue> {
    let memory = sample.memory_percent();
    let load = sample.load_per_core();
    let mut issues = Vec::new();
    let mut assess = |limit: Limit, value: f64, text: String| {
        let health = limit.assess(value);
        if health > Health::Healthy {
            issues.push(Issue { health, text: format!("{text} (limit {})", limit.degraded) });
        }
    };
    assess(limits.cpu, sample.cpu_percent, format!("cpu is at {:.0} %", sample.cpu_percent));
    assess(limits.memory, memory, format!("memory is at {memory:.0} %"));
    for disk in &sample.disks {
        let used = disk.percent();
        assess(limits.disk, used, format!("disk {} is {used:.0} % full", disk.mount));
    }
    assess(
        limits.load_per_core,
        load,
        format!("load is {:.2} on {} cores, {load:.2} per core", sample.load[0], sample.cores),
    );
    issues
}

/// A one-line summary for the timeline.
pub fn describe(sample: &SystemSample) -> String {
    format!(
        "cpu {:.0} %, memory {:.0} %, disk {:.0} %, load {:.2}",
        sample.cpu_percent,
        sample.memory_percent(),
        sample.fullest_disk().map_or(0.0, |disk| disk.percent()),
        sample.load[0]
    )
}

/// A sample with its interpretation.
pub fn report(sample: &SystemSample, limits: &Thresholds) -> SystemReport {
    let disk = sample.fullest_disk().map_or(0.0, |disk| disk.percent());
    let readings = [
        (Resource::Cpu, limits.cpu, sample.cpu_percent),
        (Resource::Memory, limits.memory, sample.memory_percent()),
        (Resource::Disk, limits.disk, disk),
        (Resource::Load, limits.load_per_core, sample.load_per_core()),
    ];
    let readings = readings.into_iter().map(|(resource, limit, value)| MetricAssessment {
        resource,
        value,
        limit: limit.degraded,
        health: limit.assess(value),
    });
    SystemReport {
        at: sample.at,
        summary: describe(sample),
        metrics: metrics(sample),
        issues: system_issues(sample, limits),
        readings: readings.collect(),
    }
}
