//! Serves the lanes of one agent.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lambda_events::event::sqs::SqsEvent;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::LaneMessage;
use watchbill_core::service::Core;
use watchbill_runtime::executor::Executor;
use watchbill_runtime::run::TaskAgent;
use watchbill_wire::LaneForm;

use super::{Lane, LaneHandler, Message, serve};
use crate::config::Setup;

/// The handler of one agent's lanes: each message is one claim, and one run if the claim
/// succeeds.
pub struct AgentLane(pub Executor);

#[async_trait]
impl LaneHandler for AgentLane {
    type Form = LaneMessage;

    fn parse(&self, body: &str) -> Result<Message<LaneMessage>, String> {
        let form = LaneForm::read(body).map_err(|error| error.to_string())?;
        let (task, trace) = (form.task_id.to_string(), form.trace_id.clone());
        Ok(Message { form, task, trace })
    }

    async fn handle(&self, form: LaneMessage) -> Result<(), HandlerError> {
        self.0.handle(&form).await
    }
}

/// Runs an agent's tasks for as long as Lambda delivers messages of its lanes.
pub async fn serve_agent(
    setup: &Setup,
    core: Core,
    agent: Arc<dyn TaskAgent>,
) -> anyhow::Result<()> {
    let dead = agent.agent().info().dead_letters;
    setup.warm(&core).await?;
    let needs = core.rules().lease.run;
    let handler = AgentLane(Executor::new(core, agent, setup.owner()));
    let lane = Lane::new(handler, setup.sqs(), setup.queues()?, setup.clock.clone(), dead, needs);
    let lane = Arc::new(lane);
    serve(move |event: SqsEvent, context| {
        let lane = lane.clone();
        async move { Ok(lane.batch(event, &context).await) }
    })
    .await
}
