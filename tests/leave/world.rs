//! Deployments that wait for leave, and everyone who has a hand in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body as HttpBody;
use http::{Request, StatusCode};
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;
use watchbill_api::{ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::decide::{Command, Rules};
use watchbill_core::ports::{
    Clock as _, Commit, Expect, FixedSecret, LaneMessage, Store as _, Write,
};
use watchbill_core::repo::{decode, encode, task_key};
use watchbill_core::service::{Core, Governance, Identity, NewTask, OnFailure, older_log};
use watchbill_domain::{
    Agent, Approval, ApprovalStatus, Body, Caller, LogEntry, Priority, Role, Status, Task, TaskId,
    TaskType, TenantId, Timestamp, What, hash_key,
};
use watchbill_governance::{EnvironmentKind, Freeze, FreezeWhen, GateRules, Policy, Say, ToolRule};
use watchbill_runtime::executor::Executor;
use watchbill_testkit::{FakeClock, FlakyStore, MemoryStore, ReadFault, ScriptedStore, ports_over};
use watchbill_wire::{ApprovalLink, LinkKey};

use super::act::Act;
use super::planted::Break;
use super::provider::{Deployer, Provider};
use super::shelf::{Brisk, Shelf};

const SECRET: &str = "what links are signed with";

pub struct World {
    pub provider: Arc<Provider>,
    pub rules: Arc<Rules>,
    pub store: Arc<MemoryStore>,
    flaky: Arc<FlakyStore>,
    script: Arc<ScriptedStore>,
    pub clock: Arc<FakeClock>,
    shelf: Arc<Shelf>,
    pub core: Core,
    router: Router,
    on_failure: OnFailure,
    pub planted: Option<Break>,
    /// Whether a score may be out of reach for long, though its task is not. Else a read fails as
    /// often as it likes, and says that it may be tried again.
    pub loses_scores: bool,
    made_keys: BTreeMap<&'static str, String>,
    tasks: Mutex<Vec<TaskId>>,
    /// Who asked for which task.
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
        let rules = Rules {
            decide_within: Duration::from_secs(7_200),
            use_within: Duration::from_secs(600),
            approve_own: seed % 4 == 3,
            ..Rules::default()
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
        let state = ApiState::new(core.clone(), config).expect("the configuration is good");
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

    /// Who asked for a task, as people.
    pub fn asked(&self, id: &TaskId) -> BTreeSet<&'static str> {
        self.asked.lock().expect("nobody panics here").get(id).cloned().unwrap_or_default()
    }

    /// True if it was turned away.
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
            Act::Fault(fault) => {
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
                assert!(away, "a forged link was taken");
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

    /// True if it was turned away.
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

    /// As someone with a hand in the table would.
    pub async fn edit(&self, task: &TaskId, change: impl FnOnce(&mut Task)) {
        let key = task_key(&TenantId::default(), task);
        let Ok(Some(item)) = self.store.get(&key).await else { return };
        let mut stored = decode::<Task>(&item).expect("it can be read");
        change(&mut stored.value);
        let mut item = encode(&stored.value, None);
        item.due = stored.due;
        let expect = Expect::Version(stored.version);
        let id = self.core.entropy().write_id();
        let writes = vec![Write::Put { item, expect }];
        let _ = self.store.commit(Commit { id, writes }).await;
    }

    /// What has ended is tried again as another task, once.
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

    /// Looks at every approval that waits. `Some`: whether it was this look that did something.
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
        // What fails comes back by itself, with the next dispatch.
        let _ = executor.handle(&message).await;
    }

    /// The faults are over, the usual policy holds, and time passes: everything that can move
    /// by itself has moved.
    pub async fn settle(&self) {
        self.flaky.answer_rightly();
        self.script.fail_reads(None);
        self.shelf.put(Some(Arc::default()));
        // Longer than a task is held while the policy can't be read.
        if self.planted != Some(Break::Stuck) {
            self.pass(30, Duration::from_secs(70)).await;
        }
        if self.planted == Some(Break::Orphan) {
            self.reopen().await;
        }
    }

    /// What is due is looked at and what is assigned is dispatched, so many times.
    async fn pass(&self, times: usize, apart: Duration) {
        for _ in 0..times {
            self.sweep().await;
            for task in self.tasks() {
                // A backlog would give approvals more time, which the provider knows nothing of.
                let tick = Command::Tick { lane_busy: false };
                let _ = self.core.tasks().command(&TenantId::default(), &task, &tick).await;
                self.dispatch(&task).await;
            }
            self.clock.advance(apart);
        }
    }

    /// Those who may say yes to whatever waits, until nothing waits.
    pub async fn approve_all(&self) {
        for _ in 0..4 {
            for task in self.tasks() {
                for who in ["lee", "kim", "sam"] {
                    self.decide(&task, who, "approve").await;
                }
            }
            self.pass(3, Duration::from_secs(70)).await;
        }
        // Longer than the wait before a next try.
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
            say,
            quorum: 1,
        };
        let policy = match number {
            0 | 9 | 10 => Policy { quorum: 2, ..Policy::default() },
            1 => Policy { tools: vec![rule(Say::Deny, "no deployments")], ..Policy::default() },
            2 => Policy { tools: vec![rule(Say::Ask, "each is asked for")], ..Policy::default() },
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
            // What is asked for without a policy is in no policy: another test looks at that.
            4 if self.on_failure != OnFailure::Allow => return None,
            // The level alone decides.
            7 | 8 => {
                let gates = GateRules::off();
                Policy { gates, tools: vec![rule(Say::Allow, "by level")], ..Policy::default() }
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

    /// What happened to all tasks.
    pub async fn log(&self) -> Vec<LogEntry> {
        let mut all = Vec::new();
        for task in self.tasks() {
            let partition = task_key(&TenantId::default(), &task).partition;
            let items = self.store.collect(&partition, "L#").await.expect("the store answers");
            all.extend(older_log(&items).expect("it can be read"));
            all.extend(self.header(&task).await.log);
        }
        if self.planted == Some(Break::Untold) {
            all.retain(|entry| entry.what != What::Approved);
        }
        all
    }
}

fn key_of(name: &str) -> String {
    format!("the-key-of-{name}-0123456789")
}

/// The payload of `X_2` is larger than what is shown of it.
fn payload(task: &str, project: &str) -> Map<String, Value> {
    let mut payload = json!({ "project": project, "environment": "production" });
    if task == "X_2" {
        payload["notes"] = format!("{}{project}", "word ".repeat(5_000)).into();
    }
    payload.as_object().cloned().expect("it is an object")
}

fn metadata(hint: &str) -> Map<String, Value> {
    let said = (!hint.is_empty()).then(|| ("rule_hint".to_owned(), Value::from(hint)));
    said.into_iter().collect()
}

async fn made_key(core: &Core, by: &str, name: &str) -> String {
    let caller = Caller::new(by, Role::Admin, TenantId::default());
    for _ in 0..8 {
        if let Ok((key, _)) =
            core.keys().create(&caller, &TenantId::default(), name, Role::Approver).await
        {
            return key;
        }
    }
    panic!("the store does not take a key");
}

async fn deployment(core: &Core, id: &str, project: &str) -> TaskId {
    let id = TaskId::parse(id).expect("an id");
    let new = NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Deploy,
        priority: Priority::P2,
        source: "user".to_owned(),
        payload: payload(id.as_str(), project),
        metadata: metadata(""),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: Some(20),
        created_by: "alex".to_owned(),
        also_requested_by: Vec::new(),
        identity: Identity::Given(id),
        hops: 0,
    };
    for _ in 0..8 {
        if let Ok(created) = core.tasks().create(new.clone()).await {
            let task = created.task.task;
            assert_eq!(task.status, Status::Pending, "a deployment waits for leave");
            return task.id;
        }
    }
    panic!("the store does not take a task at {:?}", Timestamp::default());
}
