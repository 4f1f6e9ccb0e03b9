//! The schema of `watchbill.yaml`. Unknown keys are rejected, as a misspelt setting has no
//! effect.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use watchbill_domain::Switch;
use watchbill_wire::settings::{
    ApprovalsForm, KeepForm, MovedSetting, ReputationForm, RetriesForm, RulesForm, SlaForm,
};

use crate::bridge::config::RedisFile;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub data: Option<PathBuf>,
    pub slots: Option<usize>,
    pub agents: Option<Switch>,
    pub run_limit: Option<String>,
    /// How long an external worker may hold a task without a heartbeat.
    pub worker_lease: Option<String>,
    pub first_task: Option<bool>,
    pub auth: Auth,
    pub cors: Cors,
    pub rate_limits: Option<String>,
    pub trusted_proxies: Vec<String>,
    pub connections: Connections,
    pub routes: BTreeMap<String, String>,
    pub external_agents: Vec<String>,
    pub external_types: Vec<String>,
    pub gates: MovedSetting,
    pub policy: Option<PathBuf>,
    pub governance_on_failure: Option<String>,
    pub approvals: ApprovalsForm,
    pub retries: RetriesForm,
    pub sla: SlaForm,
    pub keep: KeepForm,
    pub reputation: ReputationForm,
    pub logs: Logs,
    pub probes: Probes,
    pub reactions: Option<PathBuf>,
    pub notify: Notify,
    pub redis: RedisFile,
    pub log: Option<String>,
    pub log_format: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    pub jwt_secret: Option<String>,
    pub jwks_url: Option<String>,
    pub jwks_file: Option<PathBuf>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    pub origins: Vec<String>,
    pub credentials: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    pub limit: Option<usize>,
    pub headers_within: Option<String>,
    pub body_within: Option<String>,
    pub stalled_after: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    pub folders: Vec<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probes {
    pub allow_private: Option<bool>,
    pub allow_hosts: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    pub webhook: Option<String>,
    pub events: Option<Vec<String>>,
    pub public_url: Option<String>,
    pub approver: Option<String>,
    pub link_for: Option<String>,
}

impl File {
    /// Loads the named file, which must exist, or `watchbill.yaml` in this folder, if it exists.
    pub fn load(named: Option<&Path>) -> anyhow::Result<Self> {
        let path = named.unwrap_or(Path::new("watchbill.yaml"));
        if named.is_none() && !path.exists() {
            return Ok(Self::default());
        }
        let text = read(path)?;
        Self::parse(&text).with_context(|| format!("{} is invalid", path.display()))
    }

    /// The part from which the rules are made.
    pub fn rules_form(&self) -> RulesForm {
        RulesForm {
            routes: self.routes.clone(),
            external_agents: self.external_agents.clone(),
            external_types: self.external_types.clone(),
            approvals: self.approvals.clone(),
            retries: self.retries.clone(),
            sla: self.sla.clone(),
            keep: self.keep.clone(),
            run_limit: self.run_limit.clone(),
            worker_lease: self.worker_lease.clone(),
            gates: MovedSetting,
            reputation: self.reputation.clone(),
        }
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        // A file with only comments sets nothing.
        let lines = text.lines().map(str::trim);
        if lines.clone().all(|line| line.is_empty() || line.starts_with('#') || line == "---") {
            return Ok(Self::default());
        }
        match serde_saphyr::from_str(text) {
            Ok(file) => Ok(file),
            Err(error) => bail!("{}", in_a_line(&error)),
        }
    }
}

/// The position and text of the fault, without the lines around it that the parser adds.
pub fn in_a_line(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

pub fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!("{} can't be read; check the path and its permissions", path.display())
    })
}
