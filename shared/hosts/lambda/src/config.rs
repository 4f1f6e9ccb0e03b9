//! Configures a function from the environment that the template writes. Every error names the
//! setting and its value. A wrong setting stops the start.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_types::SdkConfig;
use watchbill_aws::blobs::{self, NoBlobs, S3Blobs};
use watchbill_aws::bus::EventBridgeBus;
use watchbill_aws::config::sdk_config;
use watchbill_aws::dynamo::{self, DynamoStore};
use watchbill_aws::lanes::{Queues, SqsLanes};
use watchbill_aws::notices::SqsNotices;
use watchbill_aws::policy::ParameterText;
use watchbill_aws::secrets::{Secret, SecretLocation};
use watchbill_aws::wake::PollWake;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Blobs, Buses, Clock, Entropy, Key, Store};
use watchbill_core::service::{Core, Governance, OnFailure, Ports};
use watchbill_governance::Policies;
use watchbill_policy::{TextPolicies, built_in};
use watchbill_wire::settings::{Env, RulesForm, allow, gates_off, on_failure, on_or_off, words};

use crate::start_log;

/// Time that a run leaves of its function's time, for loading before it and storing after it.
const AROUND_RUN: Duration = Duration::from_secs(3);

/// The environment of a function, and what is made from it.
pub struct Setup {
    pub env: Env,
    pub sdk: SdkConfig,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// The timeout of the function.
    pub timeout: Duration,
}

impl Setup {
    /// Reads the environment and starts the log.
    pub fn new(
        clock: impl Clock + 'static,
        entropy: impl Entropy + 'static,
    ) -> anyhow::Result<Self> {
        let env: Env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        start_log(non_empty(&env, "WATCHBILL_LOG").unwrap_or("warn"))?;
        let timeout = number(&env, "WATCHBILL_TIMEOUT")?.unwrap_or(30);
        Ok(Self {
            sdk: sdk_config(&env)?,
            env,
            clock: Arc::new(clock),
            entropy: Arc::new(entropy),
            timeout: Duration::from_secs(timeout),
        })
    }

    /// A setting. An empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        non_empty(&self.env, name)
    }

    pub fn need(&self, name: &str) -> anyhow::Result<&str> {
        self.get(name).with_context(|| format!("{name} is not set; the template sets it"))
    }

    /// The stack's name, for metrics and leases.
    pub fn stack(&self) -> &str {
        self.get("WATCHBILL_STACK").unwrap_or("watchbill")
    }

    /// The owner name of this process in leases.
    pub fn owner(&self) -> String {
        let stream = self.get("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or("lambda");
        format!("{stream}-{:08x}", self.entropy.next_u64() as u32)
    }

    /// The core of a function that, unlike agents, handles no task bodies.
    pub fn core(&self) -> anyhow::Result<Core> {
        self.core_over(Arc::new(self.store()?), Arc::new(NoBlobs))
    }

    /// The core of a function that only reads. Its role refuses writes, and it reads no policy.
    pub fn reading_core(&self) -> anyhow::Result<Core> {
        let core = self.ungoverned(Arc::new(self.store()?), Arc::new(NoBlobs))?;
        Ok(core.governed_by(Governance::new(Arc::new(built_in(false)), OnFailure::Restrict)))
    }

    /// The core of a function that also reads or writes large bodies.
    pub fn core_with_blobs(&self) -> anyhow::Result<Core> {
        let bucket = self.need("WATCHBILL_BLOBS")?.to_owned();
        let blobs = S3Blobs::new(blobs::client(&self.sdk), bucket);
        self.core_over(Arc::new(self.store()?), Arc::new(blobs))
    }

    fn store(&self) -> anyhow::Result<DynamoStore> {
        let table = self.need("WATCHBILL_TABLE")?;
        Ok(DynamoStore::new(dynamo::client(&self.sdk), table))
    }

    fn core_over(&self, store: Arc<dyn Store>, blobs: Arc<dyn Blobs>) -> anyhow::Result<Core> {
        Ok(self.ungoverned(store, blobs)?.governed_by(self.governance()?))
    }

    fn ungoverned(&self, store: Arc<dyn Store>, blobs: Arc<dyn Blobs>) -> anyhow::Result<Core> {
        let ports = Ports {
            store,
            blobs,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            wake: Arc::new(PollWake::new(self.clock.clone())),
        };
        let epoch = number(&self.env, "WATCHBILL_EPOCH")?.unwrap_or(1);
        let core = Core::new(ports, Arc::new(self.rules()?), epoch);
        // All functions plan alike: an approval is bound to the hash of a plan that one of them
        // showed, and another verifies it.
        Ok(core.planned_by(Arc::new(watchbill_catalog::planner())))
    }

    /// Connects to the table during initialization, when the CPU is not throttled yet, instead
    /// of in the first call. Only if WATCHBILL_WARM is `on`.
    pub async fn warm(&self, core: &Core) -> anyhow::Result<()> {
        let on = self.get("WATCHBILL_WARM").map(|text| on_or_off("WATCHBILL_WARM", text));
        if on.transpose()? == Some(true) {
            let absent = Key::new("SYS#warm", "0");
            if let Err(error) = core.store().get(&absent).await {
                tracing::warn!("the table does not respond yet: {error}");
            }
        }
        Ok(())
    }

    /// The rules of the template's parameter `EngineConfig`. Self-approval must be forced, and a
    /// run ends within its function's time.
    pub fn rules(&self) -> anyhow::Result<EngineConfig> {
        let text = self.get("WATCHBILL_RULES").unwrap_or("{}");
        let form: RulesForm =
            serde_json::from_str(text).with_context(|| format!("WATCHBILL_RULES '{text}'"))?;
        let mut rules = form.rules(&self.env, false).context("WATCHBILL_RULES")?;
        if rules.approve_own {
            self.must_be_forced("APPROVAL_SELF=allow")?;
        }
        let most = self.timeout.saturating_sub(AROUND_RUN).max(Duration::from_secs(1));
        rules.lease.run = rules.lease.run.min(most);
        Ok(rules)
    }

    /// The policy of the named parameter, read on first use, else the built-in policy.
    pub fn governance(&self) -> anyhow::Result<Governance> {
        let on_failure = on_failure(&self.env, None)?;
        if on_failure == OnFailure::Allow {
            self.must_be_forced("GOVERNANCE_ON_FAILURE=allow")?;
        }
        let gates_off = gates_off(&self.env)?;
        let policies: Arc<dyn Policies> = match self.get("WATCHBILL_POLICY_PARAMETER") {
            Some(name) => {
                let text = ParameterText::new(&self.sdk, name);
                Arc::new(TextPolicies::new(text, self.clock.clone(), gates_off))
            }
            None => Arc::new(built_in(gates_off)),
        };
        Ok(Governance::new(policies, on_failure))
    }

    /// Refuses a setting that makes a public installation unsafe, unless it is forced.
    pub fn must_be_forced(&self, what: &str) -> anyhow::Result<()> {
        if self.get("WATCHBILL_FORCE_UNSAFE") != Some("yes") {
            bail!("{what} is refused on AWS; the parameter ForceUnsafe=yes allows it");
        }
        Ok(())
    }

    pub fn queues(&self) -> anyhow::Result<Queues> {
        Ok(Queues::new(self.need("WATCHBILL_QUEUES")?))
    }

    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.sdk)
    }

    pub fn lanes(&self) -> anyhow::Result<SqsLanes> {
        Ok(SqsLanes::new(self.sqs(), self.queues()?))
    }

    pub fn bus(&self) -> anyhow::Result<EventBridgeBus> {
        let client = aws_sdk_eventbridge::Client::new(&self.sdk);
        Ok(EventBridgeBus::new(client, self.need("WATCHBILL_BUS")?))
    }

    /// Where recorded events go: the bus, and the notify lane for those worth a notice.
    pub fn buses(&self) -> anyhow::Result<Buses> {
        let url = self.queues()?.url("notify");
        let notices = SqsNotices::new(self.sqs(), url, self.words("NOTIFY_EVENTS"));
        Ok(Buses(vec![Arc::new(self.bus()?), Arc::new(notices)]))
    }

    /// The words of a comma-separated list.
    pub fn words(&self, name: &str) -> Vec<String> {
        self.get(name).map(words).unwrap_or_default()
    }

    /// A permission that is off unless it is set to allow.
    pub fn allows(&self, name: &str) -> anyhow::Result<bool> {
        Ok(self.get(name).map(|text| allow(name, text)).transpose()?.unwrap_or(false))
    }

    /// A field of a secret whose ARN is in a setting.
    pub fn managed_secret(&self, setting: &str, field: &'static str) -> Option<Secret> {
        let place = SecretLocation::Manager { id: self.get(setting)?.to_owned(), field };
        Some(Secret::new(&self.sdk, place, self.clock.clone()))
    }

    /// The current value of a SecureString whose name is in a setting. `None` if the setting is
    /// not set.
    pub async fn read_parameter(&self, setting: &str) -> anyhow::Result<Option<String>> {
        let Some(name) = self.get(setting) else { return Ok(None) };
        let place = SecretLocation::Parameter { name: name.to_owned() };
        let secret = Secret::new(&self.sdk, place, self.clock.clone());
        Ok(Some(secret.get().await.with_context(|| setting.to_owned())?.to_string()))
    }
}

fn non_empty<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

fn number(env: &Env, name: &str) -> anyhow::Result<Option<u64>> {
    let parse =
        |text: &str| text.parse().with_context(|| format!("{name} '{text}' is not a number"));
    non_empty(env, name).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use watchbill_testkit::{FakeClock, SeededEntropy};

    use super::*;
    use watchbill_governance::GateRules;

    fn setup(env: &[(&str, &str)]) -> Setup {
        Setup {
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            sdk: SdkConfig::builder().build(),
            clock: Arc::new(FakeClock::default()),
            entropy: Arc::new(SeededEntropy::new(1)),
            timeout: Duration::from_secs(60),
        }
    }

    #[test]
    fn self_approval_is_off_unless_forced() {
        assert!(!setup(&[]).rules().unwrap().approve_own);
        let own = r#"{"approvals": {"own": true}}"#;
        for allowed in [("APPROVAL_SELF", "allow"), ("WATCHBILL_RULES", own)] {
            let error = setup(&[allowed]).rules().unwrap_err().to_string();
            assert!(
                error.contains("APPROVAL_SELF=allow") && error.contains("ForceUnsafe"),
                "{error}"
            );
            let forced = setup(&[allowed, ("WATCHBILL_FORCE_UNSAFE", "yes")]).rules();
            assert!(forced.unwrap().approve_own);
        }
    }

    #[tokio::test]
    async fn work_without_governance_must_be_forced() {
        assert_eq!(setup(&[]).governance().unwrap().on_failure(), OnFailure::Restrict);
        let allow = ("GOVERNANCE_ON_FAILURE", "allow");
        let error = setup(&[allow]).governance().err().unwrap().to_string();
        assert!(error.contains("GOVERNANCE_ON_FAILURE=allow is refused on AWS"), "{error}");
        let forced = setup(&[allow, ("WATCHBILL_FORCE_UNSAFE", "yes")]).governance().unwrap();
        assert_eq!(forced.on_failure(), OnFailure::Allow);
        let off = setup(&[("WATCHBILL_GATES", "off")]).governance().unwrap();
        assert_eq!(off.policies().current().await.unwrap().gates, GateRules::off());
    }

    #[test]
    fn a_run_ends_within_its_functions_time() {
        assert_eq!(setup(&[]).rules().unwrap().lease.run, Duration::from_secs(57));
        let short = setup(&[("WATCHBILL_RULES", r#"{"run_limit": "5s"}"#)]).rules().unwrap();
        assert_eq!(short.lease.run, Duration::from_secs(5));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (env, wanted) in [
            (("WATCHBILL_RULES", "{"), "WATCHBILL_RULES '{'"),
            (("WATCHBILL_RULES", r#"{"gatez": 1}"#), "gatez"),
            (("WATCHBILL_RULES", r#"{"gates": {"all": "off"}}"#), "policy.yaml"),
            (("APPROVAL_SELF", "perhaps"), "perhaps"),
        ] {
            let error = format!("{:#}", setup(&[env]).rules().unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
        let error = setup(&[("WATCHBILL_TABLE", "")]).core().err().unwrap().to_string();
        assert!(error.contains("WATCHBILL_TABLE"), "an empty setting counts as not set: {error}");
        let error = sdk_config(&Env::new()).unwrap_err().to_string();
        assert!(error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    }
}
