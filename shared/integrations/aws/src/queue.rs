//! Sends batches to SQS, with retries. Messages refused for their content are reported
//! separately.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;

/// SQS's limit of messages per call.
pub const BATCH: usize = 10;
/// Bytes per call: a little below the lowest limit that SQS has had.
pub const BATCH_BYTES: usize = 240 * 1024;
/// Attempts before failed messages are reported.
const MAX_ATTEMPTS: u32 = 4;
/// Error codes that refuse a message for its content. Other errors, such as a throttle, a
/// missing permission or a disabled key, say nothing about the message.
const REFUSALS: &[&str] =
    &["InvalidMessageContents", "MessageTooLong", "BatchRequestTooLong", "SerializationException"];

/// Result of sending a batch.
#[derive(Default)]
pub struct SendResult {
    /// Number of messages that may not have been accepted.
    pub failed: usize,
    /// A call got no answer, so the queue may be unreachable.
    pub down: bool,
    /// Refused for their content.
    pub refused: Vec<SendMessageBatchRequestEntry>,
    /// The last failure's reason.
    pub reason: String,
}

/// Sends up to ten messages. If the whole call is refused, bisection finds those at fault.
pub async fn send(
    client: &Client,
    url: &str,
    batch: Vec<SendMessageBatchRequestEntry>,
) -> SendResult {
    let mut sent = SendResult::default();
    let mut open = vec![(batch, 1)];
    while let Some((mut batch, tries)) = open.pop() {
        let call = client.send_message_batch().queue_url(url);
        let failures = match call.set_entries(Some(batch.clone())).send().await {
            Ok(answer) => answer.failed,
            Err(error) if refuses(&error) => {
                sent.reason = crate::explained(&error);
                if batch.len() > 1 {
                    let second = batch.split_off(batch.len() / 2);
                    open.extend([(second, tries), (batch, tries)]);
                } else {
                    sent.refused.append(&mut batch);
                }
                continue;
            }
            Err(error) => {
                sent.reason = crate::explained(&error);
                sent.down = true;
                // The client has already retried.
                sent.failed += batch.len() + open.iter().map(|(more, _)| more.len()).sum::<usize>();
                return sent;
            }
        };
        let mut retry = Vec::new();
        for entry in batch {
            let Some(failed) = failures.iter().find(|failed| failed.id() == entry.id()) else {
                continue;
            };
            sent.reason = failed.message().unwrap_or_else(|| failed.code()).to_owned();
            match failed.sender_fault() && is_refusal(failed.code()) {
                true => sent.refused.push(entry),
                false => retry.push(entry),
            }
        }
        match retry.len() {
            0 => {}
            _ if tries < MAX_ATTEMPTS => open.push((retry, tries + 1)),
            failed => sent.failed += failed,
        }
    }
    sent
}

fn refuses<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    code.is_some_and(is_refusal)
}

/// Codes may have the service's name as prefix.
fn is_refusal(code: &str) -> bool {
    REFUSALS.contains(&code.rsplit(['.', '#']).next().unwrap_or(code))
}
