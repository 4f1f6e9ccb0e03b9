//! What is looked at now and then, whatever is due.

use std::sync::Mutex;
use std::time::Duration;

use watchbill_core::service::{Core, ServiceError};

use crate::wake::Wake;

/// How often it is looked whether another policy holds.
const POLICY_EVERY: Duration = Duration::from_secs(30);

/// What this process remembers, so that most sweeps ask the store for nothing.
#[derive(Default)]
pub struct Watch {
    seen: Mutex<Seen>,
    wake: Wake,
}

#[derive(Default, Clone)]
struct Seen {
    /// On the monotonic clock.
    policy: Option<Duration>,
    /// The day (UTC) in which the ledgers were last sealed.
    day: Option<String>,
}

impl Watch {
    /// Looks, where it is time to. Answers how many looks failed: those come again at the
    /// next sweep.
    pub async fn look(&self, core: &Core) -> usize {
        let seen = self.seen().clone();
        let (now, day) = (core.clock().monotonic(), core.clock().now().day());
        let mut failed = 0;
        if seen.policy.is_none_or(|at| now.saturating_sub(at) >= POLICY_EVERY) {
            match core.note_policy().await {
                Ok(changed) => {
                    self.seen().policy = Some(now);
                    if changed {
                        tracing::info!("the policy that holds now is recorded");
                        self.wake.begin(core);
                    }
                }
                Err(error) => failed += failure("whether another policy holds", &error),
            }
        }
        if seen.day.as_ref() != Some(&day) {
            match core.seal_ledgers().await {
                Ok(sealed) => {
                    self.seen().day = Some(day);
                    tracing::debug!(sealed, "heads of {sealed} ledgers sealed");
                }
                Err(error) => failed += failure("to seal the ledgers", &error),
            }
        }
        match self.wake.look(core).await {
            Ok(0) => {}
            Ok(woken) => tracing::info!(woken, "{woken} held tasks are looked at anew"),
            Err(error) => failed += failure("which tasks are held", &error),
        }
        failed
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing under this lock panics")
    }
}

fn failure(what: &str, error: &ServiceError) -> usize {
    tracing::error!("it could not be looked {what}: {error}");
    1
}
