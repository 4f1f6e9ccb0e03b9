//! Domains: tasks out of a domain's list into the bundle, and the domain's entry in the
//! network's registry. What becomes of the tasks `out` tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_domain::Status;
use watchbill_wire::TaskView;
use watchbill_wire::peer::{DomainAgent, DomainMessage, DomainResult, DomainTask};

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

    async fn receive(&self, taken: DomainMessage) -> Result<(), Trouble> {
        let DomainMessage { message, again, task } = taken;
        if again {
            self.figures.retaken.fetch_add(1, Ordering::Relaxed);
        }
        let task = match task {
            Ok(task) => task,
            Err(reason) => return self.refuse(&message, reason).await,
        };
        // Before the bundle has it: what becomes of it may be told at once, and its message
        // must be found then.
        self.sides.peer.begin(&self.name, &task.peer_id, &message).await?;
        match self.record(task).await {
            Ok(view) => {
                self.figures.taken.fetch_add(1, Ordering::Relaxed);
                self.sides.peer.settle_message(&self.name, &message).await?;
                if view.version > 1 {
                    let result = domain_result(&self.sides, &view).await?;
                    self.sides.peer.write_result(&self.name, &result).await?;
                }
                Ok(())
            }
            Err(error @ HomeError::Retry { .. }) => Err(error.into()),
            Err(error) => self.refuse(&message, error.to_string()).await,
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

    async fn refuse(&self, message: &[u8], reason: String) -> Result<(), Trouble> {
        reject_message(&self.sides, &self.figures, &self.name, message, reason).await
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
        let pace = if taken.is_empty() { Pace::Wait(IDLE) } else { Pace::On };
        for message in taken {
            self.receive(message).await?;
        }
        Ok(pace)
    }
}

/// How a task of a domain stands, as the domain's clients are shown it.
pub(crate) async fn domain_result<'a>(
    sides: &Sides,
    task: &'a TaskView,
) -> Result<DomainResult<'a>, HomeError> {
    let at = sides.clock.now();
    let is_over = DomainResult::is_over(task.status);
    let notes = match is_over {
        true => sides.home.notes(&task.task_id).await?,
        false => Vec::new(),
    };
    let line = match (task.status, &task.error) {
        (Status::Pending, _) => "waits for approval".to_owned(),
        (status, Some(error)) if is_over => format!("{status}: {error}"),
        (status, _) => status.to_string(),
    };
    Ok(DomainResult { task, notes, line, at })
}

/// A domain's entry in the registry, and its heartbeat.
pub(crate) struct Heart {
    sides: Sides,
    agent: DomainAgent,
    registered: bool,
}

impl Heart {
    pub fn new(sides: Sides, domain: &str, workers: &[&str]) -> Self {
        let agent = DomainAgent {
            id: format!("{domain}-{}", sides.host),
            domain: domain.to_owned(),
            container_id: Some(sides.host.clone()),
            workers: workers.iter().map(|&worker| worker.to_owned()).collect(),
            at: sides.clock.now(),
        };
        Self { sides, agent, registered: false }
    }
}

#[async_trait]
impl Direction for Heart {
    fn name(&self) -> &'static str {
        "registry"
    }

    async fn step(&mut self) -> Result<Pace, Trouble> {
        if !self.registered {
            self.sides.peer.register(&self.agent).await?;
            self.registered = true;
        }
        let at = self.sides.clock.now();
        if !self.sides.peer.beat(&self.agent.id, at, BEAT_LASTS).await? {
            // Redis has forgotten us.
            self.registered = false;
            return Ok(Pace::On);
        }
        Ok(Pace::Wait(BEAT))
    }

    /// Nobody need wait until the heartbeat has run out.
    async fn leave(&mut self) {
        if let Err(error) = self.sides.peer.deregister(&self.agent).await {
            tracing::debug!("not taken out of the registry: {error}");
        }
    }
}
