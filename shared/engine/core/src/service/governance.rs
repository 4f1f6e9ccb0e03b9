//! Where the policy comes from, and what to do while it is unreachable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use watchbill_governance::{FixedPolicy, Policies, Policy};

/// What happens to mutating work while governance is unreachable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// It waits and is retried; read-only work continues.
    #[default]
    Restrict,
    /// It fails.
    Deny,
    /// It runs without governance, which is logged for every task.
    Allow,
}

impl OnFailure {
    pub fn as_str(self) -> &'static str {
        match self {
            OnFailure::Restrict => "restrict",
            OnFailure::Deny => "deny",
            OnFailure::Allow => "allow",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "restrict" => Some(OnFailure::Restrict),
            "deny" => Some(OnFailure::Deny),
            "allow" => Some(OnFailure::Allow),
            _ => None,
        }
    }
}

/// The source of the policy, and the behaviour without it. Cheap to clone.
#[derive(Clone)]
pub struct Governance {
    policies: Arc<dyn Policies>,
    on_failure: OnFailure,
    degraded: Arc<AtomicBool>,
}

impl Default for Governance {
    fn default() -> Self {
        Self::fixed(Policy::default())
    }
}

impl Governance {
    pub fn new(policies: Arc<dyn Policies>, on_failure: OnFailure) -> Self {
        Self { policies, on_failure, degraded: Arc::default() }
    }

    /// One policy for the lifetime of the process.
    pub fn fixed(policy: Policy) -> Self {
        Self::new(Arc::new(FixedPolicy(Arc::new(policy))), OnFailure::default())
    }

    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// Whether it was unreachable when it was last needed.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Whether it is reachable now, and was when it was last needed.
    pub async fn is_reached(&self) -> bool {
        self.policies.current().await.is_ok() && !self.is_degraded()
    }

    pub(crate) fn set_degraded(&self, degraded: bool) {
        self.degraded.store(degraded, Ordering::Relaxed);
    }

    pub fn policies(&self) -> &Arc<dyn Policies> {
        &self.policies
    }

    /// The policy for the gates of a new task: the built-in one, which is stricter than most,
    /// where none can be read. The task is authorized again before anything runs.
    pub(super) async fn policy_for_gates(&self) -> Arc<Policy> {
        match self.policies.current().await {
            Ok(policy) => {
                self.set_degraded(false);
                policy
            }
            Err(error) => {
                self.set_degraded(true);
                tracing::warn!("the built-in policy gates new tasks: {error}");
                Arc::default()
            }
        }
    }
}
