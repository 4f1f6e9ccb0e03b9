//! The configuration of an installation: part of `watchbill.yaml`, and on AWS the template
//! parameter `Rules`, with the same keys. Unknown keys are refused, because a misspelt
//! setting would silently have no effect.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde::Deserialize;
use watchbill_core::decide::EngineConfig;
use watchbill_core::service::OnFailure;
use watchbill_domain::{Agent, Priority, TaskType, parse_span};

mod feed;
mod reputation;

pub use feed::{ExportSettings, fed_agent};
pub use reputation::{DecayForm, ReputationForm};

/// The environment, as a map so that tests can supply their own. It takes precedence over
/// files.
pub type Env = BTreeMap<String, String>;

/// Maximum length of a run. Longer work suspends and resumes.
const MAX_RUN: Duration = Duration::from_secs(15 * 60);
/// Minimum retention of the approval history.
const MIN_APPROVALS: Duration = Duration::from_secs(30 * 86_400);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{setting}: {fault}")]
pub struct SettingError {
    pub setting: String,
    pub fault: String,
}

impl SettingError {
    pub fn new(setting: &str, fault: impl Display) -> Self {
        Self { setting: setting.to_owned(), fault: fault.to_string() }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesForm {
    pub routes: BTreeMap<String, String>,
    pub external_agents: Vec<String>,
    pub external_types: Vec<String>,
    pub approvals: ApprovalsForm,
    pub retries: RetriesForm,
    pub sla: SlaForm,
    pub keep: KeepForm,
    pub run_limit: Option<String>,
    /// How long an external worker holds a task without an update.
    pub worker_lease: Option<String>,
    pub gates: MovedSetting,
    pub reputation: ReputationForm,
}

/// A setting that has moved to the policy. The error says so instead of calling it unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct MovedSetting;

impl<'de> Deserialize<'de> for MovedSetting {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from)?;
        let fault = "gates have moved to policy.yaml, in the same form; see docs/policy.md";
        Err(serde::de::Error::custom(fault))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalsForm {
    pub decide_within: Option<String>,
    pub use_within: Option<String>,
    pub use_at_most: Option<String>,
    /// Whether a person may approve what they submitted themselves.
    pub own: Option<bool>,
    /// Whether agents may decide on approvals too.
    pub agents: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetriesForm {
    pub base: Option<String>,
    pub cap: Option<String>,
    pub most: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlaForm {
    pub targets: BTreeMap<String, String>,
    pub threshold: Option<u8>,
    pub lift: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepForm {
    pub tasks: Option<String>,
    pub approvals: Option<String>,
    /// Retention of resolved alerts.
    pub alerts: Option<String>,
    /// How long an open alert is kept that no one raises or acknowledges; then it ends.
    pub open_alerts: Option<String>,
}

impl RulesForm {
    /// Builds the engine configuration; the environment takes precedence. `approve_own` is the
    /// default for whether people may approve what they submitted themselves.
    pub fn rules(&self, env: &Env, approve_own: bool) -> Result<EngineConfig, SettingError> {
        let mut rules =
            EngineConfig { not_built: Agent::not_built().collect(), ..EngineConfig::default() };
        for (task_type, agent) in &self.routes {
            let wrong = |fault: &dyn Display| SettingError::new("routes", fault);
            let task_type = TaskType::parse(task_type).map_err(|e| wrong(&e))?;
            rules.routes.insert(task_type, Agent::parse(agent).map_err(|e| wrong(&e))?);
        }
        let external = match env.get("EXTERNAL_AGENTS") {
            Some(list) => words(list),
            None => self.external_agents.clone(),
        };
        for agent in external {
            let agent =
                Agent::parse(&agent).map_err(|e| SettingError::new("external_agents", e))?;
            rules.external.insert(agent);
        }
        let types = match env.get("EXTERNAL_TYPES") {
            Some(list) => words(list),
            None => self.external_types.clone(),
        };
        for task_type in types {
            let task_type =
                TaskType::parse(&task_type).map_err(|e| SettingError::new("external_types", e))?;
            rules.external_types.insert(task_type);
        }
        if let Some(fed) = env.get("REDIS_FEED") {
            ExportSettings::read(fed)
                .map_err(|e| SettingError::new("REDIS_FEED", e))?
                .leave(&mut rules);
        }
        self.set_approvals(&mut rules, env, approve_own)?;
        span(&mut rules.retry.base, "retries.base", &self.retries.base)?;
        span(&mut rules.retry.cap, "retries.cap", &self.retries.cap)?;
        rules.retry.max_retries = self.retries.most.unwrap_or(rules.retry.max_retries);
        span(&mut rules.lease.run, "run_limit", &self.run_limit)?;
        if rules.lease.run > MAX_RUN {
            let fault = "15 minutes is the maximum; longer work suspends and resumes";
            return Err(SettingError::new("run_limit", fault));
        }
        span(&mut rules.lease.outside, "worker_lease", &self.worker_lease)?;
        self.set_sla(&mut rules)?;
        span(&mut rules.keep_tasks, "keep.tasks", &self.keep.tasks)?;
        span(&mut rules.alerts.keep_resolved, "keep.alerts", &self.keep.alerts)?;
        span(&mut rules.alerts.end_untouched, "keep.open_alerts", &self.keep.open_alerts)?;
        self.reputation.set(&mut rules.reputation)?;
        Ok(rules)
    }

    fn set_approvals(
        &self,
        rules: &mut EngineConfig,
        env: &Env,
        approve_own: bool,
    ) -> Result<(), SettingError> {
        let form = &self.approvals;
        span(&mut rules.decide_within, "approvals.decide_within", &form.decide_within)?;
        span(&mut rules.use_within, "approvals.use_within", &form.use_within)?;
        span(&mut rules.use_at_most, "approvals.use_at_most", &form.use_at_most)?;
        rules.approve_own = match env.get("APPROVAL_SELF") {
            Some(text) => allow("APPROVAL_SELF", text)?,
            None => form.own.unwrap_or(approve_own),
        };
        rules.agents_approve = match env.get("APPROVAL_AGENTS").filter(|text| !text.is_empty()) {
            Some(text) => allow("APPROVAL_AGENTS", text)?,
            None => form.agents.unwrap_or(false),
        };
        span(&mut rules.keep_approvals, "keep.approvals", &self.keep.approvals)?;
        if rules.keep_approvals < MIN_APPROVALS {
            let fault = "approvals are kept at least 30 days";
            return Err(SettingError::new("keep.approvals", fault));
        }
        Ok(())
    }

    fn set_sla(&self, rules: &mut EngineConfig) -> Result<(), SettingError> {
        for (priority, target) in &self.sla.targets {
            let wrong = |fault: &dyn Display| SettingError::new("sla.targets", fault);
            let priority = Priority::parse(priority).map_err(|e| wrong(&e))?;
            rules.sla.targets.insert(priority, parse_span(target).map_err(|e| wrong(&e))?);
        }
        rules.sla.threshold = match self.sla.threshold.unwrap_or(rules.sla.threshold) {
            percent @ 1..=100 => percent,
            other => {
                let fault = format!("{other} is not between 1 and 100 percent");
                return Err(SettingError::new("sla.threshold", fault));
            }
        };
        rules.sla.lift = self.sla.lift.unwrap_or(false);
        Ok(())
    }
}

/// Whether the environment switches the standing gates off, whatever the policy says.
pub fn gates_off(env: &Env) -> Result<bool, SettingError> {
    match env.get("WATCHBILL_GATES").filter(|text| !text.is_empty()) {
        Some(text) => Ok(!on_or_off("WATCHBILL_GATES", text)?),
        None => Ok(false),
    }
}

/// What happens to mutating work while governance can't be read: the environment's value, else
/// the file's.
pub fn on_failure(env: &Env, file: Option<&str>) -> Result<OnFailure, SettingError> {
    let from_env = env.get("GOVERNANCE_ON_FAILURE").map(String::as_str).filter(|t| !t.is_empty());
    let (name, text) = match (from_env, file) {
        (Some(text), _) => ("GOVERNANCE_ON_FAILURE", text),
        (None, Some(text)) => ("governance_on_failure", text),
        (None, None) => return Ok(OnFailure::default()),
    };
    let fault = || SettingError::new(name, format!("'{text}': use restrict, deny or allow"));
    OnFailure::parse(text).ok_or_else(fault)
}

/// Splits a comma-separated list.
pub fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

pub fn on_or_off(name: &str, text: &str) -> Result<bool, SettingError> {
    match text {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        other => Err(SettingError::new(name, format!("'{other}': use on or off"))),
    }
}

pub fn allow(name: &str, text: &str) -> Result<bool, SettingError> {
    match text {
        "allow" | "on" | "true" | "1" => Ok(true),
        "deny" | "off" | "false" | "0" => Ok(false),
        other => Err(SettingError::new(name, format!("'{other}': use allow or deny"))),
    }
}

fn span(into: &mut Duration, name: &str, text: &Option<String>) -> Result<(), SettingError> {
    let Some(text) = text else { return Ok(()) };
    *into = parse_span(text).map_err(|e| SettingError::new(name, e))?;
    if into.is_zero() {
        return Err(SettingError::new(name, "it can't be zero"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use watchbill_domain::ReputationEvent;
    use watchbill_governance::Level;

    use super::*;

    fn rules(json: &str) -> Result<EngineConfig, String> {
        let form: RulesForm = serde_json::from_str(json).map_err(|e| e.to_string())?;
        form.rules(&Env::new(), false).map_err(|e| e.to_string())
    }

    fn default() -> EngineConfig {
        let not_built = [Agent::Dev, Agent::Faq, Agent::Devops].into();
        EngineConfig { not_built, ..EngineConfig::default() }
    }

    #[test]
    fn unset_settings_have_defaults() {
        assert_eq!(rules("{}"), Ok(default()));
    }

    #[test]
    fn a_fault_names_the_setting_and_its_value() {
        for (json, wanted) in [
            (r#"{"gatez": {}}"#, "gatez"),
            (r#"{"gates": {"all": "off"}}"#, "moved to policy.yaml"),
            (r#"{"sla": {"threshold": 200}}"#, "sla.threshold: 200"),
            (r#"{"run_limit": "2h"}"#, "run_limit: 15 minutes"),
            (r#"{"routes": {"deploy": "nobody"}}"#, "nobody"),
            (r#"{"keep": {"approvals": "1d"}}"#, "keep.approvals"),
            (r#"{"retries": {"base": "0"}}"#, "retries.base: it can't be zero"),
            (
                r#"{"reputation": {"deltas": {"luck": 1}}}"#,
                "reputation.deltas: unknown reputation event 'luck'",
            ),
            (
                r#"{"reputation": {"levels": {"root": 1}}}"#,
                "reputation.levels: unknown level 'root'",
            ),
            (
                r#"{"reputation": {"levels": {"prod_low_risk": 80}}}"#,
                "reputation.levels.prod_low_risk: 80 is below 90",
            ),
            (
                r#"{"reputation": {"levels": {"sandbox_only": 5}}}"#,
                "reputation.levels.sandbox_only: 5",
            ),
            (r#"{"reputation": {"start": 300}}"#, "reputation.start: 300 is above"),
            (
                r#"{"reputation": {"most": 150}}"#,
                "reputation.levels.prod_full_access: 160 is above the highest score, 150",
            ),
            (r#"{"reputation": {"decay": {"percent": 101}}}"#, "reputation.decay.percent: 101"),
            (r#"{"reputation": {"decay": {"every": "soon"}}}"#, "reputation.decay.every: 'soon'"),
        ] {
            let said = rules(json).unwrap_err();
            assert!(said.contains(wanted), "{json}: {said}");
        }
    }

    #[test]
    fn unnamed_reputation_settings_keep_their_defaults() {
        let json = r#"{"reputation": {"most": 999, "deltas": {"task_success": 5},
            "levels": {"prod_full_access": 300}, "decay": {"every": "1d"}}}"#;
        let mut wanted = default();
        wanted.reputation.most = 999;
        wanted.reputation.deltas.insert(ReputationEvent::TaskSuccess, 5);
        wanted.reputation.levels.insert(Level::ProdFullAccess, 300);
        wanted.reputation.decay_every = Duration::from_secs(86_400);
        assert_eq!(rules(json), Ok(wanted));
    }

    #[test]
    fn the_environment_wins() {
        let form: RulesForm =
            serde_json::from_str(r#"{"approvals": {"own": true}, "external_agents": ["dev"]}"#)
                .unwrap();
        let env = |pairs: &[(&str, &str)]| -> Env {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let rules = form
            .rules(
                &env(&[
                    ("APPROVAL_SELF", "deny"),
                    ("APPROVAL_AGENTS", "allow"),
                    ("EXTERNAL_AGENTS", "faq"),
                ]),
                true,
            )
            .unwrap();
        assert!(!rules.approve_own && rules.agents_approve);
        assert_eq!(rules.external, [Agent::Faq].into());
        let rules = form
            .rules(
                &env(&[("EXTERNAL_TYPES", "alert"), ("REDIS_FEED", "bugfix, agent:ops_agent")]),
                true,
            )
            .unwrap();
        assert_eq!(rules.external, [Agent::Dev, Agent::Ops].into());
        assert_eq!(rules.external_types, [TaskType::Alert, TaskType::Bugfix].into());
        assert!(rules.is_left_outside(Agent::Faq, TaskType::Alert));
        assert!(!rules.is_left_outside(Agent::Faq, TaskType::Faq));
        let wrong = form.rules(&env(&[("REDIS_FEED", "dev")]), true).unwrap_err();
        assert!(wrong.to_string().starts_with("REDIS_FEED: "), "{wrong}");
        assert_eq!(gates_off(&env(&[("WATCHBILL_GATES", "off")])), Ok(true));
        assert_eq!(gates_off(&env(&[("WATCHBILL_GATES", "on")])), Ok(false));
        assert_eq!(gates_off(&env(&[("WATCHBILL_GATES", "")])), Ok(false));
        let deny = env(&[("GOVERNANCE_ON_FAILURE", "deny")]);
        assert_eq!(on_failure(&deny, Some("allow")), Ok(OnFailure::Deny));
        assert_eq!(on_failure(&Env::new(), Some("allow")), Ok(OnFailure::Allow));
        let said = on_failure(&Env::new(), Some("stop")).unwrap_err().to_string();
        assert!(said.contains("governance_on_failure: 'stop'"), "{said}");
    }
}
