//! One deployment that waits for leave, and everyone who has a hand in it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body as HttpBody;
use http::{Request, StatusCode};
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;
use watchbill_agent::executor::Executor;
use watchbill_agent::planner::PlaybookPlanner;
use watchbill_api::{ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::decide::Rules;
use watchbill_core::domain::{
    Agent, Approval, ApprovalStatus, Body, LogEntry, Priority, Role, Status, Task, TaskId,
    TaskType, TenantId, Timestamp, hash_key,
};
use watchbill_core::govern::{
    EnvironmentKind, Freeze, FreezeWhen, Policies, Policy, PolicyUnavailable, Say, ToolRule,
};
use watchbill_core::ports::{
    Clock, Commit, Entropy as _, Expect, FixedSecret, LaneMessage, Store as _, Write,
};
use watchbill_core::repo::{decode, encode, task_key};
use watchbill_core::service::{Core, Governance, Identity, NewTask, OnFailure, Ports, older_log};
use watchbill_testkit::{
    FakeClock, FlakyStore, MemoryBlobs, MemoryStore, MemoryWake, SeededEntropy,
};
use watchbill_wire::{ApprovalLink, LinkKey};

use super::provider::{Deployer, Provider};

const SECRET: &str = "what links are signed with";

/// Something that someone does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    Approve(&'static str),
    /// Twice at the same moment.
    DoubleClick(&'static str),
    Reject,
    /// By a link of this number: few numbers, so that links are used again.
    Link(u64),
    /// By a link that is not one.
    ForgedLink,
    /// The sweeper looks at what is due.
    Sweep,
    /// Someone changes what stands in the table.
    Edit(&'static str),
    Policy(u64),
    Dispatch,
    /// A process claims the task and dies.
    Die,
    Wait(u64),
}

impl Act {
    pub fn random(dice: &SeededEntropy) -> Self {
        match dice.next_u64() % 32 {
            0..=4 => Act::Approve(["kim", "sam", "kim", "alex", "bot", "joe", "eve"][n(dice, 7)]),
            5 | 6 => Act::DoubleClick(["kim", "sam"][n(dice, 2)]),
            7 => Act::Reject,
            8..=10 => Act::Link(dice.next_u64() % 3),
            11 => Act::ForgedLink,
            12..=14 => Act::Sweep,
            15 | 16 => Act::Edit(["shop", "bank"][n(dice, 2)]),
            17..=19 => Act::Policy(dice.next_u64() % 7),
            20..=25 => Act::Dispatch,
            26 | 27 => Act::Die,
            _ => Act::Wait(dice.next_u64() % 6),
        }
    }
}

fn n(dice: &SeededEntropy, of: u64) -> usize {
    (dice.next_u64() % of) as usize
}

/// Waits of a moment are over at once; longer ones last until the story moves the clock.
struct Brisk(Arc<FakeClock>);

#[async_trait]
impl Clock for Brisk {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, span: Duration) {
        match span < Duration::from_secs(5) {
            true => tokio::task::yield_now().await,
            false => self.0.sleep(span).await,
        }
    }
}

/// The policy in force, and all that were ever handed out.
pub struct Shelf {
    now: Mutex<Option<Arc<Policy>>>,
    handed: Mutex<Vec<Arc<Policy>>>,
}

impl Shelf {
    pub fn handed(&self) -> usize {
        self.handed.lock().expect("nobody panics here").len()
    }

    pub fn handed_from(&self, place: usize) -> Vec<Arc<Policy>> {
        self.handed.lock().expect("nobody panics here")[place..].to_vec()
    }
}

#[async_trait]
impl Policies for Shelf {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        let now = self.now.lock().expect("nobody panics here").clone();
        let now = now.ok_or_else(|| PolicyUnavailable("the file is gone".to_owned()))?;
        self.handed.lock().expect("nobody panics here").push(now.clone());
        Ok(now)
    }
}

pub struct World {
    pub provider: Arc<Provider>,
    store: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    shelf: Arc<Shelf>,
    core: Core,
    router: Router,
    task: TaskId,
}

impl World {
    pub async fn new(seed: u64) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::at(FakeClock::default().now()));
        let handed = Mutex::default();
        let shelf = Shelf { now: Mutex::new(Some(Arc::default())), handed };
        let shelf = Arc::new(shelf);
        let ports = Ports {
            store: Arc::new(FlakyStore::new(store.clone(), seed, 5)),
            blobs: Arc::new(MemoryBlobs::new()),
            clock: Arc::new(Brisk(clock.clone())),
            entropy: Arc::new(SeededEntropy::new(seed)),
            wake: Arc::new(MemoryWake::new()),
        };
        let rules = Rules {
            decide_within: Duration::from_secs(7_200),
            use_within: Duration::from_secs(600),
            ..Rules::default()
        };
        let governance = Governance::new(shelf.clone(), OnFailure::Restrict);
        let core = Core::new(ports, Arc::new(rules), 1)
            .planned_by(Arc::new(PlaybookPlanner))
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
        let task = deployment(&core).await;
        let provider = Provider::new(store.clone(), clock.clone(), shelf.clone());
        Self { provider: Arc::new(provider), store, clock, shelf, core, router, task }
    }

    /// True if it was turned away.
    pub async fn act(&self, act: Act, pause: u64) -> bool {
        for _ in 0..pause {
            tokio::task::yield_now().await;
        }
        match act {
            Act::Approve(who) => self.decide(who, "approve").await,
            Act::DoubleClick(who) => {
                let clicks = (self.decide(who, "approve"), self.decide(who, "approve"));
                let (one, other) = futures_util::future::join(clicks.0, clicks.1).await;
                assert!(one || other, "both clicks of {who} were counted");
                one && other
            }
            Act::Reject => self.decide("kim", "reject").await,
            Act::Link(number) => self.link(number, SECRET).await,
            Act::ForgedLink => {
                let away = self.link(9, "what others sign links with").await;
                assert!(away, "a forged link was taken");
                away
            }
            Act::Sweep => {
                if let Some(open) = self.open_approval() {
                    let due = self.core.approval_due(&TenantId::default(), &open.id).await;
                    return !due.unwrap_or(false);
                }
                false
            }
            Act::Edit(project) => {
                self.edit(project).await;
                false
            }
            Act::Policy(number) => {
                *self.shelf.now.lock().expect("nobody panics here") = self.policy(number);
                false
            }
            Act::Dispatch => {
                self.dispatch().await;
                false
            }
            Act::Die => {
                let some = 1 + pause;
                let mut dispatch = Box::pin(self.dispatch());
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
    async fn decide(&self, who: &str, how: &str) -> bool {
        let approval = self.newest_approval();
        let request = Request::post(format!("/approvals/{}/{how}", approval.id))
            .header("x-api-key", key_of(who))
            .body(HttpBody::empty())
            .expect("a request");
        let status = self.router.clone().oneshot(request).await.expect("it answers").status();
        match who {
            "eve" => assert_eq!(status, StatusCode::NOT_FOUND, "another tenant's admin"),
            "bot" | "joe" | "alex" => assert!(!status.is_success(), "{who} may not approve"),
            _ => {}
        }
        !status.is_success()
    }

    async fn link(&self, number: u64, secret: &str) -> bool {
        let approval = self.newest_approval();
        let link = ApprovalLink {
            tenant: TenantId::default(),
            approval: approval.id,
            plan_hash: approval.plan_hash,
            to: "on-call".to_owned(),
            nonce: format!("{number:032x}"),
            expires: approval.requested_at.plus(Duration::from_secs(3_000)),
        };
        let token = LinkKey::new(secret.as_bytes()).expect("it is long enough").sign(&link);
        let look = Request::get(format!("/links/{token}")).body(HttpBody::empty());
        let look = self.router.clone().oneshot(look.expect("a request")).await;
        let click = Request::post(format!("/links/{token}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(HttpBody::from("decision=approve"))
            .expect("a request");
        let click = self.router.clone().oneshot(click).await.expect("it answers").status();
        let looked = look.expect("it answers").status();
        assert!(looked.is_success() || !click.is_success(), "looked {looked}, clicked {click}");
        !click.is_success()
    }

    /// As someone with a hand in the table would.
    async fn edit(&self, project: &str) {
        let key = task_key(&TenantId::default(), &self.task);
        let Ok(Some(item)) = self.store.get(&key).await else { return };
        let mut stored = decode::<Task>(&item).expect("it can be read");
        stored.value.payload = Body::In(payload(project));
        let mut item = encode(&stored.value, None);
        item.due = stored.due;
        let expect = Expect::Version(stored.version);
        let id = self.core.entropy().write_id();
        let writes = vec![Write::Put { item, expect }];
        let _ = self.store.commit(Commit { id, writes }).await;
    }

    async fn dispatch(&self) {
        let Some(stored) =
            self.core.stored_task(&TenantId::default(), &self.task).await.ok().flatten()
        else {
            return;
        };
        let message = LaneMessage {
            task_id: self.task.clone(),
            tenant: TenantId::default(),
            agent: Agent::Ops,
            priority: Priority::P2,
            assignment: stored.value.assignment,
            trace_id: stored.value.trace_id,
        };
        let deployer = Arc::new(Deployer(self.provider.clone()));
        let executor = Executor::new(self.core.clone(), deployer, "one");
        // What fails comes back by itself, with the next dispatch.
        let _ = executor.handle(&message).await;
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
            0 => Policy { quorum: 2, ..Policy::default() },
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
            4 => return None,
            _ => Policy::default(),
        };
        Some(Arc::new(policy))
    }

    pub fn approvals(&self) -> Vec<Approval> {
        let items = self.store.items();
        let approvals = items.iter().filter(|item| &*item.kind == "approval");
        approvals.map(|item| decode(item).expect("it can be read").value).collect()
    }

    fn newest_approval(&self) -> Approval {
        let newest = self.approvals().into_iter().max_by_key(|a| (a.requested_at, a.id.clone()));
        newest.expect("a deployment to production is asked for")
    }

    fn open_approval(&self) -> Option<Approval> {
        self.approvals().into_iter().find(|a| a.status == ApprovalStatus::Pending)
    }

    pub async fn log(&self) -> Vec<LogEntry> {
        let tenant = TenantId::default();
        let stored = self.core.stored_task(&tenant, &self.task).await;
        let stored = stored.expect("the store answers").expect("it is there");
        let partition = task_key(&tenant, &self.task).partition;
        let items = self.store.collect(&partition, "L#").await.expect("the store answers");
        let mut log = older_log(&items).expect("it can be read");
        log.extend(stored.value.log);
        log
    }
}

fn key_of(name: &str) -> String {
    format!("the-key-of-{name}-0123456789")
}

fn payload(project: &str) -> Map<String, Value> {
    let payload = json!({ "project": project, "environment": "production" });
    payload.as_object().cloned().expect("it is an object")
}

async fn deployment(core: &Core) -> TaskId {
    let new = NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Deploy,
        priority: Priority::P2,
        source: "user".to_owned(),
        payload: payload("shop"),
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: Some(20),
        created_by: "alex".to_owned(),
        identity: Identity::Fresh,
        hops: 0,
    };
    for _ in 0..8 {
        if let Ok(created) = core.create_task(new.clone()).await {
            let task = created.task.task;
            assert_eq!(task.status, Status::Pending, "a deployment waits for leave");
            return task.id;
        }
    }
    panic!("the store does not take a task at {:?}", Timestamp::default());
}
