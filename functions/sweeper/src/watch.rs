//! What is looked at now and then, whatever is due.

use std::sync::Mutex;
use std::time::Duration;

use watchbill_core::domain::TenantId;
use watchbill_core::service::{Core, PolicyNoted, ServiceError};

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
    /// The day (UTC) in which all ledgers were last sealed.
    day: Option<String>,
    /// The day in which they are being sealed, and the last tenant whose is.
    sealing: Option<(String, TenantId)>,
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
                // The next sweep goes on with the next tenants.
                Ok(PolicyNoted::GoesOn) => {}
                Ok(noted) => {
                    self.seen().policy = Some(now);
                    if noted == PolicyNoted::Changed {
                        tracing::info!("the policy that holds now is recorded");
                        self.wake.begin(core);
                    }
                }
                Err(error) => failed += failure("whether another policy holds", &error),
            }
        }
        if seen.day.as_ref() != Some(&day) {
            let after = seen.sealing.filter(|(of, _)| *of == day).map(|(_, after)| after);
            match core.seal_ledgers(after.as_ref()).await {
                Ok((sealed, next)) => {
                    let mut seen = self.seen();
                    match next {
                        Some(after) => seen.sealing = Some((day, after)),
                        None => (seen.day, seen.sealing) = (Some(day), None),
                    }
                    drop(seen);
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
