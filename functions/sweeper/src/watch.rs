//! What is looked at now and then, whatever is due.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use watchbill_core::service::{Core, PolicyNoted, Rounds, ServiceError};
use watchbill_governance::Policy;

use crate::alerts;
use crate::turn::Within;
use crate::wake::Wake;

/// How often it is looked whether the policy that holds is the one recorded. One that changes is seen
/// as soon as it is read.
const POLICY_EVERY: Duration = Duration::from_secs(30);
/// The rounds over all tenants, under the names by which the store keeps their places.
const SEALS: &str = "seals";
const ALERTS: &str = "alerts";

/// What this process remembers, so that most sweeps ask the store for nothing.
#[derive(Default)]
pub struct Watch {
    seen: Mutex<Seen>,
    wake: Wake,
    rounds: Rounds,
}

#[derive(Default, Clone)]
struct Seen {
    /// On the monotonic clock.
    policy: Option<Duration>,
    fingerprint: String,
}

impl Watch {
    /// Looks, where it is time to and as long as there is time. Answers how many looks failed:
    /// those come again at the next sweep, as does what there was no time for.
    pub async fn look(&self, core: &Core, within: &Within) -> usize {
        let seen = self.seen().clone();
        let (now, day) = (core.clock().monotonic(), core.clock().now().day());
        let mut failed = 0;
        // Where it can't be read, nothing is known to have been lifted.
        let policy = core.governance().policies().current().await.ok();
        let another = policy.as_ref().is_some_and(|policy| policy.fingerprint != seen.fingerprint);
        if another || seen.policy.is_none_or(|at| now.saturating_sub(at) >= POLICY_EVERY) {
            match core.audit().note_policy().await {
                // The next sweep goes on with the next tenants.
                Ok(PolicyNoted::GoesOn) => {}
                Ok(noted) => {
                    if noted == PolicyNoted::Changed {
                        tracing::info!("the policy that holds now is recorded");
                    }
                    if let Some(policy) = &policy {
                        self.wake.follow(&policy.fingerprint);
                    }
                    *self.seen() = Seen { policy: Some(now), fingerprint: fingerprint(policy) };
                }
                Err(error) => {
                    failed += failure("whether another policy holds", &error);
                    // It stays so until somebody mends it.
                    if matches!(error, ServiceError::Unreadable { .. }) {
                        *self.seen() = Seen { policy: Some(now), fingerprint: fingerprint(policy) };
                    }
                }
            }
        }
        if !within.is_over()
            && let Err(error) = self.seal(core, &day).await
        {
            failed += failure("to seal the ledgers", &error);
        }
        if !within.is_over()
            && let Err(error) = self.alerts(core, &day, within).await
        {
            failed += failure("which open alerts have no end", &error);
        }
        match self.wake.look(core, &self.rounds, within).await {
            Ok(0) => {}
            Ok(woken) => tracing::info!(woken, "{woken} held tasks are looked at anew"),
            Err(error) => failed += failure("which tasks are held", &error),
        }
        failed
    }

    /// Seals the ledgers of some tenants, until all are for the day.
    async fn seal(&self, core: &Core, day: &str) -> Result<(), ServiceError> {
        let Some(after) = self.rounds.place(core.context(), SEALS, day).await? else {
            return Ok(());
        };
        let (sealed, next) = core.audit().seal_ledgers(after.as_ref()).await?;
        self.rounds.reached(core.context(), SEALS, (day, next)).await;
        tracing::debug!(sealed, "heads of {sealed} ledgers sealed");
        Ok(())
    }

    /// Looks at the open alerts of some tenants, until those of all were looked at for the day.
    async fn alerts(&self, core: &Core, day: &str, within: &Within) -> Result<(), ServiceError> {
        let Some(after) = self.rounds.place(core.context(), ALERTS, day).await? else {
            return Ok(());
        };
        match alerts::look(core, after.as_ref(), within).await? {
            alerts::Reached::Tenant(next) => {
                self.rounds.reached(core.context(), ALERTS, (day, next)).await;
            }
            alerts::Reached::Within => {}
        }
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing under this lock panics")
    }
}

fn fingerprint(policy: Option<Arc<Policy>>) -> String {
    policy.map(|policy| policy.fingerprint.clone()).unwrap_or_default()
}

fn failure(what: &str, error: &ServiceError) -> usize {
    tracing::error!("it could not be looked {what}: {error}");
    1
}
