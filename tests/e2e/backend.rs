//! The interface between the scenarios and the installations that they run against.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::support::{Books, Client, Keys, assert_chain_holds};

/// What a scenario requires beyond the defaults, independent of the backend.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Nothing requires approval.
    pub gates_off: bool,
    /// Agents whose tasks are left to external workers.
    pub external: &'static [&'static str],
    pub decide_within: Option<&'static str>,
    /// No one may approve what they submitted themselves.
    pub two_persons: bool,
    /// How long one run may take.
    pub run_limit: Option<&'static str>,
    /// The base and the cap of the retry backoff.
    pub retry_wait: Option<&'static str>,
    /// How long an external worker may hold a task without a heartbeat.
    pub worker_lease: Option<&'static str>,
    /// Percent of the time to the deadline after which a warning is given.
    pub warn_at: Option<u8>,
    /// As few tasks as possible run at once, so that the others have to wait.
    pub crowded: bool,
    /// The webhook that is notified of failures and the like.
    pub webhook: Option<String>,
    /// The policy file, if it is not the built-in one.
    pub policy: Option<&'static str>,
    /// The Redis where other programs keep their tasks, and what the bridge exchanges.
    pub redis: Option<RedisSettings>,
}

#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub url: String,
    pub drain: &'static str,
    pub feed: &'static str,
    pub events: &'static str,
    pub mirror: &'static str,
}

impl Settings {
    /// The settings as rules, which are the same for every backend. Who may approve is not among
    /// them: where other people are involved, loosening that takes an explicit setting.
    pub fn rules(&self) -> Map<String, Value> {
        let mut rules = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            rules.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("external_agents", Some(json!(self.external)));
        set("sla", self.warn_at.map(|percent| json!({"threshold": percent})));
        set("run_limit", self.run_limit.map(Value::from));
        set("worker_lease", self.worker_lease.map(Value::from));
        set("retries", self.retry_wait.map(|wait| json!({"base": wait, "cap": wait})));
        set("approvals", self.decide_within.map(|span| json!({"decide_within": span})));
        rules
    }

    /// The text of the policy file.
    pub fn policy(&self) -> String {
        let gates = || json!({"gates": {"all": if self.gates_off { "off" } else { "on" }}});
        self.policy.map_or_else(|| gates().to_string(), str::to_owned)
    }
}

/// An installation that scenarios run against. A failure to start fails the run.
pub trait Backend: Sized {
    async fn start(settings: &Settings) -> Self;

    fn url(&self) -> String;

    fn keys(&self) -> Keys;

    /// A client with the admin's key.
    fn client(&self) -> Client {
        Client::new(&self.url(), &self.keys().admin)
    }

    /// How late the installation may notice a due time.
    fn late(&self) -> Duration;

    /// How many P3 tasks make a crowd where `crowded` is set, and how many of them may start
    /// while a P0 task waits. Its task reference takes a moment, in which claimed messages are
    /// processed.
    fn crowd(&self) -> (usize, usize);

    async fn restart(&mut self);

    /// Replaces the policy file that it was started with.
    async fn set_policy(&self, policy: &str);

    async fn stop(self);

    /// Waits until nothing changes any more: all runnable tasks have run and are recorded.
    async fn settled(&self, anyone: &Client);

    /// Everything that its processes have logged.
    async fn log(&self) -> String;

    /// Checks for leftovers that only this backend can see, such as dead letters.
    async fn assert_nothing_left(&self);
}

/// A scenario's installation with its clients.
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
        let (keys, admin) = (backend.keys(), backend.client());
        Self {
            agent: admin.with_key(&keys.agent),
            approver: admin.with_key(&keys.approver),
            user: admin.with_key(&keys.user),
            admin,
            backend,
        }
    }

    /// Like [`end`](Self::end), for a lane that keeps a delayed task reference, as it does of a
    /// deferred task: the reference is obsolete, and arrives only a quarter of an hour from now.
    pub async fn end_before_its_references(self) {
        let mut looks = 0;
        loop {
            let wrong = Books::read(&self.user).await.faults();
            looks += 1;
            match wrong.is_empty() {
                true => break,
                false => assert!(looks < 300, "{}", wrong.join("\n")),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_chain_holds(&self.admin).await;
        self.backend.stop().await;
    }

    /// Checks that nothing is open or left over, and that all records are consistent.
    pub async fn end(self) {
        self.backend.settled(&self.user).await;
        for status in ["pending", "assigned", "in_progress", "blocked"] {
            let open = self.user.all(&format!("/tasks?status={status}"), "tasks").await;
            assert!(open.is_empty(), "left over: {open:?}");
        }
        let asked = self.user.all("/approvals/pending?", "approvals").await;
        assert!(asked.is_empty(), "left over: {asked:?}");
        Books::read(&self.user).await.check();
        assert_chain_holds(&self.admin).await;
        self.backend.assert_nothing_left().await;
        self.backend.stop().await;
    }
}
