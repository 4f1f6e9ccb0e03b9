use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::rig::{Books, Client, Keys, assert_chain_holds};

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
    /// As few tasks as can be are run at once, so that the others have to wait.
    pub crowded: bool,
    /// Who is to be told of failures and the like.
    pub webhook: Option<String>,
    /// The policy file, where it is not the built-in one.
    pub policy: Option<&'static str>,
    /// Where programs of others keep their tasks, and what goes over the bridge.
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
    /// In the words of the rules, which are the same for every back end. Who may approve is
    /// not among them: where others are about, a word more has to be said to loosen that.
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

    /// The policy file.
    pub fn policy(&self) -> String {
        let gates = || json!({"gates": {"all": if self.gates_off { "off" } else { "on" }}});
        self.policy.map_or_else(|| gates().to_string(), str::to_owned)
    }
}

/// An installation that scenarios run against. What can't be started fails the run.
pub trait Backend: Sized {
    async fn start(settings: &Settings) -> Self;

    fn url(&self) -> String;

    fn keys(&self) -> Keys;

    /// A caller with the admin's key.
    fn client(&self) -> Client {
        Client::new(&self.url(), &self.keys().admin)
    }

    /// How late a moment in time may be noticed.
    fn late(&self) -> Duration;

    /// How many P3 make a crowd where one was asked for, and how many of them may be started
    /// while a P0 waits. Its pointer takes a moment, in which what is in hand goes on.
    fn crowd(&self) -> (usize, usize);

    async fn restart(&mut self);

    /// Puts another policy file in place of the one it was started with.
    async fn set_policy(&self, policy: &str);

    async fn stop(self);

    /// Waits until nothing moves any more: all that is to run has run, and is recorded.
    async fn settled(&self, anyone: &Client);

    /// All that its processes have logged.
    async fn log(&self) -> String;

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
        let (keys, admin) = (backend.keys(), backend.client());
        Self {
            agent: admin.with_key(&keys.agent),
            approver: admin.with_key(&keys.approver),
            user: admin.with_key(&keys.user),
            admin,
            backend,
        }
    }

    /// The same as [`end`](Self::end) where a lane keeps a pointer for later, as it does of what was
    /// held: it is worth nothing, and comes a quarter of an hour from now.
    pub async fn end_before_its_pointers(self) {
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

    /// Nothing open, nothing unseen, and everything that is recorded fits together.
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
