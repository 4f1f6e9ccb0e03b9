//! Decides which legacy tasks are imported: those of agents that run here.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::OnceCell;
use watchbill_domain::Agent;
use watchbill_wire::legacy::{Addressee, Assignee};

use crate::backend::{Backend, BackendError};
use crate::settings::Drain as Whose;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct ImportFilter {
    backend: Arc<dyn Backend>,
    whose: Option<Whose>,
    /// Cached after the first query of the backend.
    agents: Arc<OnceCell<BTreeSet<Agent>>>,
}

impl ImportFilter {
    pub fn new(backend: Arc<dyn Backend>, whose: Option<Whose>) -> Self {
        Self { backend, whose, agents: Arc::default() }
    }

    /// Whether new tasks are taken at all.
    pub fn takes_any(&self) -> bool {
        !matches!(self.whose, None | Some(Whose::Finish))
    }

    /// Whether a task is imported: its agent, if named, and the agent that it is routed to here
    /// must both run here. A task with neither an agent nor a known type is another's.
    pub async fn is_taken(&self, to: &Addressee) -> Result<bool, BackendError> {
        let agents = self.agents().await?;
        let routed = to.task_type.map(|task_type| self.backend.route(task_type, to.has_repo));
        let works = |agent: &Agent| agents.contains(agent);
        Ok(match to.assignee {
            Assignee::Other => false,
            Assignee::Known(agent) => works(&agent) && routed.as_ref().is_none_or(works),
            Assignee::Nobody => routed.as_ref().is_some_and(works),
        })
    }

    async fn agents(&self) -> Result<&BTreeSet<Agent>, BackendError> {
        let asked = self.agents.get_or_try_init(|| async {
            Ok(match &self.whose {
                Some(Whose::Built) => self.backend.built().await?.into_iter().collect(),
                Some(Whose::Agents(agents)) => agents.clone(),
                Some(Whose::Finish) | None => BTreeSet::new(),
            })
        });
        asked.await
    }
}
