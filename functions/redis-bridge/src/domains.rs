//! Imports tasks from a domain's list, and keeps the domain's entry in the network's registry.
//! `export_events` writes the tasks' results.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_domain::Status;
use watchbill_wire::TaskView;
use watchbill_wire::legacy::{DomainAgent, DomainMessage, DomainResult, DomainTask};

use crate::BridgeContext;
use crate::backend::{BackendError, LegacyTaskRequest};
use crate::ids::{is_ambiguous, tasks_of_peer};
use crate::reject::reject_message;
use crate::report::Metrics;
use crate::run_loop::{Direction, NextStep, SyncError};

/// Messages taken per step.
const PAGE_SIZE: usize = 64;
/// How long an import of a message may take before the message is taken again.
const LEASE: Duration = Duration::from_secs(30);
/// How often an idle list is polled; notices wake the loop earlier.
const IDLE: Duration = Duration::from_millis(200);
/// The heartbeat interval, and how long a heartbeat is valid.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
const HEARTBEAT_TTL: Duration = Duration::from_secs(30);

/// Imports one domain's list.
pub(crate) struct Domain {
    context: BridgeContext,
    metrics: Arc<Metrics>,
    wake: Arc<Notify>,
    name: String,
}

impl Domain {
    pub fn new(
        context: BridgeContext,
        metrics: Arc<Metrics>,
        wake: Arc<Notify>,
        name: String,
    ) -> Self {
        Self { context, metrics, wake, name }
    }

    async fn receive(&self, taken: DomainMessage) -> Result<(), SyncError> {
        let DomainMessage { message, again, task } = taken;
        if again {
            self.metrics.retaken.fetch_add(1, Ordering::Relaxed);
        }
        let task = match task {
            Ok(task) => task,
            Err(reason) => return self.refuse(&message, reason).await,
        };
        // Before the backend has the task: its outcome may be exported at once, and the export
        // must find the message.
        self.context.legacy.begin(&self.name, &task.peer_id, &message).await?;
        match self.record(task).await {
            Ok(view) => {
                self.metrics.taken.fetch_add(1, Ordering::Relaxed);
                self.context.legacy.settle_message(&self.name, &message).await?;
                if view.version > 1 {
                    let result = domain_result(&self.context, &view).await?;
                    self.context.legacy.write_result(&self.name, &result).await?;
                }
                Ok(())
            }
            Err(error @ BackendError::Retry { .. }) => Err(error.into()),
            Err(error) => self.refuse(&message, error.to_string()).await,
        }
    }

    async fn record(&self, task: DomainTask) -> Result<TaskView, BackendError> {
        let DomainTask { id, peer_id, task } = task;
        if is_ambiguous(&peer_id) {
            // A task that an older build stored under the legacy id remains that task.
            let known = tasks_of_peer(&*self.context.backend, &[peer_id]).await?.pop().flatten();
            if let Some(known) = known.filter(|known| known.task_id != id) {
                return Ok(known);
            }
        }
        self.context.backend.create(LegacyTaskRequest { id, task, trace_id: None }).await
    }

    async fn refuse(&self, message: &[u8], reason: String) -> Result<(), SyncError> {
        reject_message(&self.context, &self.metrics, &self.name, message, reason).await
    }
}

#[async_trait]
impl Direction for Domain {
    fn name(&self) -> &'static str {
        "domains"
    }

    fn woken_by(&self) -> Option<Arc<Notify>> {
        Some(self.wake.clone())
    }

    async fn step(&mut self) -> Result<NextStep, SyncError> {
        let taken = self.context.legacy.take_messages(&self.name, LEASE, PAGE_SIZE).await?;
        let pace = if taken.is_empty() { NextStep::Wait(IDLE) } else { NextStep::On };
        for message in taken {
            self.receive(message).await?;
        }
        Ok(pace)
    }
}

/// A task's state in the form that the domain's clients read.
pub(crate) async fn domain_result<'a>(
    context: &BridgeContext,
    task: &'a TaskView,
) -> Result<DomainResult<'a>, BackendError> {
    let at = context.clock.now();
    let is_over = DomainResult::is_over(task.status);
    let notes = match is_over {
        true => context.backend.notes(&task.task_id).await?,
        false => Vec::new(),
    };
    let line = match (task.status, &task.error) {
        (Status::Pending, _) => "waits for approval".to_owned(),
        (status, Some(error)) if is_over => format!("{status}: {error}"),
        (status, _) => status.to_string(),
    };
    Ok(DomainResult { task, notes, line, at })
}

/// A domain's registry entry and its heartbeat.
pub(crate) struct Heartbeat {
    context: BridgeContext,
    agent: DomainAgent,
    registered: bool,
}

impl Heartbeat {
    pub fn new(context: BridgeContext, domain: &str, workers: &[&str]) -> Self {
        let agent = DomainAgent {
            id: format!("{domain}-{}", context.host),
            domain: domain.to_owned(),
            container_id: Some(context.host.clone()),
            workers: workers.iter().map(|&worker| worker.to_owned()).collect(),
            at: context.clock.now(),
        };
        Self { context, agent, registered: false }
    }
}

#[async_trait]
impl Direction for Heartbeat {
    fn name(&self) -> &'static str {
        "registry"
    }

    async fn step(&mut self) -> Result<NextStep, SyncError> {
        if !self.registered {
            self.context.legacy.register(&self.agent).await?;
            self.registered = true;
        }
        let at = self.context.clock.now();
        if !self.context.legacy.beat(&self.agent.id, at, HEARTBEAT_TTL).await? {
            // Redis has lost our entry: register again.
            self.registered = false;
            return Ok(NextStep::On);
        }
        Ok(NextStep::Wait(HEARTBEAT_INTERVAL))
    }

    /// Deregisters, so that others need not wait for the heartbeat to expire.
    async fn stop(&mut self) {
        if let Err(error) = self.context.legacy.deregister(&self.agent).await {
            tracing::debug!(%error, "the domain can't be deregistered");
        }
    }
}
