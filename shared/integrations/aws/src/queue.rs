//! Sending to a queue: what was not taken again, and what SQS refuses for its content told apart
//! from what it can't take now.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;

/// SQS takes so many messages in one call.
pub const BATCH: usize = 10;
/// And so many bytes: the least of the limits that SQS has had, and a little less.
pub const BATCH_BYTES: usize = 240 * 1024;
/// How often what a call did not take is sent again before the caller is told.
const TRIES: u32 = 4;
/// How SQS says that a message is wrong by what it holds. Anything else, such as a throttle, a
/// missing right or a key that is switched off, says nothing of the message.
const REFUSALS: &[&str] =
    &["InvalidMessageContents", "MessageTooLong", "BatchRequestTooLong", "SerializationException"];

/// What became of a batch.
#[derive(Default)]
pub struct Sent {
    /// So many may not have been taken.
    pub failed: usize,
    /// A call was not answered, so the queue may be out of reach.
    pub down: bool,
    /// These are refused for what they hold.
    pub refused: Vec<SendMessageBatchRequestEntry>,
    /// Why, of the last of them.
    pub reason: String,
}

/// Sends up to ten messages. Of those that are refused together the ones at fault are found by
/// halves.
pub async fn send(client: &Client, url: &str, batch: Vec<SendMessageBatchRequestEntry>) -> Sent {
    let mut sent = Sent::default();
    let mut open = vec![(batch, 1)];
    while let Some((mut batch, tries)) = open.pop() {
        let call = client.send_message_batch().queue_url(url);
        let left = match call.set_entries(Some(batch.clone())).send().await {
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
                // The client has tried again by itself already.
                sent.failed += batch.len() + open.iter().map(|(more, _)| more.len()).sum::<usize>();
                return sent;
            }
        };
        let mut again = Vec::new();
        for entry in batch {
            let Some(failed) = left.iter().find(|failed| failed.id() == entry.id()) else {
                continue;
            };
            sent.reason = failed.message().unwrap_or_else(|| failed.code()).to_owned();
            match failed.sender_fault() && is_refusal(failed.code()) {
                true => sent.refused.push(entry),
                false => again.push(entry),
            }
        }
        match again.len() {
            0 => {}
            _ if tries < TRIES => open.push((again, tries + 1)),
            failed => sent.failed += failed,
        }
    }
    sent
}

fn refuses<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let said = error.as_service_error().and_then(ProvideErrorMetadata::code);
    said.is_some_and(is_refusal)
}

/// Codes come bare, and with the name of the service before them.
fn is_refusal(code: &str) -> bool {
    REFUSALS.contains(&code.rsplit(['.', '#']).next().unwrap_or(code))
}
