//! The handlers over the adapters, wired as in their mains, with the proxy in place of AWS.

use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::Context;
use serde_json::{Map, Value};
use watchbill_aws::config::sdk_config;
use watchbill_core::ports::Clock;
use watchbill_core::service::{Core, Identity, NewTask};
use watchbill_domain::{Priority, TaskType, TenantId};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::{AgentLane, Lane, StreamConsumer};
use watchbill_recorder::Recorder;
use watchbill_router::Router;
use watchbill_runtime::executor::Executor;
use watchbill_runtime::run::TaskAgent;
use watchbill_sweeper::Sweeper;
use watchbill_wire::settings::Env;

use super::emulator::Stack;
use super::proxy::Proxy;
use crate::support::{Recording, Routing};

/// Shorter than as shipped, in the same order: a run of 15 s, its lease of 20 s, the visibility
/// timeout of its message. Lost messages are redelivered sooner.
const TIMEOUT: Duration = Duration::from_secs(18);
const VISIBILITY: u64 = 21;
/// Retries come soon, for the same reason.
const RULES: &str = r#"{"retries":{"base":"1s","cap":"2s","most":20}}"#;

pub struct World {
    pub stack: Stack,
    pub proxy: Proxy,
    /// Through the proxy.
    pub setup: Setup,
    /// Straight to the emulator.
    pub truth: Core,
}

impl World {
    pub async fn make(seed: u64) -> Self {
        let stack = Stack::make(VISIBILITY).await;
        let proxy = Proxy::start(&stack.emulator.url, seed).await;
        let setup = setup(&stack, &proxy.url);
        let truth = setup_core(&self::setup(&stack, &stack.emulator.url));
        Self { stack, proxy, setup, truth }
    }

    pub fn core(&self) -> Core {
        setup_core(&self.setup)
    }

    pub fn router(&self) -> StreamConsumer<Routing> {
        let lanes = Arc::new(self.setup.lanes().expect("the queues are set"));
        let router = Router::new(lanes, self.setup.clock.clone());
        StreamConsumer::new(Routing(router), self.setup.clock.clone(), "tests")
    }

    pub fn recorder(&self) -> StreamConsumer<Recording> {
        let buses = Arc::new(self.setup.buses().expect("bus and queues are set"));
        let recorder = Recorder::new(self.core(), buses);
        StreamConsumer::new(Recording(recorder), self.setup.clock.clone(), "tests")
    }

    pub fn sweeper(&self) -> Sweeper {
        Sweeper::new(self.core(), Arc::new(self.setup.lanes().expect("the queues are set")))
    }

    pub fn lane(&self, core: Core, agent: Arc<dyn TaskAgent>) -> Lane<AgentLane> {
        let needs = core.rules().lease.run;
        let handler = AgentLane(Executor::new(core, agent, self.setup.owner()));
        let queues = self.setup.queues().expect("the queues are set");
        let clock = self.setup.clock.clone();
        Lane::new(handler, self.setup.sqs(), queues, clock, "ops-dead", needs)
    }

    /// The context of an invocation that begins now.
    pub fn context(&self) -> Context {
        context(&*self.setup.clock)
    }
}

pub fn context(clock: &dyn Clock) -> Context {
    let mut context = Context::default();
    context.deadline = clock.now().plus(TIMEOUT).millis() as u64;
    context.request_id = "tests".to_owned();
    context
}

fn setup_core(setup: &Setup) -> Core {
    setup.core_with_blobs().expect("table and bucket are set")
}

/// The settings that the template would put into the environment.
fn setup(stack: &Stack, endpoint: &str) -> Setup {
    let env: Env = [
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("WATCHBILL_TABLE", &stack.name),
        ("WATCHBILL_QUEUES", &stack.queues()),
        ("WATCHBILL_BUS", &stack.name),
        ("WATCHBILL_BLOBS", &stack.name),
        ("WATCHBILL_RULES", RULES),
        ("WATCHBILL_GATES", "off"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    Setup {
        sdk: sdk_config(&env).expect("it is all set"),
        env,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        timeout: TIMEOUT,
    }
}

/// A task as an application would submit it.
pub fn new_task(tenant: &TenantId, priority: Priority, key: String) -> NewTask {
    let service = Map::from_iter([("service".to_owned(), Value::from("system"))]);
    NewTask {
        tenant: tenant.clone(),
        task_type: TaskType::Monitor,
        priority,
        source: "user".to_owned(),
        payload: service,
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: None,
        created_by: "ci".to_owned(),
        also_requested_by: Vec::new(),
        identity: Identity::IdempotencyKey(key),
        hops: 0,
    }
}
