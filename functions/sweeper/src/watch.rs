//! Periodic checks that do not depend on due items.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use watchbill_core::service::{Core, PolicyCheck, Rounds, ServiceError};
use watchbill_governance::Policy;

use crate::alerts;
use crate::turn::Deadline;
use crate::wake::Wake;

/// How often the current policy is compared with the recorded one. A new policy is noticed as
/// soon as it is read.
const POLICY_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// The names under which the store keeps the positions of the rounds over all tenants.
const SEALS: &str = "seals";
const ALERTS: &str = "alerts";

/// Cached state, so that most sweeps do not query the store.
#[derive(Default)]
pub struct PeriodicChecks {
    last_check: Mutex<LastPolicyCheck>,
    wake: Wake,
    rounds: Rounds,
}

#[derive(Default, Clone)]
struct LastPolicyCheck {
    /// On the monotonic clock.
    policy: Option<Duration>,
    fingerprint: String,
}

impl PeriodicChecks {
    /// Runs the checks that are due, as long as there is time. Returns how many failed: those,
    /// and any without time, are retried at the next sweep.
    pub async fn look(&self, core: &Core, within: &Deadline) -> usize {
        let last_check = self.last_check().clone();
        let (now, day) = (core.clock().monotonic(), core.clock().now().day());
        let mut failed = 0;
        // If the policy can't be read, no change is assumed.
        let policy = core.governance().policies().current().await.ok();
        let is_new =
            policy.as_ref().is_some_and(|policy| policy.fingerprint != last_check.fingerprint);
        if is_new
            || last_check.policy.is_none_or(|at| now.saturating_sub(at) >= POLICY_CHECK_INTERVAL)
        {
            match core.audit().note_policy().await {
                // The next sweep continues with the next tenants.
                Ok(PolicyCheck::GoesOn) => {}
                Ok(noted) => {
                    if noted == PolicyCheck::Changed {
                        tracing::info!("the current policy is recorded");
                    }
                    if let Some(policy) = &policy {
                        self.wake.follow(&policy.fingerprint);
                    }
                    *self.last_check() =
                        LastPolicyCheck { policy: Some(now), fingerprint: fingerprint(policy) };
                }
                Err(error) => {
                    failed += failure("policy change", &error);
                    // It stays unreadable until someone fixes it.
                    if matches!(error, ServiceError::Unreadable { .. }) {
                        *self.last_check() =
                            LastPolicyCheck { policy: Some(now), fingerprint: fingerprint(policy) };
                    }
                }
            }
        }
        if !within.is_over()
            && let Err(error) = self.seal(core, &day).await
        {
            failed += failure("ledger seals", &error);
        }
        if !within.is_over()
            && let Err(error) = self.alerts(core, &day, within).await
        {
            failed += failure("open alerts", &error);
        }
        match self.wake.look(core, &self.rounds, within).await {
            Ok(0) => {}
            Ok(woken) => tracing::info!(woken, "deferred tasks are woken"),
            Err(error) => failed += failure("deferred tasks", &error),
        }
        failed
    }

    /// Seals the ledgers of some tenants, until all are sealed for the day.
    async fn seal(&self, core: &Core, day: &str) -> Result<(), ServiceError> {
        let Some(after) = self.rounds.place(core.context(), SEALS, day).await? else {
            return Ok(());
        };
        let (sealed, next) = core.audit().seal_ledgers(after.as_ref()).await?;
        self.rounds.reached(core.context(), SEALS, (day, next)).await;
        tracing::debug!(sealed, "ledger heads are sealed");
        Ok(())
    }

    /// Checks the open alerts of some tenants, until all are checked for the day.
    async fn alerts(&self, core: &Core, day: &str, within: &Deadline) -> Result<(), ServiceError> {
        let Some(after) = self.rounds.place(core.context(), ALERTS, day).await? else {
            return Ok(());
        };
        match alerts::look(core, after.as_ref(), within).await? {
            alerts::Progress::Tenant(next) => {
                self.rounds.reached(core.context(), ALERTS, (day, next)).await;
            }
            alerts::Progress::Within => {}
        }
        Ok(())
    }

    fn last_check(&self) -> std::sync::MutexGuard<'_, LastPolicyCheck> {
        self.last_check.lock().expect("nothing under this lock panics")
    }
}

fn fingerprint(policy: Option<Arc<Policy>>) -> String {
    policy.map(|policy| policy.fingerprint.clone()).unwrap_or_default()
}

fn failure(check: &str, error: &ServiceError) -> usize {
    tracing::error!(check, %error, "a periodic check failed");
    1
}
