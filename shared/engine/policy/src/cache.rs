//! A cached policy whose text is stored elsewhere and re-read at an interval.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use watchbill_core::ports::Clock;
use watchbill_governance::{GateRules, Policies, Policy, PolicyUnavailable};

use crate::read::read_policy;

/// How often the policy text is re-read.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The source of a policy's text.
#[async_trait]
pub trait PolicyText: Send + Sync {
    /// The name for people: a path, a parameter's name.
    fn name(&self) -> &str;

    async fn read(&self) -> Result<String, String>;
}

/// The policy of a text, at most 30 s old. If the text can't be read or is invalid, there is no
/// policy. The previous one is not used, as it may be exactly what someone wants to stop.
pub struct TextPolicies {
    text: Box<dyn PolicyText>,
    clock: Arc<dyn Clock>,
    gates_off: bool,
    known: Mutex<Option<CachedPolicy>>,
}

struct CachedPolicy {
    again_at: Duration,
    text: Option<String>,
    policy: Result<Arc<Policy>, PolicyUnavailable>,
}

impl TextPolicies {
    /// `gates_off` switches the standing gates off, whatever the text says.
    pub fn new(text: impl PolicyText + 'static, clock: Arc<dyn Clock>, gates_off: bool) -> Self {
        Self { text: Box::new(text), clock, gates_off, known: Mutex::new(None) }
    }

    async fn look(&self, before: Option<CachedPolicy>, now: Duration) -> CachedPolicy {
        let again_at = now + POLL_INTERVAL;
        let name = self.text.name();
        let text = match self.text.read().await {
            Ok(text) => text,
            Err(reason) => {
                let unavailable = PolicyUnavailable(format!("{name}: {reason}"));
                tracing::warn!("{unavailable}");
                return CachedPolicy { again_at, text: None, policy: Err(unavailable) };
            }
        };
        if let Some(before) = before
            && before.text.as_ref() == Some(&text)
        {
            return CachedPolicy { again_at, ..before };
        }
        let policy = match read_policy(&text) {
            Ok(mut policy) => {
                if self.gates_off {
                    policy.gates = GateRules::off();
                }
                tracing::info!(
                    policy = name,
                    "policy loaded, fingerprint {:.12}",
                    policy.fingerprint
                );
                Ok(Arc::new(policy))
            }
            Err(error) => {
                let unavailable = PolicyUnavailable(format!("{name}: {error}"));
                tracing::error!("{unavailable}");
                Err(unavailable)
            }
        };
        CachedPolicy { again_at, text: Some(text), policy }
    }
}

#[async_trait]
impl Policies for TextPolicies {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        let mut known = self.known.lock().await;
        let now = self.clock.monotonic();
        match known.as_ref() {
            Some(fresh) if now < fresh.again_at => fresh.policy.clone(),
            _ => {
                let before = known.take();
                let found = self.look(before, now).await;
                let policy = found.policy.clone();
                *known = Some(found);
                policy
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use watchbill_testkit::FakeClock;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<StdMutex<Option<String>>>, Arc<AtomicUsize>);

    impl Page {
        fn write(&self, text: Option<&str>) {
            *self.0.lock().unwrap() = text.map(str::to_owned);
        }
    }

    #[async_trait]
    impl PolicyText for Page {
        fn name(&self) -> &str {
            "page"
        }

        async fn read(&self) -> Result<String, String> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.lock().unwrap().clone().ok_or_else(|| "it is gone".to_owned())
        }
    }

    fn policies(page: &Page, gates_off: bool) -> (TextPolicies, Arc<FakeClock>) {
        let clock = Arc::new(FakeClock::default());
        (TextPolicies::new(page.clone(), clock.clone(), gates_off), clock)
    }

    #[tokio::test]
    async fn a_change_applies_within_thirty_seconds_and_not_before_a_poll() {
        let page = Page::default();
        page.write(Some("quorum: 2"));
        let (policies, clock) = policies(&page, false);
        assert_eq!(policies.current().await.unwrap().quorum, 2);
        page.write(Some("quorum: 3"));
        clock.advance(Duration::from_secs(29));
        assert_eq!(policies.current().await.unwrap().quorum, 2);
        assert_eq!(page.1.load(Ordering::Relaxed), 1);
        clock.advance(Duration::from_secs(1));
        assert_eq!(policies.current().await.unwrap().quorum, 3);
    }

    #[tokio::test]
    async fn a_text_that_is_the_same_gives_the_same_policy() {
        let page = Page::default();
        page.write(Some("quorum: 2"));
        let (policies, clock) = policies(&page, false);
        let first = policies.current().await.unwrap();
        clock.advance(POLL_INTERVAL);
        assert!(Arc::ptr_eq(&first, &policies.current().await.unwrap()));
    }

    #[tokio::test]
    async fn without_a_text_or_with_a_wrong_one_there_is_no_policy() {
        let page = Page::default();
        page.write(Some("quorum: 2"));
        let (policies, clock) = policies(&page, false);
        policies.current().await.unwrap();
        for (text, wanted) in [(None, "page: it is gone"), (Some("quorum: no"), "page: line 1")] {
            page.write(text);
            clock.advance(POLL_INTERVAL);
            let said = policies.current().await.unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}");
        }
        page.write(Some("quorum: 2"));
        clock.advance(POLL_INTERVAL);
        assert_eq!(policies.current().await.unwrap().quorum, 2);
    }

    #[tokio::test]
    async fn the_standing_gates_can_be_switched_off_over_it() {
        let page = Page::default();
        page.write(Some("gates: { rules: [{ name: a }] }"));
        let (policies, _) = policies(&page, true);
        let policy = policies.current().await.unwrap();
        assert_eq!((&policy.gates, policy.gate_rules.len()), (&GateRules::off(), 1));
    }
}
