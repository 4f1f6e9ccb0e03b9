//! Domains: tasks out of a domain's list into the bundle, and the domain's entry in the
//! network's registry. What becomes of the tasks `out` tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_core::ports::{DomainWrite, Registration, Taken};
use watchbill_domain::Status;
use watchbill_wire::TaskView;
use watchbill_wire::redis::{DomainTask, DomainView, iso, read_domain_task};

use crate::Sides;
use crate::drive::{Direction, Pace, Trouble};
use crate::home::{HomeError, TaskOfPeer};
use crate::ids::{is_ambiguous, tasks_of_peer};
use crate::reject::reject_message;
use crate::report::Figures;

/// Messages taken at once.
const PAGE: usize = 64;
/// How long a message may be on its way into the bundle before it is taken again.
const LEASE: Duration = Duration::from_secs(30);
/// Between two looks at a list in which nothing happens; notices wake us before.
const IDLE: Duration = Duration::from_millis(200);
/// The heartbeat, and how long it is believed.
const BEAT: Duration = Duration::from_secs(10);
const BEAT_LASTS: Duration = Duration::from_secs(30);

/// A domain's list, drained.
pub(crate) struct Domain {
    sides: Sides,
    figures: Arc<Figures>,
    wake: Arc<Notify>,
    name: String,
}

impl Domain {
    pub fn new(sides: Sides, figures: Arc<Figures>, wake: Arc<Notify>, name: String) -> Self {
        Self { sides, figures, wake, name }
    }

    async fn receive(&self, taken: &Taken) -> Result<(), Trouble> {
        if taken.again {
            self.figures.retaken.fetch_add(1, Ordering::Relaxed);
        }
        let task = match read_domain_task(&self.name, &taken.message) {
            Ok(task) => task,
            Err(reason) => return self.refuse(taken, reason).await,
        };
        // Before the bundle has it: what becomes of it may be told at once, and its message
        // must be found then.
        self.sides.peer.begin(&self.name, &task.peer_id, &taken.message).await?;
        match self.record(task).await {
            Ok(view) => {
                self.figures.taken.fetch_add(1, Ordering::Relaxed);
                self.sides.peer.settle_message(&self.name, &taken.message).await?;
                if view.version > 1 {
                    let write = domain_write(&self.sides, &view).await?;
                    self.sides.peer.write_result(&self.name, &write).await?;
                }
                Ok(())
            }
            Err(error @ HomeError::Retry { .. }) => Err(error.into()),
            Err(error) => self.refuse(taken, error.to_string()).await,
        }
    }

    async fn record(&self, task: DomainTask) -> Result<TaskView, HomeError> {
        let DomainTask { id, peer_id, task } = task;
        if is_ambiguous(&peer_id) {
            // One of a build that kept it under the peer's own id stays that task.
            let known = tasks_of_peer(&*self.sides.home, &[peer_id]).await?.pop().flatten();
            if let Some(known) = known.filter(|known| known.task_id != id) {
                return Ok(known);
            }
        }
        self.sides.home.create(TaskOfPeer { id, task, trace_id: None }).await
    }

    async fn refuse(&self, taken: &Taken, reason: String) -> Result<(), Trouble> {
        reject_message(&self.sides, &self.figures, &self.name, &taken.message, reason).await
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

    async fn step(&mut self) -> Result<Pace, Trouble> {
        let taken = self.sides.peer.take_messages(&self.name, LEASE, PAGE).await?;
        for message in &taken {
            self.receive(message).await?;
        }
        Ok(if taken.is_empty() { Pace::Wait(IDLE) } else { Pace::On })
    }
}

/// How a task of a domain stands, as the domain's clients are shown it.
pub(crate) async fn domain_write(sides: &Sides, task: &TaskView) -> Result<DomainWrite, HomeError> {
    let now = sides.clock.now();
    let view = DomainView::of(task, now);
    let mut logs = Vec::new();
    if view.is_over() {
        let notes = sides.home.notes(&task.task_id).await?;
        logs.extend(notes.into_iter().map(|(at, text)| format!("[{at}] {text}")));
    }
    let line = match (task.status, &task.error) {
        (Status::Pending, _) => "waits for approval".to_owned(),
        (status, Some(error)) if view.is_over() => format!("{status}: {error}"),
        (status, _) => status.to_string(),
    };
    logs.push(format!("[{}] {line}", iso(now)));
    Ok(DomainWrite {
        id: task.peer_id().to_owned(),
        version: task.version,
        done: view.is_over(),
        fields: view.fields,
        logs,
        publish: view.publish,
    })
}

/// A domain's entry in the registry, and its heartbeat.
pub(crate) struct Heart {
    sides: Sides,
    registration: Registration,
    registered: bool,
}

impl Heart {
    pub fn new(sides: Sides, domain: &str, workers: &[&str]) -> Self {
        let metadata = serde_json::json!({ "domain": domain, "workers": workers });
        let registration = Registration {
            id: format!("{domain}-{}", sides.host),
            domain: domain.to_owned(),
            container_id: Some(sides.host.clone()),
            metadata: metadata.to_string(),
            at: iso(sides.clock.now()),
        };
        Self { sides, registration, registered: false }
    }
}

#[async_trait]
impl Direction for Heart {
    fn name(&self) -> &'static str {
        "registry"
    }

    async fn step(&mut self) -> Result<Pace, Trouble> {
        if !self.registered {
            self.sides.peer.register(&self.registration).await?;
            self.registered = true;
        }
        let at = iso(self.sides.clock.now());
        if !self.sides.peer.beat(&self.registration.id, &at, BEAT_LASTS).await? {
            // Redis has forgotten us.
            self.registered = false;
            return Ok(Pace::On);
        }
        Ok(Pace::Wait(BEAT))
    }

    /// Nobody need wait until the heartbeat has run out.
    async fn leave(&mut self) {
        if let Err(error) = self.sides.peer.deregister(&self.registration).await {
            tracing::debug!("not taken out of the registry: {error}");
        }
    }
}
