//! What a handler of a message says when it could not handle it. One place in each mode
//! maps it: back into the lane, or out of it.

use std::any::Any;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The message should come back after this long.
    #[error("to be tried again in {after:?}: {reason}")]
    Retry { after: Duration, reason: String },
    /// It will never be handled: out of the lane with it.
    #[error("rejected: {reason}")]
    Reject { reason: String },
}

impl HandlerError {
    pub fn retry(after: Duration, reason: impl Into<String>) -> Self {
        HandlerError::Retry { after, reason: reason.into() }
    }
}

/// What something that broke off said.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_tells_its_message() {
        let texts: [Box<dyn Any + Send>; 3] =
            [Box::new("short"), Box::new("made".to_owned()), Box::new(7)];
        assert_eq!(texts.each_ref().map(|of| panic_text(&**of)), ["short", "made", "no message"]);
    }
}
