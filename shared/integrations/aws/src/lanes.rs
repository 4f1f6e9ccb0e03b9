//! The priority lanes on SQS: one standard queue for each agent and priority.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use futures_util::future::join_all;
use watchbill_core::ports::{LaneMessage, Lanes, LanesError};
use watchbill_domain::{Agent, Priority};
use watchbill_wire::LaneForm;

use crate::queue::{self, BATCH};

/// SQS's longest delay. Longer ones are due in the store and enqueued then.
const MAX_DELAY: Duration = Duration::from_secs(15 * 60);
/// For all queues together.
const MAX_CONCURRENT_CALLS: usize = 16;

pub struct SqsLanes {
    client: Client,
    queues: Queues,
}

/// Queue URLs, which differ only at the end.
#[derive(Clone)]
pub struct Queues {
    prefix: Arc<str>,
}

impl Queues {
    /// `prefix`: the URL of the queue `ops-p0` without its last six characters.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    pub fn url(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The URL of a queue by its full name, the end of its ARN.
    pub fn url_of(&self, full_name: &str) -> String {
        match self.prefix.rsplit_once('/') {
            Some((account, _)) => format!("{account}/{full_name}"),
            None => full_name.to_owned(),
        }
    }

    pub fn lane(&self, agent: Agent, priority: Priority) -> String {
        self.url(&agent.lane_name(priority))
    }
}

impl SqsLanes {
    pub fn new(client: Client, queues: Queues) -> Self {
        Self { client, queues }
    }
}

#[async_trait]
impl Lanes for SqsLanes {
    async fn enqueue(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError> {
        let sent = messages.len();
        let (mut failed, mut refused, mut reason) = (0, Vec::new(), String::new());
        let mut batches = batches(messages).into_iter();
        loop {
            let some: Vec<_> = batches.by_ref().take(MAX_CONCURRENT_CALLS).collect();
            if some.is_empty() {
                break;
            }
            let calls = some.into_iter().map(|(name, batch)| {
                let url = self.queues.url(&name);
                async move { queue::send(&self.client, &url, batch).await }
            });
            for of in join_all(calls).await {
                failed += of.failed;
                // Parsed back from the entry, because refusals are rare.
                let message = |entry: &SendMessageBatchRequestEntry| {
                    LaneForm::read(entry.message_body()).expect("LaneForm::write wrote the body")
                };
                refused.extend(of.refused.iter().map(message));
                if !of.reason.is_empty() {
                    reason = of.reason;
                }
            }
        }
        match (failed, refused.len()) {
            (0, 0) => Ok(()),
            (0, _) => Err(LanesError::Refused { messages: refused, reason }),
            _ => Err(LanesError::Partial { sent, failed, reason }),
        }
    }

    async fn backlog(&self, agent: Agent, priority: Priority) -> Result<u64, LanesError> {
        let depth = depth(&self.client, &self.queues.lane(agent, priority)).await;
        depth.map_err(|reason| LanesError::Down { reason })
    }
}

/// Approximate number of visible messages: neither delayed nor in flight.
pub async fn depth(client: &Client, url: &str) -> Result<u64, String> {
    let visible = QueueAttributeName::ApproximateNumberOfMessages;
    let call = client.get_queue_attributes().queue_url(url).attribute_names(visible.clone());
    let answer = call.send().await.map_err(|error| crate::explained(&error))?;
    let number = answer.attributes().and_then(|all| all.get(&visible));
    let number = number.and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("SQS returned no message count for {url}"))
}

/// By queue, ten per batch, in the order given: P0 is sent first.
fn batches(
    messages: Vec<(LaneMessage, Duration)>,
) -> Vec<(String, Vec<SendMessageBatchRequestEntry>)> {
    let mut all: Vec<(String, Vec<SendMessageBatchRequestEntry>)> = Vec::new();
    let mut open: BTreeMap<(Agent, Priority), usize> = BTreeMap::new();
    for (message, delay) in messages {
        let lane = (message.agent, message.priority);
        let place = open.get(&lane).copied().filter(|place| all[*place].1.len() < BATCH);
        let place = place.unwrap_or_else(|| {
            all.push((message.agent.lane_name(message.priority), Vec::with_capacity(BATCH)));
            all.len() - 1
        });
        open.insert(lane, place);
        let batch = &mut all[place].1;
        batch.push(entry(batch.len(), &message, delay));
    }
    all
}

fn entry(place: usize, message: &LaneMessage, delay: Duration) -> SendMessageBatchRequestEntry {
    // Rounded up: too late by part of a second does no harm, too early finds the task not due.
    let delay = delay.min(MAX_DELAY).as_millis().div_ceil(1000) as i32;
    SendMessageBatchRequestEntry::builder()
        .id(place.to_string())
        .message_body(LaneForm::write(message))
        // Fair queues: a busy tenant does not delay the others.
        .message_group_id(message.tenant.as_str())
        .set_delay_seconds((delay > 0).then_some(delay))
        .build()
        .expect("id and body are set")
}

#[cfg(test)]
mod tests {
    use watchbill_domain::{TaskId, TenantId};

    use super::*;

    fn message(agent: Agent, priority: Priority, n: usize) -> (LaneMessage, Duration) {
        let message = LaneMessage {
            tenant: TenantId::parse("acme").unwrap(),
            task_id: TaskId::parse(&format!("t{n}")).unwrap(),
            assignment: 1,
            agent,
            priority,
            trace_id: String::new(),
        };
        (message, Duration::from_millis(n as u64))
    }

    #[test]
    fn queues_are_named_by_agent_and_priority() {
        let queues = Queues::new("https://sqs/1/bill-");
        assert_eq!(queues.lane(Agent::Devops, Priority::P3), "https://sqs/1/bill-devops-p3");
        assert_eq!(queues.lane(Agent::Cycle, Priority::P3), "https://sqs/1/bill-cycle");
        assert_eq!(queues.url_of("bill-ops-p0"), "https://sqs/1/bill-ops-p0");
    }

    #[test]
    fn batches_hold_ten_of_one_lane_and_keep_the_order() {
        let mut messages = vec![message(Agent::Ops, Priority::P0, 0)];
        messages.extend((1..=23).map(|n| message(Agent::Ops, Priority::P2, n)));
        messages.push(message(Agent::Dev, Priority::P2, 24));
        let batches = batches(messages);
        let shape: Vec<_> = batches.iter().map(|(name, b)| (name.as_str(), b.len())).collect();
        assert_eq!(
            shape,
            [("ops-p0", 1), ("ops-p2", 10), ("ops-p2", 10), ("ops-p2", 3), ("dev-p2", 1)]
        );
        assert_eq!(batches[0].1[0].delay_seconds(), None);
        assert_eq!(
            batches[1].1[0].delay_seconds(),
            Some(1),
            "delays are whole seconds, rounded up"
        );
        assert_eq!(batches[1].1[0].message_group_id(), Some("acme"));
        let ids: Vec<_> = batches[1].1.iter().map(|entry| entry.id()).collect();
        assert_eq!(ids.len(), 10);
        assert!(LaneForm::read(batches[2].1[0].message_body()).unwrap().task_id.as_str() == "t11");
    }
}
