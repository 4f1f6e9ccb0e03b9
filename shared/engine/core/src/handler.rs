//! The error of a message handler. Each mode maps it in one place: requeue the message or
//! remove it from the lane.

use std::any::Any;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// Redeliver the message after this delay.
    #[error("retry in {after:?}: {reason}")]
    Retry { after: Duration, reason: String },
    /// The message can never be handled: remove it from the lane.
    #[error("rejected: {reason}")]
    Reject { reason: String },
}

impl HandlerError {
    pub fn retry(after: Duration, reason: impl Into<String>) -> Self {
        HandlerError::Retry { after, reason: reason.into() }
    }
}

/// The message of a caught panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_text_is_its_message() {
        let texts: [Box<dyn Any + Send>; 3] =
            [Box::new("short"), Box::new("made".to_owned()), Box::new(7)];
        assert_eq!(texts.each_ref().map(|of| panic_text(&**of)), ["short", "made", "no message"]);
    }
}
