//! The clock and the policies of a scenario.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::Clock;
use watchbill_domain::Timestamp;
use watchbill_governance::{Policies, Policy, PolicyUnavailable};
use watchbill_testkit::FakeClock;

/// Sleeps of less than 5 s end at once. Longer ones last until the scenario advances the clock.
pub struct Brisk(pub Arc<FakeClock>);

#[async_trait]
impl Clock for Brisk {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, span: Duration) {
        match span < Duration::from_secs(5) {
            true => tokio::task::yield_now().await,
            false => self.0.sleep(span).await,
        }
    }
}

/// The current policy, and every policy that was ever handed out.
pub struct Shelf {
    now: Mutex<Option<Arc<Policy>>>,
    handed: Mutex<Vec<Arc<Policy>>>,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { now: Mutex::new(Some(Arc::default())), handed: Mutex::default() }
    }
}

impl Shelf {
    pub fn put(&self, policy: Option<Arc<Policy>>) {
        *self.now.lock().expect("nobody panics here") = policy;
    }

    pub fn handed(&self) -> usize {
        self.handed.lock().expect("nobody panics here").len()
    }

    pub fn handed_from(&self, place: usize) -> Vec<Arc<Policy>> {
        self.handed.lock().expect("nobody panics here")[place..].to_vec()
    }
}

#[async_trait]
impl Policies for Shelf {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        let now = self.now.lock().expect("nobody panics here").clone();
        let now = now.ok_or_else(|| PolicyUnavailable("the file is gone".to_owned()))?;
        self.handed.lock().expect("nobody panics here").push(now.clone());
        Ok(now)
    }
}
