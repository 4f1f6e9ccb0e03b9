//! Whose tasks are drained: those of agents that work here, and of nobody else.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::OnceCell;
use watchbill_domain::Agent;
use watchbill_wire::peer::{Addressee, Assignee};

use crate::home::{Home, HomeError};
use crate::settings::Drain as Whose;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Mine {
    home: Arc<dyn Home>,
    whose: Option<Whose>,
    /// Known once the bundle was asked.
    agents: Arc<OnceCell<BTreeSet<Agent>>>,
}

impl Mine {
    pub fn new(home: Arc<dyn Home>, whose: Option<Whose>) -> Self {
        Self { home, whose, agents: Arc::default() }
    }

    /// Whether new tasks are taken at all.
    pub fn takes_any(&self) -> bool {
        !matches!(self.whose, None | Some(Whose::Finish))
    }

    /// Whether a task is taken over: its agent, if it says one, and the agent that it goes to
    /// here both work here. One that says neither an agent nor a type that is known here is
    /// someone else's.
    pub async fn is_taken(&self, to: &Addressee) -> Result<bool, HomeError> {
        let agents = self.agents().await?;
        let routed = to.task_type.map(|task_type| self.home.route(task_type, to.has_repo));
        let works = |agent: &Agent| agents.contains(agent);
        Ok(match to.assignee {
            Assignee::Other => false,
            Assignee::Known(agent) => works(&agent) && routed.as_ref().is_none_or(works),
            Assignee::Nobody => routed.as_ref().is_some_and(works),
        })
    }

    async fn agents(&self) -> Result<&BTreeSet<Agent>, HomeError> {
        let asked = self.agents.get_or_try_init(|| async {
            Ok(match &self.whose {
                Some(Whose::Built) => self.home.built().await?.into_iter().collect(),
                Some(Whose::Agents(agents)) => agents.clone(),
                Some(Whose::Finish) | None => BTreeSet::new(),
            })
        });
        asked.await
    }
}
