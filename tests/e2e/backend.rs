use std::time::Duration;

use super::super::rig::{Books, Client, Keys, settled};

/// What a scenario asks of an installation beyond the defaults, in any back end's terms.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Nothing waits for a person.
    pub gates_off: bool,
    /// Agents whose tasks are left to workers outside.
    pub external: &'static [&'static str],
    pub decide_within: Option<&'static str>,
    /// Nobody approves what they submitted themselves.
    pub two_persons: bool,
    /// How long one run may take.
    pub run_limit: Option<&'static str>,
    /// The longest wait before a retry.
    pub retry_wait: Option<&'static str>,
    /// How long a worker outside holds a task without a word.
    pub worker_lease: Option<&'static str>,
    /// Percent of the time to the deadline after which a warning is given.
    pub warn_at: Option<u8>,
    /// Tasks that are run at once.
    pub slots: Option<usize>,
}

/// An installation that scenarios run against. What can't be started fails the run.
pub trait Backend: Sized {
    async fn start(settings: &Settings) -> Self;

    fn url(&self) -> String;

    fn keys(&self) -> Keys;

    /// How late a moment in time may be noticed.
    fn late(&self) -> Duration;

    async fn restart(&mut self);

    async fn stop(self);

    /// What only this back end can see of leftovers, such as dead letters.
    async fn assert_nothing_left(&self);
}

/// A scenario's installation with its callers.
pub struct World<B> {
    pub backend: B,
    pub admin: Client,
    pub agent: Client,
    pub approver: Client,
    pub user: Client,
}

impl<B: Backend> World<B> {
    pub async fn start(settings: Settings) -> Self {
        let backend = B::start(&settings).await;
        let (keys, admin) = (backend.keys(), Client::new(&backend.url(), backend.keys().admin));
        Self {
            agent: admin.with_key(keys.agent),
            approver: admin.with_key(keys.approver),
            user: admin.with_key(keys.user),
            admin,
            backend,
        }
    }

    /// Nothing open, nothing unseen, and everything that is recorded fits together.
    pub async fn end(self) {
        settled(&self.user).await;
        for status in ["pending", "assigned", "in_progress", "blocked"] {
            let open = self.user.all(&format!("/tasks?status={status}"), "tasks").await;
            assert!(open.is_empty(), "left over: {open:?}");
        }
        let asked = self.user.all("/approvals/pending?", "approvals").await;
        assert!(asked.is_empty(), "left over: {asked:?}");
        Books::read(&self.user).await.check();
        self.backend.assert_nothing_left().await;
        self.backend.stop().await;
    }
}
