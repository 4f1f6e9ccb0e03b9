//! Test environment: deployments that require approval, and everyone who acts on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body as HttpBody;
use http::{Request, StatusCode};

use tower::ServiceExt as _;
use watchbill_api::{ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::decide::{Command, EngineConfig};
use watchbill_core::ports::{
    Clock as _, Commit, FixedSecret, LaneMessage, Precondition, Store as _, Write,
};
use watchbill_core::repo::{decode, encode, task_key};
use watchbill_core::service::{Core, Governance, OnFailure, older_log};
use watchbill_domain::{
    Agent, Approval, ApprovalStatus, Body, Caller, ChangeKind, LogEntry, Priority, Role, Task,
    TaskId, TenantId, hash_key,
};
use watchbill_governance::{
    EnvironmentKind, Freeze, FreezeWhen, GateRules, Policy, RuleEffect, ToolRule,
};
use watchbill_runtime::executor::Executor;
use watchbill_testkit::{FakeClock, FlakyStore, MemoryStore, ReadFault, ScriptedStore, ports_over};
use watchbill_wire::{ApprovalLink, LinkKey};

use super::act::Act;
use super::planted::Break;
use super::provider::{Deployer, Provider};
use super::requests::{deployment, key_of, made_key, metadata, payload};
use super::shelf::{Brisk, Shelf};

const SECRET: &str = "what links are signed with";

pub struct World {
    pub provider: Arc<Provider>,
    pub rules: Arc<EngineConfig>,
    pub store: Arc<MemoryStore>,
    flaky: Arc<FlakyStore>,
    script: Arc<ScriptedStore>,
    pub clock: Arc<FakeClock>,
    shelf: Arc<Shelf>,
    pub core: Core,
    router: Router,
    on_failure: OnFailure,
    pub planted: Option<Break>,
    /// Whether reputations may be unreadable for long (`ReadFault::Down`) while the task is
    /// readable. Otherwise reads fail only as `ReadFault::Busy`, which may be retried.
    pub loses_scores: bool,
    made_keys: BTreeMap<&'static str, String>,
    tasks: Mutex<Vec<TaskId>>,
    /// The users who requested each task.
    asked: Mutex<BTreeMap<TaskId, BTreeSet<&'static str>>>,
}

impl World {
    pub async fn new(seed: u64) -> Self {
        Self::with(seed, None).await
    }

    pub async fn with(seed: u64, planted: Option<Break>) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::at(FakeClock::default().now()));
        let shelf = Arc::new(Shelf::default());
        let script = Arc::new(ScriptedStore::new(store.clone()));
        let flaky = Arc::new(FlakyStore::new(script.clone(), seed, 5));
        let ports = ports_over(flaky.clone(), Arc::new(Brisk(clock.clone())), seed);
        let rules = EngineConfig {
            decide_within: Duration::from_secs(7_200),
            use_within: Duration::from_secs(600),
            approve_own: seed % 4 == 3,
            ..EngineConfig::default()
        };
        let rules = Arc::new(rules);
        let on_failure = match seed % 3 {
            0 => OnFailure::Restrict,
            1 => OnFailure::Deny,
            _ => OnFailure::Allow,
        };
        let governance = Governance::new(shelf.clone(), on_failure);
        let core = Core::new(ports, rules.clone(), 1)
            .planned_by(Arc::new(watchbill_catalog::planner()))
            .governed_by(governance);
        let key = |name: &str, role, tenant: &str| StaticKey {
            name: name.to_owned(),
            key_hash: hash_key(&key_of(name)),
            role,
            tenant: TenantId::parse(tenant).expect("a tenant"),
        };
        let config = ApiConfig {
            static_keys: vec![
                key("alex", Role::Admin, "default"),
                key("kim", Role::Approver, "default"),
                key("sam", Role::Admin, "default"),
                key("lee", Role::Approver, "default"),
                key("bot", Role::Agent, "default"),
                key("joe", Role::User, "default"),
                key("eve", Role::Admin, "acme"),
            ],
            link_secret: Some(Arc::new(FixedSecret(SECRET.into()))),
            rate_limits: RateLimits::parse("off").expect("a word of the settings"),
            ..ApiConfig::default()
        };
        let state = ApiState::new(core.clone(), config).expect("the configuration is valid");
        let router = watchbill_api::router(state);
        let mut made_keys = BTreeMap::new();
        for (by, name) in [("kim", "deputy"), ("alex", "helper")] {
            made_keys.insert(name, made_key(&core, by, name).await);
        }
        let tasks =
            vec![deployment(&core, "X", "shop").await, deployment(&core, "X_2", "bank").await];
        let asked = tasks.iter().map(|id| (id.clone(), BTreeSet::from(["alex"]))).collect();
        let provider = Arc::new(Provider::new(store.clone(), clock.clone(), shelf.clone()));
        let (tasks, asked) = (Mutex::new(tasks), Mutex::new(asked));
        Self {
            provider,
            rules,
            store,
            flaky,
            script,
            clock,
            shelf,
            core,
            router,
            on_failure,
            planted,
            loses_scores: seed % 2 == 1,
            made_keys,
            tasks,
            asked,
        }
    }

    pub fn tasks(&self) -> Vec<TaskId> {
        self.tasks.lock().expect("nobody panics here").clone()
    }

    /// The people who requested a task.
    pub fn asked(&self, id: &TaskId) -> BTreeSet<&'static str> {
        self.asked.lock().expect("nobody panics here").get(id).cloned().unwrap_or_default()
    }

    /// Returns true if the action was refused.
    pub async fn act(&self, act: Act, pause: u64) -> bool {
        for _ in 0..pause {
            tokio::task::yield_now().await;
        }
        let tasks = self.tasks();
        let task = &tasks[pause as usize % tasks.len()];
        match act {
            Act::Approve(who) => self.decide(task, who, "approve").await,
            Act::DoubleClick(who) => {
                let clicks = (self.decide(task, who, "approve"), self.decide(task, who, "approve"));
                let (one, other) = futures_util::future::join(clicks.0, clicks.1).await;
                assert!(one || other, "both clicks of {who} were counted");
                one && other
            }
            Act::Reject => self.decide(task, "kim", "reject").await,
            Act::Cancel => {
                let caller = Caller::new("sam", Role::Admin, TenantId::default());
                self.core.tasks().cancel(&caller, task, None).await.is_err()
            }
            Act::Retry(who) => {
                self.retry(who, task).await;
                false
            }
            Act::ApiError(fault) => {
                let fault = fault.map(|fault| match self.loses_scores {
                    true => fault,
                    false => ReadFault::Busy,
                });
                self.script.fail_reads(fault.map(|fault| ("#led#", fault)));
                false
            }
            Act::Link(number) => self.link(task, number, SECRET).await,
            Act::ForgedLink => {
                let away = self.link(task, 9, "what others sign links with").await;
                assert!(away, "a forged link was accepted");
                away
            }
            Act::Sweep => {
                let due = self.sweep().await;
                due == Some(false)
            }
            Act::Edit(project) => {
                self.edit(task, |header| {
                    header.payload = Body::In(payload(task.as_str(), project))
                })
                .await;
                false
            }
            Act::EditHint(hint) => {
                self.edit(task, |header| header.metadata = metadata(hint)).await;
                false
            }
            Act::Policy(number) => {
                self.shelf.put(self.policy(number));
                false
            }
            Act::Dispatch => {
                self.dispatch(task).await;
                false
            }
            Act::Die => {
                let some = 1 + pause;
                let mut dispatch = Box::pin(self.dispatch(task));
                for _ in 0..some {
                    if futures_util::poll!(&mut dispatch).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                false
            }
            Act::Wait(number) => {
                let seconds = [1, 30, 90, 590, 3_600, 7_200][number as usize];
                self.clock.advance(Duration::from_secs(seconds));
                false
            }
        }
    }

    /// Returns true if the decision was refused.
    async fn decide(&self, task: &TaskId, who: &str, how: &str) -> bool {
        let Some(approval) = self.newest_approval(task) else { return true };
        let key = self.made_keys.get(who).cloned().unwrap_or_else(|| key_of(who));
        let request = Request::post(format!("/approvals/{}/{how}", approval.id))
            .header("x-api-key", key)
            .body(HttpBody::empty())
            .expect("a request");
        let status = self.router.clone().oneshot(request).await.expect("it answers").status();
        match who {
            "eve" => assert_eq!(status, StatusCode::NOT_FOUND, "another tenant's admin"),
            "bot" | "joe" => assert!(!status.is_success(), "{who} may not approve"),
            "alex" | "helper" if !self.rules.approve_own => {
                assert!(!status.is_success(), "{who} may not approve what alex asked for");
            }
            _ => {}
        }
        !status.is_success()
    }

    async fn link(&self, task: &TaskId, number: u64, secret: &str) -> bool {
        let Some(approval) = self.newest_approval(task) else { return true };
        let link = ApprovalLink {
            tenant: TenantId::default(),
            approval: approval.id,
            plan_hash: approval.plan_hash,
            to: "on-call".to_owned(),
            nonce: format!("{number:032x}"),
            expires: approval.requested_at.plus(Duration::from_secs(3_000)),
        };
        let token = LinkKey::new(secret.as_bytes()).expect("it is long enough").sign(&link);
        let form = |fields: String| {
            Request::post("/links")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(HttpBody::from(fields))
                .expect("a request")
        };
        let look = self.router.clone().oneshot(form(format!("token={token}"))).await;
        let click = form(format!("token={token}&decision=approve"));
        let click = self.router.clone().oneshot(click).await.expect("it answers").status();
        let looked = look.expect("it answers").status();
        assert!(looked.is_success() || !click.is_success(), "looked {looked}, clicked {click}");
        !click.is_success()
    }

    /// Edits the task as someone with direct access to the table would.
    pub async fn edit(&self, task: &TaskId, change: impl FnOnce(&mut Task)) {
        let key = task_key(&TenantId::default(), task);
        let Ok(Some(item)) = self.store.get(&key).await else { return };
        let mut stored = decode::<Task>(&item).expect("it can be read");
        change(&mut stored.value);
        let mut item = encode(&stored.value, None);
        item.due = stored.due;
        let expect = Precondition::Version(stored.version);
        let id = self.core.entropy().write_id();
        let writes = vec![Write::Put { item, expect }];
        let _ = self.store.commit(Commit { id, writes }).await;
    }

    /// A finished task is retried as another task, once.
    async fn retry(&self, who: &'static str, task: &TaskId) {
        let caller = Caller::new(who, Role::Admin, TenantId::default());
        let Ok(again) = self.core.tasks().retry(&caller, task).await else { return };
        let id = again.task.id;
        let mut tasks = self.tasks.lock().expect("nobody panics here");
        if !tasks.contains(&id) {
            let mut asked = self.asked(task);
            asked.insert(who);
            self.asked.lock().expect("nobody panics here").insert(id.clone(), asked);
            tasks.push(id);
        }
    }

    /// Sweeps every pending approval. `Some` tells whether this sweep changed anything.
    async fn sweep(&self) -> Option<bool> {
        let mut did = None;
        for open in self.approvals().iter().filter(|a| a.status == ApprovalStatus::Pending) {
            let due =
                self.core.approvals().escalate_or_expire(&TenantId::default(), &open.id).await;
            did = Some(did.unwrap_or(false) | due.unwrap_or(false));
        }
        did
    }

    async fn dispatch(&self, task: &TaskId) {
        let Some(stored) =
            self.core.tasks().stored(&TenantId::default(), task).await.ok().flatten()
        else {
            return;
        };
        self.plant(task, &stored.value).await;
        let message = LaneMessage {
            task_id: task.clone(),
            tenant: TenantId::default(),
            agent: Agent::Ops,
            priority: Priority::P2,
            assignment: stored.value.assignment,
            trace_id: stored.value.trace_id,
        };
        let deployer = Arc::new(Deployer(self.provider.clone(), self.planted));
        let executor = Executor::new(self.core.clone(), deployer, "one");
        // A failed task is retried by the next dispatch.
        let _ = executor.handle(&message).await;
    }

    /// Ends the faults, restores the default policy and waits until all work settles.
    pub async fn settle(&self) {
        self.flaky.answer_rightly();
        self.script.fail_reads(None);
        self.shelf.put(Some(Arc::default()));
        // Longer than a task is deferred while the policy can't be read.
        if self.planted != Some(Break::Stuck) {
            self.pass(30, Duration::from_secs(70)).await;
        }
        if self.planted == Some(Break::Orphan) {
            self.reopen().await;
        }
    }

    /// Sweeps due items and dispatches assigned tasks, `times` times.
    async fn pass(&self, times: usize, apart: Duration) {
        for _ in 0..times {
            self.sweep().await;
            for task in self.tasks() {
                // A backlog would extend approvals, which the provider does not model.
                let tick = Command::Tick { lane_busy: false };
                let _ = self.core.tasks().command(&TenantId::default(), &task, &tick).await;
                self.dispatch(&task).await;
            }
            self.clock.advance(apart);
        }
    }

    /// The approvers approve every pending approval until none is left.
    pub async fn approve_all(&self) {
        for _ in 0..4 {
            for task in self.tasks() {
                for who in ["lee", "kim", "sam"] {
                    self.decide(&task, who, "approve").await;
                }
            }
            self.pass(3, Duration::from_secs(70)).await;
        }
        // Longer than the backoff before a retry.
        self.pass(6, Duration::from_secs(70)).await;
    }

    pub async fn header(&self, task: &TaskId) -> Task {
        let stored = self.core.tasks().stored(&TenantId::default(), task).await;
        stored.expect("the store answers").expect("it is there").value
    }

    fn policy(&self, number: u64) -> Option<Arc<Policy>> {
        let rule = |say, name: &str| ToolRule {
            name: name.to_owned(),
            reason: name.to_owned(),
            agents: [].into(),
            tools: ["deploy".to_owned()].into(),
            environments: [].into(),
            when: None,
            effect: say,
            quorum: 1,
        };
        let policy = match number {
            0 | 9 | 10 => Policy { quorum: 2, ..Policy::default() },
            1 => Policy {
                tools: vec![rule(RuleEffect::Deny, "no deployments")],
                ..Policy::default()
            },
            2 => Policy {
                tools: vec![rule(RuleEffect::Ask, "each is asked for")],
                ..Policy::default()
            },
            3 => {
                let now = self.clock.now();
                let freeze = Freeze {
                    name: "release".to_owned(),
                    reason: "a release".to_owned(),
                    environments: [EnvironmentKind::Production].into(),
                    when: FreezeWhen::Once { from: now, until: now.plus(Duration::from_secs(60)) },
                    override_roles: [].into(),
                    override_names: [].into(),
                };
                Policy { freezes: vec![freeze], ..Policy::default() }
            }
            // An approval required without a policy is in no policy; another test covers it.
            4 if self.on_failure != OnFailure::Allow => return None,
            // The trust level alone decides.
            7 | 8 => {
                let gates = GateRules::off();
                Policy {
                    gates,
                    tools: vec![rule(RuleEffect::Allow, "by level")],
                    ..Policy::default()
                }
            }
            _ => Policy::default(),
        };
        Some(Arc::new(policy))
    }

    pub fn approvals(&self) -> Vec<Approval> {
        let items = self.store.items();
        let approvals = items.iter().filter(|item| &*item.kind == "approval");
        approvals.map(|item| decode(item).expect("it can be read").value).collect()
    }

    pub fn newest_approval(&self, task: &TaskId) -> Option<Approval> {
        let all = self.approvals().into_iter().filter(|approval| approval.task_id == *task);
        all.max_by_key(|approval| (approval.requested_at, approval.id.clone()))
    }

    /// The log entries of all tasks.
    pub async fn log(&self) -> Vec<LogEntry> {
        let mut all = Vec::new();
        for task in self.tasks() {
            let partition = task_key(&TenantId::default(), &task).partition;
            let items = self.store.collect(&partition, "L#").await.expect("the store answers");
            all.extend(older_log(&items).expect("it can be read"));
            all.extend(self.header(&task).await.log);
        }
        if self.planted == Some(Break::Unlogged) {
            all.retain(|entry| entry.what != ChangeKind::Approved);
        }
        all
    }
}
