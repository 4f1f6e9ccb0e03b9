//! Finds the policy: a file, or else the built-in one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use watchbill_core::service::Governance;
use watchbill_governance::{Policies, Policy};
use watchbill_host::clock::SystemClock;
use watchbill_policy::{PolicyText, TextPolicies, built_in, read_policy};
use watchbill_wire::settings::{Env, gates_off, on_failure};

use super::file::{File, read};

/// The policy file in the current folder, used if no other file is named.
const HERE: &str = "policy.yaml";

struct FileText {
    path: PathBuf,
    name: String,
}

#[async_trait]
impl PolicyText for FileText {
    fn name(&self) -> &str {
        &self.name
    }

    async fn read(&self) -> Result<String, String> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
        let text = read.await.map_err(|error| error.to_string())?;
        text.map_err(|error| error.to_string())
    }
}

/// The policy file, if there is one.
fn path(named: Option<&Path>, env: &Env) -> Option<PathBuf> {
    let from_env = env.get("WATCHBILL_POLICY").filter(|path| !path.is_empty());
    let named = from_env.map(PathBuf::from).or(named.map(Path::to_owned));
    named.or_else(|| Path::new(HERE).exists().then(|| HERE.into()))
}

/// `named`, or else the file that `serve` would use in this folder.
pub fn found(named: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(named) = named.filter(|path| !path.as_os_str().is_empty()) {
        return Ok(Some(named));
    }
    Ok(path(File::load(None)?.policy.as_deref(), &Env::new()))
}

/// Reads a policy file. An error names the file and the line.
fn load(path: &Path) -> anyhow::Result<Policy> {
    read_policy(&read(path)?).with_context(|| path.display().to_string())
}

/// The governance. The file is read here once, so that a fault stops the start. Changes are
/// noticed within 30 seconds.
pub fn governance(file: &File, env: &Env) -> anyhow::Result<(Governance, Option<PathBuf>)> {
    let gates_off = gates_off(env)?;
    let on_failure = on_failure(env, file.governance_on_failure.as_deref())?;
    let path = path(file.policy.as_deref(), env);
    let policies: Arc<dyn Policies> = match &path {
        Some(path) => {
            load(path).context("the policy is invalid")?;
            let text = FileText { path: path.clone(), name: path.display().to_string() };
            Arc::new(TextPolicies::new(text, Arc::new(SystemClock::new()), gates_off))
        }
        None => Arc::new(built_in(gates_off)),
    };
    Ok((Governance::new(policies, on_failure), path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchbill_core::service::OnFailure;
    use watchbill_governance::GateRules;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    async fn governed(text: &str, env: &Env) -> anyhow::Result<(Arc<Policy>, OnFailure)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yaml");
        std::fs::write(&path, text).unwrap();
        let file = File { policy: Some(path), ..File::default() };
        let (governance, _) = governance(&file, env)?;
        Ok((governance.policies().current().await?, governance.on_failure()))
    }

    #[tokio::test]
    async fn the_file_holds_and_the_environment_over_it() {
        let (policy, on_failure) = governed("quorum: 2", &Env::new()).await.unwrap();
        assert_eq!((policy.quorum, &policy.gates), (2, &GateRules::default()));
        assert_eq!(on_failure, OnFailure::Restrict);
        let env = env(&[("WATCHBILL_GATES", "off"), ("GOVERNANCE_ON_FAILURE", "deny")]);
        let (policy, on_failure) = governed("quorum: 2", &env).await.unwrap();
        assert_eq!((policy.quorum, &policy.gates), (2, &GateRules::off()));
        assert_eq!(on_failure, OnFailure::Deny);
    }

    #[tokio::test]
    async fn a_fault_stops_the_start_and_names_file_and_line() {
        let error = governed("gates:\n  priorities: [P7]\n", &Env::new()).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("rules.yaml: line 2 column") && text.contains("P7"), "{text}");
        let file = File { policy: Some("no/such.yaml".into()), ..File::default() };
        let text = format!("{:#}", governance(&file, &Env::new()).err().unwrap());
        assert!(text.contains("no/such.yaml can't be read"), "{text}");
    }

    #[test]
    fn the_environment_names_the_file_before_the_configuration_does() {
        let env = env(&[("WATCHBILL_POLICY", "other.yaml")]);
        assert_eq!(path(Some(Path::new("one.yaml")), &env), Some("other.yaml".into()));
        assert_eq!(path(Some(Path::new("one.yaml")), &Env::new()), Some("one.yaml".into()));
    }
}
