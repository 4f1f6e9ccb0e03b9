//! The external provider: records for each effect what was true when the effect was authorized.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_core::ports::Clock as _;
use watchbill_core::repo::decode;
use watchbill_domain::{
    Agent, Approval, ApprovalStatus, ChangeKind, LogEntry, Task, TaskId, TaskType, Timestamp,
    ToolCall,
};
use watchbill_governance::{Planner as _, Policy, PolicyDecision, PolicyInput, approval_document};
use watchbill_runtime::journal::{Attempt, Effect, EffectOutcome, Lookup};
use watchbill_runtime::run::{Retry, Run, RunOutcome, TaskAgent};
use watchbill_testkit::{FakeClock, MemoryStore};

use super::planted::Break;
use super::shelf::Shelf;

/// The state of the store when an effect was sent.
struct Witness {
    project: String,
    /// As its run claimed it.
    task: Task,
    payload: Map<String, Value>,
    /// When authorization was requested.
    at: Timestamp,
    approvals: Vec<Approval>,
    /// Intervals in which the task was deferred, with its time in the lane afterwards.
    held: Vec<(Timestamp, Timestamp)>,
    /// The policies that were handed out from then until the effect was sent.
    policies: Vec<Arc<Policy>>,
}

pub struct Provider {
    store: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    shelf: Arc<Shelf>,
    witnesses: Mutex<Vec<Witness>>,
    /// The payloads of tasks at their first dispatch.
    first: Mutex<BTreeMap<TaskId, Map<String, Value>>>,
}

impl Provider {
    pub fn new(store: Arc<MemoryStore>, clock: Arc<FakeClock>, shelf: Arc<Shelf>) -> Self {
        Self { store, clock, shelf, witnesses: Mutex::default(), first: Mutex::default() }
    }

    pub fn first_payload(&self, id: &TaskId, payload: Map<String, Value>) -> Map<String, Value> {
        let mut first = self.first.lock().expect("nobody panics here");
        first.entry(id.clone()).or_insert(payload).clone()
    }

    /// Deploys without authorization, as a planted fault.
    pub async fn deploy_unauthorized(self: Arc<Self>, task: Task, payload: Map<String, Value>) {
        let deployment = Deployment { provider: self, task, payload, begun: Mutex::default() };
        deployment.call();
        deployment.attempt().await;
    }

    pub fn made(&self) -> usize {
        self.witnesses.lock().expect("nobody panics here").len()
    }

    pub fn made_for(&self, task: &TaskId) -> usize {
        let witnesses = self.witnesses.lock().expect("nobody panics here");
        witnesses.iter().filter(|witness| witness.task.id == *task).count()
    }

    pub fn assert_all_were_authorized(&self, seed: u64) {
        for witness in self.witnesses.lock().expect("nobody panics here").iter() {
            let had = witness.policies.iter().any(|policy| was_authorized(witness, policy));
            assert!(
                had,
                "seed {seed}: {} was deployed at {} without authorization; \
                 the approvals then: {:#?}",
                witness.project, witness.at, witness.approvals
            );
        }
    }
}

/// Derived from the contract alone: an approval that is approved, matches the plan, has not
/// expired and has enough votes, and a policy that does not deny the call.
fn was_authorized(witness: &Witness, policy: &Policy) -> bool {
    let (payload, task_type) = (&witness.payload, TaskType::Deploy);
    let planned = watchbill_catalog::planner().plan(Agent::Ops, task_type, payload);
    let plan = &planned.document;
    let subject = PolicyInput {
        task_type,
        priority: witness.task.priority,
        agent: Agent::Ops,
        source: &witness.task.source,
        created_by: &witness.task.created_by,
        payload,
        metadata: &witness.task.metadata,
        gate_type: task_type,
        mutates: true,
    };
    let Some(call) = planned.call() else { return false };
    let mut quorum = policy.gates(&subject).iter().map(|ask| ask.quorum).max().unwrap_or(1);
    match policy.decide(&subject, call) {
        PolicyDecision::Allow => {}
        PolicyDecision::ApprovalRequired(asks) => {
            quorum = asks.iter().map(|a| a.quorum).fold(quorum, u8::max)
        }
        PolicyDecision::Deny { .. } | PolicyDecision::Violation { .. } => return false,
    }
    if !policy.frozen(call, &witness.task.metadata, witness.at).is_empty() {
        return false;
    }
    witness.approvals.iter().any(|approval| {
        approval.status == ApprovalStatus::Approved
            && approval.task_id == witness.task.id
            && approval.plan_hash
                == approval_document(&witness.task, payload, plan, &approval.salt).hash
            && approval.use_by.is_some_and(|until| witness.at < with_wait(witness, approval, until))
            && approval.votes.len() >= usize::from(quorum)
    })
}

/// The time for which the task was deferred since the approval does not count, up to a day after
/// the approval. No lane has a backlog in these scenarios, so no other wait is excused.
fn with_wait(witness: &Witness, approval: &Approval, use_by: Timestamp) -> Timestamp {
    let given = approval.decision.as_ref().map_or(use_by, |decision| decision.at);
    let waits = witness.held.iter().map(|(from, to)| to.since((*from).max(given)));
    let day = Duration::from_secs(24 * 60 * 60);
    use_by.plus(waits.sum()).min(given.plus(day))
}

/// Deploys the project of its payload as one effect.
pub struct Deployer(pub Arc<Provider>, pub Option<Break>);

#[async_trait]
impl TaskAgent for Deployer {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        let journal = run.journal.as_ref().expect("the executor gives a journal");
        let mut payload = (*run.payload).clone();
        if self.1 == Some(Break::Outdated) {
            payload = self.0.first_payload(&run.task.id, payload);
        }
        let effect = Deployment {
            provider: self.0.clone(),
            task: run.task.clone(),
            payload,
            begun: Mutex::default(),
        };
        if self.1 == Some(Break::Twice) {
            effect.call();
            effect.attempt().await;
        }
        match journal.execute(&effect).await {
            Ok(EffectOutcome::Done(result)) => RunOutcome::Done { result, events: Vec::new() },
            Ok(EffectOutcome::NotAuthorized(withheld)) => RunOutcome::NotAuthorized(withheld),
            Ok(EffectOutcome::Unsettled { after, error }) => {
                RunOutcome::Suspended { resume_at: run.clock.now().plus(after), note: error }
            }
            Ok(other) => RunOutcome::retryable(format!("{other:?}")),
            Err(error) => RunOutcome::Failed {
                error: error.to_string(),
                retry: Retry::Yes { after: None },
                events: Vec::new(),
            },
        }
    }
}

struct Deployment {
    provider: Arc<Provider>,
    task: Task,
    payload: Map<String, Value>,
    /// When authorization was requested, and how many policies had been handed out by then.
    begun: Mutex<(Timestamp, usize)>,
}

impl Deployment {
    fn project(&self) -> String {
        self.payload["project"].as_str().expect("it names a project").to_owned()
    }
}

#[async_trait]
impl Effect for Deployment {
    fn key(&self) -> String {
        "deploy".to_owned()
    }

    fn what(&self) -> String {
        "create deployment".to_owned()
    }

    fn target(&self) -> String {
        self.project()
    }

    fn provider_key(&self) -> String {
        self.project()
    }

    fn time_out(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn call(&self) -> ToolCall {
        let now = (self.provider.clock.now(), self.provider.shelf.handed());
        *self.begun.lock().expect("nobody panics here") = now;
        let planned =
            watchbill_catalog::planner().plan(Agent::Ops, TaskType::Deploy, &self.payload);
        planned.call().cloned().expect("a deployment that names its project can be planned")
    }

    async fn attempt(&self) -> Attempt {
        let (at, from) = *self.begun.lock().expect("nobody panics here");
        let items = self.provider.store.items();
        let approvals = items.iter().filter(|item| &*item.kind == "approval");
        let approvals =
            approvals.map(|item| decode::<Approval>(item).expect("it can be read").value);
        let tasks = items.iter().filter(|item| &*item.kind == "task");
        let task = tasks
            .map(|item| decode::<Task>(item).expect("it can be read").value)
            .find(|task| task.id == self.task.id);
        let log = task.map(|task| task.log).unwrap_or_default();
        // A deferred task logs nothing until it is claimed, requires approval or ends.
        let held = |entry: &LogEntry| entry.what == ChangeKind::Held;
        let ends = log.windows(2).filter(|pair| held(&pair[0]));
        let held = ends.map(|pair| (pair[0].at, pair[1].at)).collect();
        let witness = Witness {
            held,
            project: self.project(),
            task: self.task.clone(),
            payload: self.payload.clone(),
            at,
            approvals: approvals.collect(),
            policies: self.provider.shelf.handed_from(from),
        };
        self.provider.witnesses.lock().expect("nobody panics here").push(witness);
        let mut result = Map::new();
        result.insert("project".into(), Value::from(self.project()));
        Attempt::Done(result)
    }

    async fn look_up(&self) -> Lookup {
        let made = self.provider.witnesses.lock().expect("nobody panics here");
        match made.iter().find(|made| made.task.id == self.task.id) {
            Some(made) => {
                let mut result = Map::new();
                result.insert("project".into(), Value::from(made.project.as_str()));
                Lookup::Happened(result)
            }
            None => Lookup::Absent,
        }
    }

    async fn undo(&self, _result: &Map<String, Value>) {}
}
