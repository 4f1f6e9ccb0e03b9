//! Complete runs of the ops agent over fake ports.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use watchbill_alerts::{Alert, AlertMark, AlertStatus, AlertStore, OpenAlerts, RaiseAlert};
use watchbill_catalog::OpsPorts;
use watchbill_core::ports::Clock;
use watchbill_domain::{Task, TenantId};
use watchbill_monitoring::{SystemMetrics, SystemSample};
use watchbill_ops_agent::OpsAgent;
use watchbill_runtime::port_error::PortError;
use watchbill_runtime::probe::{Probe, ProbeOutcome, Probes};
use watchbill_runtime::run::{Notes, Retry, Run, RunOutcome, TaskAgent};
use watchbill_testkit::FakeClock;

struct Machine(f64);

#[async_trait]
impl SystemMetrics for Machine {
    async fn sample(&self) -> Result<SystemSample, PortError> {
        if self.0 < 0.0 {
            let reason = "no /proc".to_owned();
            return Err(PortError::Unavailable { what: "the machine's metrics", reason });
        }
        Ok(SystemSample {
            at: Default::default(),
            cpu_percent: self.0,
            cores: 2,
            memory_total: 1_000,
            memory_used: 400,
            swap_total: 0,
            swap_used: 0,
            disks: Vec::new(),
            load: [0.5, 0.4, 0.3],
            uptime: Duration::from_secs(60),
            processes: 5,
        })
    }
}

struct Answers(u16);

#[async_trait]
impl Probes for Answers {
    async fn probe(&self, _probe: &Probe) -> ProbeOutcome {
        ProbeOutcome {
            http_status: Some(self.0),
            latency: Duration::from_millis(12),
            tls_days_left: Some(10),
            ..ProbeOutcome::default()
        }
    }
}

#[derive(Default)]
struct Book(Mutex<Vec<Alert>>);

#[async_trait]
impl AlertStore for Book {
    async fn raise(&self, _tenant: &TenantId, raise: RaiseAlert) -> Result<Alert, PortError> {
        let mut alerts = self.0.lock().unwrap();
        let open = alerts.iter_mut().find(|a| {
            a.status != AlertStatus::Resolved
                && a.alert_type == raise.alert_type
                && a.target == raise.target
        });
        if let Some(alert) = open {
            alert.count += 1;
            return Ok(alert.clone());
        }
        let alert = Alert {
            alert_id: format!("alert-{}", alerts.len() + 1),
            alert_type: raise.alert_type,
            target: raise.target,
            severity: raise.severity,
            status: AlertStatus::Active,
            message: raise.message,
            labels: raise.labels,
            count: 1,
            first_seen: raise.at,
            last_seen: raise.at,
            acknowledged: None,
            resolved: None,
        };
        alerts.push(alert.clone());
        Ok(alert)
    }

    async fn find(&self, _tenant: &TenantId, id: &str) -> Result<Option<Alert>, PortError> {
        Ok(self.0.lock().unwrap().iter().find(|a| a.alert_id == id).cloned())
    }

    async fn find_open(
        &self,
        tenant: &TenantId,
        alert_type: &str,
        target: Option<&str>,
    ) -> Result<Option<Alert>, PortError> {
        let open = self.list_open(tenant, usize::MAX).await?.newest;
        let means = |alert: &Alert| {
            alert.alert_type == alert_type && target.is_none_or(|target| target == alert.target)
        };
        Ok(open.into_iter().find(means))
    }

    async fn list_open(&self, _tenant: &TenantId, limit: usize) -> Result<OpenAlerts, PortError> {
        let alerts = self.0.lock().unwrap();
        let open = alerts.iter().filter(|a| a.status != AlertStatus::Resolved);
        let count = open.clone().count();
        Ok(OpenAlerts { newest: open.take(limit).cloned().collect(), count, more: false })
    }

    async fn acknowledge(
        &self,
        _tenant: &TenantId,
        id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError> {
        let mut alerts = self.0.lock().unwrap();
        let Some(alert) = alerts.iter_mut().find(|a| a.alert_id == id) else { return Ok(None) };
        if alert.status == AlertStatus::Active {
            alert.status = AlertStatus::Acknowledged;
            alert.acknowledged = Some(mark);
        }
        Ok(Some(alert.clone()))
    }

    async fn resolve(
        &self,
        _tenant: &TenantId,
        id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError> {
        let mut alerts = self.0.lock().unwrap();
        let Some(alert) = alerts.iter_mut().find(|a| a.alert_id == id) else { return Ok(None) };
        if alert.status != AlertStatus::Resolved {
            alert.status = AlertStatus::Resolved;
            alert.resolved = Some(mark);
        }
        Ok(Some(alert.clone()))
    }
}

fn run_of(id: &str, task_type: &str, metadata: Value, payload: Value) -> Run {
    let clock = Arc::new(FakeClock::default());
    let task: Task = serde_json::from_value(json!({
        "id": id, "t": "default", "ty": task_type, "pr": "P2", "src": "user", "st": "in_progress",
        "ag": "ops", "n": 1, "mr": 3, "ca": clock.now(), "tr": "trace", "me": metadata,
        "pl": {"in": {}}, "by": "ann",
    }))
    .unwrap();
    let payload = Arc::new(payload.as_object().unwrap().clone());
    let deadline = Duration::from_secs(60);
    Run {
        task,
        payload,
        planned: None,
        deadline,
        notes: Notes::new(clock.clone()),
        clock,
        journal: None,
        spending: None,
    }
}

fn ports() -> OpsPorts {
    OpsPorts {
        metrics: Some(Arc::new(Machine(12.0))),
        probes: Some(Arc::new(Answers(200))),
        alerts: Some(Arc::new(Book::default())),
        ..OpsPorts::default()
    }
}

fn done(ended: RunOutcome) -> (Value, Vec<String>) {
    match ended {
        RunOutcome::Done { result, events } => {
            (result.into(), events.iter().map(|event| event.event_type.to_string()).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_sick_service_is_a_task_well_done() {
    let payload = json!({"service": "shop", "url": "https://shop.example/health"});
    for (status, health, service) in [(200, "degraded", "degraded"), (500, "unhealthy", "down")] {
        let ports = OpsPorts { probes: Some(Arc::new(Answers(status))), ..ports() };
        let run = run_of("t1", "monitor", json!({}), payload.clone());
        let (result, _) = done(OpsAgent::new(ports).run(&run).await);
        assert_eq!(result["success"], true);
        assert_eq!(result["health"]["status"], health, "{result}");
        assert_eq!(result["services"][0]["status"], service);
        assert!(result["health"]["issues"].to_string().contains("expires in 10 days"));
        assert_eq!(result["metrics"]["cpu"]["percent"], 12.0);
        let steps: Vec<String> = run.notes.list().into_iter().map(|note| note.step).collect();
        assert_eq!(steps, ["observe", "orient", "decide", "act"]);
    }
}

#[tokio::test]
async fn unreadable_metrics_fail_only_what_needs_them() {
    let ports = OpsPorts { metrics: Some(Arc::new(Machine(-1.0))), ..ports() };
    let agent = OpsAgent::new(ports);
    let run = run_of("t1", "monitor", json!({}), json!({}));
    match agent.run(&run).await {
        RunOutcome::Failed { error, retry: Retry::Yes { .. }, .. } => {
            assert!(error.contains("no /proc"))
        }
        other => panic!("{other:?}"),
    }
    let run = run_of("t2", "monitor", json!({}), json!({"url": "https://shop.example/"}));
    let (result, _) = done(agent.run(&run).await);
    assert_eq!(
        (&result["metrics"], &result["services"][0]["http_status"]),
        (&Value::Null, &json!(200))
    );
    let hot =
        OpsAgent::new(OpsPorts { metrics: Some(Arc::new(Machine(99.0))), ..OpsPorts::default() });
    let (result, _) = done(hot.run(&run_of("t3", "monitor", json!({}), json!({}))).await);
    assert_eq!(result["health"]["status"], "unhealthy");
}

#[tokio::test]
async fn alerts_open_once_and_are_answered() {
    let agent = OpsAgent::new(ports());
    let raise = json!({"alert_type": "high_cpu", "severity": "warning", "target": "web-1"});
    let (result, events) = done(agent.run(&run_of("t1", "alert", json!({}), raise.clone())).await);
    assert_eq!(events, ["alert.triggered"]);
    assert_eq!(
        (&result["alerts"][0]["severity"], &result["actions"][0]["action"]),
        (&json!("high"), &json!("opened"))
    );
    let (result, events) = done(agent.run(&run_of("t2", "alert", json!({}), raise)).await);
    assert!(events.is_empty());
    assert_eq!(result["alerts"][0]["count"], 2);

    let disk = json!({"alert_type": "disk_full", "target": "web-1"});
    let caused = json!({"event_type": "alert.triggered"});
    let (result, events) = done(agent.run(&run_of("t3", "alert", caused, disk)).await);
    assert!(events.is_empty(), "the task stems from that very event");
    assert_eq!(result["alerts"].as_array().unwrap().len(), 2, "grouped by target");

    let ack = json!({"description": "Acknowledge alert alert-1"});
    let (_, events) = done(agent.run(&run_of("t4", "alert", json!({}), ack.clone())).await);
    assert_eq!(events, ["alert.ack"]);
    let (result, events) = done(agent.run(&run_of("t5", "alert", json!({}), ack)).await);
    assert!(events.is_empty());
    assert_eq!(result["actions"][0]["action"], "left");
    let resolve = json!({"action": "resolve", "alert_type": "high_cpu"});
    let (result, events) =
        done(agent.run(&run_of("t6", "alert", json!({}), resolve.clone())).await);
    assert_eq!(
        (events, &result["alerts"][0]["resolved_by"]),
        (vec!["alert.resolved".to_owned()], &json!("ann"))
    );
    match agent.run(&run_of("t7", "alert", json!({}), resolve)).await {
        RunOutcome::Failed { error, retry: Retry::No, .. } => assert!(error.contains("high_cpu")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tasks_that_cannot_be_done_report_why() {
    let agent = OpsAgent::new(ports());
    let deploy = json!({"project": "shop", "environment": "staging"});
    match agent.run(&run_of("t1", "deploy", json!({}), deploy)).await {
        RunOutcome::Blocked { reason, .. } => {
            assert!(reason.contains("no deployer is configured"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    match agent.run(&run_of("t2", "alert", json!({}), json!({"action": "ack"}))).await {
        RunOutcome::Failed { error, retry: Retry::No, .. } => {
            assert!(error.contains("payload.alert_id"))
        }
        other => panic!("{other:?}"),
    }
    let run = run_of("t3", "investigate", json!({}), json!({"issue": "slow", "time_range": "1h"}));
    let (result, _) = done(agent.run(&run).await);
    assert!(result["gaps"].to_string().contains("LOG_DIRS"), "{result}");
    assert!(result["ruled_out"].to_string().contains("too little cpu"), "{result}");
}
