//! The services of one installation, wired to each other once.

use std::sync::Arc;

use watchbill_governance::{PlainPlanner, Planner};

use super::{
    Approvals, Audit, Authorizer, Budgets, Context, Events, Governance, Keys, Parking, Ports,
    Reputation, Statistics, Tasks, Tenants, Waits,
};
use crate::decide::EngineConfig;
use crate::ports::{Clock, Entropy, Store, Wake};

/// Built by hosts; handlers reach the services through it. Cheap to clone.
#[derive(Clone)]
pub struct Core(Arc<Services>);

struct Services {
    context: Context,
    governance: Governance,
    planner: Arc<dyn Planner>,
    tasks: Tasks,
    approvals: Approvals,
    budgets: Budgets,
    audit: Audit,
    events: Events,
    keys: Keys,
    tenants: Tenants,
    reputation: Reputation,
    authorizer: Authorizer,
    stats: Statistics,
    parking: Parking,
    waits: Waits,
}

impl Core {
    /// `epoch`: the store's current one; leases of earlier epochs are void.
    pub fn new(ports: Ports, rules: Arc<EngineConfig>, epoch: u64) -> Self {
        let context = Context::new(ports, rules, epoch);
        Self::wire(context, Governance::default(), Arc::new(PlainPlanner))
    }

    /// The same, with a planner that knows what agents would do.
    #[must_use]
    pub fn planned_by(self, planner: Arc<dyn Planner>) -> Self {
        Self::wire(self.0.context.clone(), self.0.governance.clone(), planner)
    }

    /// The same, with this policy instead of the built-in one.
    #[must_use]
    pub fn governed_by(self, governance: Governance) -> Self {
        Self::wire(self.0.context.clone(), governance, self.0.planner.clone())
    }

    fn wire(context: Context, governance: Governance, planner: Arc<dyn Planner>) -> Self {
        let keys = Keys::new(context.clone());
        let tenants = Tenants::new(context.clone(), keys.clone());
        let reputation = Reputation::new(context.clone());
        let budgets = Budgets::new(context.clone(), governance.clone());
        let authorizer = Authorizer::new(
            context.clone(),
            governance.clone(),
            planner.clone(),
            reputation.clone(),
        );
        let tasks = Tasks::new(context.clone(), authorizer.clone(), budgets.clone());
        Self(Arc::new(Services {
            approvals: Approvals::new(context.clone(), tasks.clone()),
            audit: Audit::new(context.clone(), governance.clone(), tenants.clone()),
            events: Events::new(context.clone()),
            stats: Statistics::new(context.clone(), tenants.clone()),
            parking: Parking::new(context.clone()),
            waits: Waits::new(context.clone()),
            context,
            governance,
            planner,
            tasks,
            budgets,
            keys,
            tenants,
            reputation,
            authorizer,
        }))
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn governance(&self) -> &Governance {
        &self.0.governance
    }

    pub fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub fn approvals(&self) -> &Approvals {
        &self.0.approvals
    }

    pub fn budgets(&self) -> &Budgets {
        &self.0.budgets
    }

    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    pub fn events(&self) -> &Events {
        &self.0.events
    }

    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }

    pub fn reputation(&self) -> &Reputation {
        &self.0.reputation
    }

    pub fn authorizer(&self) -> &Authorizer {
        &self.0.authorizer
    }

    pub fn stats(&self) -> &Statistics {
        &self.0.stats
    }

    pub fn parking(&self) -> &Parking {
        &self.0.parking
    }

    pub fn waits(&self) -> &Waits {
        &self.0.waits
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        self.0.context.store()
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.0.context.clock()
    }

    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        self.0.context.entropy()
    }

    pub fn wake(&self) -> &Arc<dyn Wake> {
        self.0.context.wake()
    }

    pub fn rules(&self) -> &Arc<EngineConfig> {
        self.0.context.rules()
    }
}
