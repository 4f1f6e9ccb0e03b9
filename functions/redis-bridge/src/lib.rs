//! The Redis bridge's function: where a peer's queue and ours will meet.
//!
//! It is deployed only where a Redis URL is given, and says there that this build can't
//! serve it, so that nobody waits for tasks that are never taken.

use watchbill_core::handler::HandlerError;

/// One round over the peer's queues.
pub fn round() -> Result<(), HandlerError> {
    let reason = "this build has no Redis connector: nothing is taken from Redis and nothing \
                  is written there; remove the parameter RedisUrl until it has";
    Err(HandlerError::Reject { reason: reason.to_owned() })
}
