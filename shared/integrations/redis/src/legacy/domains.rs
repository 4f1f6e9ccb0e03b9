//! The port's domain lists and agent registry.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use watchbill_domain::Timestamp;
use watchbill_wire::legacy::{
    DomainAgent, DomainMessage, DomainResult, LegacyDomains, LegacyError, LegacyEvent,
    LegacyRegistry, RejectedMessage, WriteOutcome,
};

use super::RedisLegacyQueue;
use crate::forms::{DomainView, Rejection, iso, read_domain_task};
use crate::keys::{ClaimedMessage, DomainWrite, Registration, Rejected};

#[async_trait]
impl LegacyDomains for RedisLegacyQueue {
    async fn take_messages(
        &self,
        domain: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<DomainMessage>, LegacyError> {
        let taken = self.keys.take_messages(domain, lease, most).await?;
        let read = taken.into_iter().map(|ClaimedMessage { message, again }| {
            let task = read_domain_task(domain, &message);
            DomainMessage { message, again, task }
        });
        Ok(read.collect())
    }

    async fn begin(&self, domain: &str, id: &str, message: &[u8]) -> Result<(), LegacyError> {
        self.keys.begin(domain, id, message).await
    }

    async fn settle_message(&self, domain: &str, message: &[u8]) -> Result<(), LegacyError> {
        self.keys.settle_message(domain, message).await
    }

    fn refusal(&self, rejected: &RejectedMessage) -> Option<LegacyEvent> {
        let RejectedMessage { message, reason, at } = rejected;
        let (id, _) = DomainView::of_rejected(message, reason, *at)?;
        let data = std::str::from_utf8(message).ok();
        Some(Rejection::new(&id, data, reason, *at).record)
    }

    async fn refuse(&self, domain: &str, rejected: &RejectedMessage) -> Result<(), LegacyError> {
        let RejectedMessage { message, reason, at } = rejected;
        let named = DomainView::of_rejected(message, reason, *at);
        let result = named.map(|(id, view)| DomainWrite {
            id,
            fields: view.fields,
            publish: view.publish,
            ..DomainWrite::default()
        });
        let entry = Rejected {
            queue: format!("tasks:pending:{domain}"),
            member: message.clone(),
            reason: reason.clone(),
            data: None,
            at: iso(*at),
        };
        self.keys.refuse(domain, &entry, result.as_ref()).await
    }

    async fn write_result(
        &self,
        domain: &str,
        result: &DomainResult<'_>,
    ) -> Result<WriteOutcome, LegacyError> {
        self.keys.write_result(domain, &write_of(result)).await
    }

    async fn open(&self, domain: &str) -> Result<Vec<String>, LegacyError> {
        self.keys.open_tasks(domain).await
    }

    async fn pending(&self, domain: &str) -> Result<u64, LegacyError> {
        self.keys.pending(domain).await
    }
}

fn write_of(result: &DomainResult<'_>) -> DomainWrite {
    let DomainResult { task, notes, line, at } = result;
    let view = DomainView::of(task, *at);
    let notes = notes.iter().map(|(at, text)| format!("[{at}] {text}"));
    DomainWrite {
        id: task.peer_id().to_owned(),
        version: task.version,
        done: view.is_over(),
        fields: view.fields,
        logs: notes.chain([format!("[{}] {line}", iso(*at))]).collect(),
        publish: view.publish,
    }
}

#[async_trait]
impl LegacyRegistry for RedisLegacyQueue {
    async fn register(&self, agent: &DomainAgent) -> Result<(), LegacyError> {
        self.keys.register(&registration(agent)).await
    }

    async fn beat(&self, id: &str, at: Timestamp, lasts: Duration) -> Result<bool, LegacyError> {
        self.keys.beat(id, &iso(at), lasts).await
    }

    async fn deregister(&self, agent: &DomainAgent) -> Result<(), LegacyError> {
        self.keys.deregister(&registration(agent)).await
    }
}

fn registration(agent: &DomainAgent) -> Registration {
    let metadata = json!({ "domain": agent.domain, "workers": agent.workers });
    Registration {
        id: agent.id.clone(),
        domain: agent.domain.clone(),
        container_id: agent.container_id.clone(),
        metadata: metadata.to_string(),
        at: iso(agent.at),
    }
}
