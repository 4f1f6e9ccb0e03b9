//! Takes tasks through all functions in Lambda's batches and counts everything that they are
//! billed for. The functions run one after the other, so that each is timed alone.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::sqs::SqsEvent;
use serde_json::Value;
use watchbill_core::service::Core;
use watchbill_domain::{Priority, TaskId, TenantId};
use watchbill_lambda::{AgentLane, Lane, StreamConsumer};
use watchbill_runtime::run::TaskAgent;

use super::cost_model::{self, Images, Load};
use super::emulator::{Stream, text};
use super::lambda::{as_event, as_message, done_with, handled, is_of_kind};
use super::world::{World, new_task};
use crate::support::Stopwatch;
use crate::support::{Recording, Routing};

const LANE: &str = "ops-p2";

/// How full the batches are that Lambda delivers.
#[derive(Clone, Copy)]
pub struct Fill {
    /// Changes per invocation of the router; `recorder` is the same for the recorder.
    pub router: usize,
    pub recorder: usize,
    pub lane: usize,
    /// Each tenant has its own ledger, so each batch of the recorder writes one ledger batch per
    /// tenant.
    pub tenants: usize,
}

impl Fill {
    /// 100 tasks/s make 300 changes/s. Lambda reads a shard four times a second for the router;
    /// the recorder's mapping collects for one second.
    pub const BUSY: Self = Self { router: 75, recorder: 300, lane: 10, tenants: 1 };
    /// One task on its own: its claim and its end follow each other at once and arrive together.
    pub const ALONE: Self = Self { router: 2, recorder: 2, lane: 1, tenants: 1 };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    Api,
    Router,
    Recorder,
    Agent,
}

/// What a set of tasks was billed for.
pub struct Counted {
    pub tasks: Vec<TaskId>,
    pub loads: Vec<Load>,
    pub sqs: f64,
    pub events: f64,
    pub invocations: Vec<(Function, Duration)>,
    pub stored: usize,
}

impl Counted {
    fn none() -> Self {
        let (tasks, loads, invocations) = (Vec::new(), Vec::new(), Vec::new());
        Self { tasks, loads, sqs: 0.0, events: 0.0, invocations, stored: 0 }
    }

    fn add(&mut self, other: Self) {
        self.tasks.extend(other.tasks);
        self.loads.extend(other.loads);
        self.sqs += other.sqs;
        self.events += other.events;
        self.invocations.extend(other.invocations);
        self.stored += other.stored;
    }

    pub fn write_units(&self) -> f64 {
        self.loads.iter().map(|load| load.writes).sum()
    }

    pub fn read_units(&self) -> f64 {
        self.loads.iter().map(|load| load.reads).sum()
    }
}

/// One instance of each function.
pub struct Line {
    world: World,
    core: Core,
    router: StreamConsumer<Routing>,
    recorder: StreamConsumer<Recording>,
    lane: Lane<AgentLane>,
    stream: Stream,
    images: Images,
    submitted: usize,
}

impl Line {
    pub async fn new(agent: impl Fn(&Core) -> Arc<dyn TaskAgent>) -> Self {
        let world = World::make(1).await;
        let core = world.core();
        Self {
            router: world.router(),
            recorder: world.recorder(),
            lane: world.lane(core.clone(), agent(&core)),
            stream: Stream::of(&world.stack),
            images: Images::default(),
            submitted: 0,
            core,
            world,
        }
    }

    pub async fn remove(self) {
        self.world.stack.remove().await;
    }

    /// Runs tasks one by one, each after the previous one is finished.
    pub async fn one_by_one(&mut self, tasks: usize) -> Counted {
        let mut counted = Counted::none();
        for _ in 0..tasks {
            let one = self.pass(1, Fill::ALONE).await;
            counted.add(one);
        }
        counted
    }

    /// Runs tasks that arrive together.
    pub async fn pass(&mut self, tasks: usize, fill: Fill) -> Counted {
        drop(self.world.proxy.take_calls());
        let mut counted = Counted::none();
        for _ in 0..tasks {
            self.submitted += 1;
            let key = format!("key-{}", self.submitted);
            let tenant = tenant(self.submitted % fill.tenants);
            let new = new_task(&tenant, Priority::P2, key);
            let watch = Stopwatch::start();
            let created = self.core.tasks().create(new).await.expect("it is accepted");
            counted.invocations.push((Function::Api, watch.elapsed()));
            counted.tasks.push(created.task.task.id);
        }
        let mut records = self.changes(tasks).await;
        // A third of what the router receives at a time is new tasks.
        self.route(&records, fill.router.div_ceil(3), &mut counted).await;
        self.run(tasks, fill.lane, &mut counted).await;
        let ended = self.changes(2 * tasks).await;
        self.route(&ended, (fill.router * 2).div_ceil(3).max(2), &mut counted).await;
        match fill.recorder {
            // In larger batches, new tasks arrive together with finished ones.
            2 => {
                self.record(&records, 2, &mut counted).await;
                self.record(&ended, 2, &mut counted).await;
                records.extend(ended);
            }
            most => {
                records.extend(ended);
                self.record(&records, most, &mut counted).await;
            }
        }
        self.close(records, &mut counted).await;
        counted
    }

    /// The next changes of tasks.
    async fn changes(&mut self, number: usize) -> Vec<Value> {
        let mut records = Vec::new();
        while records.len() < number {
            let read = self.stream.read().await;
            // Other kinds are what the recorder wrote for earlier tasks.
            records.extend(read.into_iter().filter(|record| is_of_kind(record, &["task"])));
        }
        assert_eq!(records.len(), number, "a plain task is written three times");
        records
    }

    async fn route(&self, records: &[Value], most: usize, counted: &mut Counted) {
        for batch in records.chunks(most) {
            let (event, context) = (as_event(batch), self.world.context());
            let watch = Stopwatch::start();
            let answer = self.router.batch(event, &context).await;
            counted.invocations.push((Function::Router, watch.elapsed()));
            assert_eq!(done_with(&answer, batch), batch.len(), "nothing goes wrong here");
        }
    }

    async fn record(&self, records: &[Value], most: usize, counted: &mut Counted) {
        for batch in records.chunks(most) {
            let (event, context) = (as_event(batch), self.world.context());
            let watch = Stopwatch::start();
            let answer = self.recorder.batch(event, &context).await;
            counted.invocations.push((Function::Recorder, watch.elapsed()));
            assert_eq!(done_with(&answer, batch), batch.len(), "nothing goes wrong here");
        }
    }

    /// Runs what is in the lane as Lambda's pollers do: one call receives up to ten messages,
    /// and one deletes them.
    async fn run(&self, tasks: usize, most: usize, counted: &mut Counted) {
        let stack = &self.world.stack;
        let mut left = tasks;
        while left > 0 {
            let messages = stack.receive(LANE, most).await;
            let mut event = SqsEvent::default();
            event.records = messages.iter().map(|m| as_message(stack, LANE, m)).collect();
            let context = self.world.context();
            let watch = Stopwatch::start();
            let answer = self.lane.batch(event, &context).await;
            counted.invocations.push((Function::Agent, watch.elapsed()));
            let done = handled(&answer, &messages);
            assert!(!done.is_empty() && done.len() == messages.len(), "nothing goes wrong here");
            stack.delete(LANE, &done).await;
            counted.sqs += 2.0;
            left -= done.len();
        }
    }

    /// Counts the calls and the writes. The recorder's own writes come last in the stream.
    async fn close(&mut self, mut records: Vec<Value>, counted: &mut Counted) {
        let calls = self.world.proxy.take_calls();
        let beside = calls.iter().filter(|call| call.status == 200).filter(|call| {
            let kind = match call.operation.as_str() {
                "PutItem" => &call.request["Item"]["k"],
                "UpdateItem" => &call.request["ExpressionAttributeValues"][":k"],
                _ => return false,
            };
            text(&kind["S"]) != "task"
        });
        let beside = beside.count();
        let mut found = 0;
        while found < beside {
            let read = self.stream.read().await;
            found += read.len();
            records.extend(read);
        }
        counted.loads = self.images.write_units(&records, &calls);
        counted.loads.extend(cost_model::read_units(&calls));
        counted.stored = self.images.stored(&records);
        counted.sqs += cost_model::sqs_requests(&calls);
        counted.events = cost_model::events(&calls);
    }
}

pub fn tenant(n: usize) -> TenantId {
    TenantId::parse(&format!("tenant-{n}")).expect("a proper id")
}
