//! Serves the notify lane.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::event::sqs::SqsEvent;
use watchbill_core::handler::HandlerError;
use watchbill_domain::{Event, TenantId};
use watchbill_wire::NoticeForm;

use super::{Lane, LaneHandler, Message, serve};
use crate::config::Setup;

/// The time that a delivery may take.
const NEEDS: Duration = Duration::from_secs(12);

/// Notifies an external receiver of an event.
#[async_trait]
pub trait NoticeHandler: Send + Sync + 'static {
    async fn deliver(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError>;
}

struct NoticeLane<N>(N);

#[async_trait]
impl<N: NoticeHandler> LaneHandler for NoticeLane<N> {
    type Form = (TenantId, Event);

    fn parse(&self, body: &str) -> Result<Message<Self::Form>, String> {
        let (tenant, event) = NoticeForm::read(body).map_err(|error| error.to_string())?;
        let task = event.task_id.as_ref().map(ToString::to_string).unwrap_or_default();
        Ok(Message { task, trace: event.trace_id.clone(), form: (tenant, event) })
    }

    async fn handle(&self, (tenant, event): Self::Form) -> Result<(), HandlerError> {
        self.0.deliver(&tenant, &event).await
    }
}

/// Delivers notices for as long as Lambda delivers messages of the lane.
pub async fn serve_notices(setup: &Setup, handler: impl NoticeHandler) -> anyhow::Result<()> {
    let (sqs, queues, clock) = (setup.sqs(), setup.queues()?, setup.clock.clone());
    let lane = Lane::new(NoticeLane(handler), sqs, queues, clock, "notify-dead", NEEDS);
    let lane = Arc::new(lane);
    serve(move |event: SqsEvent, context| {
        let lane = lane.clone();
        async move { Ok(lane.batch(event, &context).await) }
    })
    .await
}
