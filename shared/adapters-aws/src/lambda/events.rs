use serde_json::Value;
use serde_json::value::RawValue;
use watchbill_core::handler::HandlerError;
use watchbill_wire::with_exact_numbers;

use super::serve;

/// Serves events that come one at a time. What can never be handled is logged and done with;
/// what may be is answered with an error, after which Lambda and then the target's dead
/// letters have it.
pub async fn serve_events<E, F, Fut>(handler: F) -> anyhow::Result<()>
where
    E: for<'de> serde::Deserialize<'de> + Send + 'static,
    F: Fn(E) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    // Read in two steps, so that what can't be read is a line in the log and not a loop, and from
    // its text: a number that would be rounded is kept as its digits.
    serve(move |event: Box<RawValue>, _context| {
        let parsed = serde_json::from_str::<E>(&with_exact_numbers(event.get()));
        let handling = parsed.map(&handler);
        async move {
            let done = match handling {
                Ok(handling) => handling.await,
                Err(error) => Err(HandlerError::Reject { reason: error.to_string() }),
            };
            match done {
                Err(HandlerError::Reject { reason }) => {
                    tracing::error!("event rejected: {reason}");
                    Ok(Value::Null)
                }
                other => Ok(other.map(|()| Value::Null)?),
            }
        }
    })
    .await
}
