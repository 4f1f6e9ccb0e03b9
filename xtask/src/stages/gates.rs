//! Checks template.yaml with AWS's own tools, and builds functions from it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Report;
use crate::cmd;
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;
use crate::tools::venv;

const TEMPLATE: &str = "template.yaml";
const EXCEPTIONS: &str = "infra/checkov.yaml";

/// Small functions of different kinds: a reader of the stream, and one that runs on a schedule.
const BUILT: &[&str] = &["RouterFunction", "SweeperFunction"];

/// The minimum length of a reason in characters.
const MIN_REASON: usize = 20;

pub fn run(ctx: &Ctx) -> Result<Report> {
    let cfn_lint = venv::need(ctx, "cfn-lint")?;
    let checkov = venv::need(ctx, "checkov")?;
    let sam = venv::need(ctx, "sam")?;
    cmd::run(offline(ctx.command(&cfn_lint)).args([
        TEMPLATE,
        "infra/dashboard.yaml",
        "infra/restore.yaml",
    ]))?;
    let validate = ["validate", "--lint", "--template", TEMPLATE];
    cmd::run(offline(ctx.command(&sam)).args(validate))?;
    exceptions_hold(ctx, &checkov)?;
    let mut report = Report::new();
    for function in BUILT {
        report.push(build(ctx, &sam, function)?);
    }
    Ok(report)
}

/// The tools make no network calls. The region only selects the rules that apply.
fn offline(mut command: Command) -> Command {
    command.env("AWS_DEFAULT_REGION", "us-east-1").env("SAM_CLI_TELEMETRY", "0");
    command
}

/// Checks that checkov finds exactly the excused checks.
fn exceptions_hold(ctx: &Ctx, checkov: &Path) -> Result<()> {
    let file = ctx.root.join(EXCEPTIONS);
    let text = fs::read_to_string(&file).with_context(|| format!("can't read {EXCEPTIONS}"))?;
    let excused = excused(&text)?;
    let mut command = offline(ctx.command(checkov));
    command.args(["--framework", "cloudformation", "--file", TEMPLATE, "--skip-download"]);
    // Its own exit code does not report exceptions that are not needed.
    command.args(["--output", "json", "--quiet", "--compact", "--soft-fail"]);
    let answer = serde_json::from_str(&cmd::output(&mut command)?);
    let findings = findings(&answer.context("checkov did not print JSON")?)?;
    let found: BTreeSet<&str> = findings.iter().map(|finding| finding.check.as_str()).collect();
    let mut wrong = Vec::new();
    for finding in findings.iter().filter(|f| !excused.contains(f.check.as_str())) {
        wrong.push(format!("{} ({}): {}", finding.check, finding.resource, finding.what));
    }
    for check in excused.iter().filter(|check| !found.contains(**check)) {
        wrong.push(format!("{check}: {EXCEPTIONS} excuses it, but it passes"));
    }
    if !wrong.is_empty() {
        bail!("checkov and {EXCEPTIONS} don't agree:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// The checks of the skip list. Each must give its reason after a `#`.
fn excused(text: &str) -> Result<BTreeSet<&str>> {
    let list = text.lines().skip_while(|line| *line != "skip-check:").skip(1);
    let entries = list.filter_map(|line| line.trim().strip_prefix("- "));
    let mut checks = BTreeSet::new();
    for entry in entries {
        let (check, reason) = entry.split_once('#').unwrap_or((entry, ""));
        if reason.trim().len() < MIN_REASON {
            bail!("{EXCEPTIONS} excuses {} without a reason; give it after a #", check.trim());
        }
        checks.insert(check.trim());
    }
    Ok(checks)
}

struct Finding {
    check: String,
    resource: String,
    what: String,
}

fn findings(answer: &Value) -> Result<Vec<Finding>> {
    let passed = answer["summary"]["passed"].as_u64().unwrap_or(0);
    if passed == 0 {
        bail!("checkov passed nothing in {TEMPLATE}: it did not read the file");
    }
    let failed = answer["results"]["failed_checks"].as_array();
    let failed = failed.context("checkov printed no list of failed checks")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let finding = |failed: &Value| Finding {
        check: text(&failed["check_id"]),
        resource: text(&failed["resource"]),
        what: text(&failed["check_name"]),
    };
    Ok(failed.iter().map(finding).collect())
}

/// Builds one function as a user would, for this machine: another target would have to be added
/// to the toolchain.
fn build(ctx: &Ctx, sam: &Path, function: &str) -> Result<String> {
    let folder = ctx.folder("sam")?.join(function);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    let mut command = offline(ctx.command(sam));
    command.args(["build", function, "--template", TEMPLATE, "--build-dir"]).arg(&folder);
    command.arg("--parameter-overrides").arg(format!("Architecture={architecture}"));
    // cargo-lambda and zig are next to sam; cargo-lambda asks this folder's python3 for zig.
    command.env("PATH", path_with(sam.parent().context("sam has no parent folder")?)?);
    command.env("CARGO_TARGET_DIR", &ctx.target);
    // cargo-lambda builds for a named target, which shares nothing with the other stages. Whether the
    // template builds shows without optimizing; `cargo xtask bench functions` measures what ships.
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    let watch = Stopwatch::start();
    cmd::run(&mut command)?;
    let binary: PathBuf = folder.join(function).join("bootstrap");
    binary.metadata().with_context(|| format!("sam built no {}", binary.display()))?;
    Ok(format!("sam build {function}: {} s", watch.elapsed().as_secs()))
}

fn path_with(first: &Path) -> Result<std::ffi::OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(first.to_owned()).chain(env::split_paths(&rest));
    env::join_paths(folders).context("can't add the tools' folder to the PATH")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_exception_needs_a_reason() {
        let list = "framework:\n  - cloudformation\nskip-check:\n";
        let good = format!("{list}  - CKV_AWS_1 # because nobody ever reads it\n");
        assert_eq!(excused(&good).unwrap(), BTreeSet::from(["CKV_AWS_1"]));
        for bad in ["  - CKV_AWS_1\n", "  - CKV_AWS_1 #\n", "  - CKV_AWS_1 # no\n"] {
            let error = excused(&format!("{list}{bad}")).unwrap_err().to_string();
            assert!(error.contains("CKV_AWS_1 without a reason"), "{error}");
        }
    }

    #[test]
    fn findings_are_read_and_an_empty_answer_is_none() {
        let failed = json!([{ "check_id": "CKV_AWS_1", "resource": "Table", "check_name": "x" }]);
        let answer = json!({
            "summary": { "passed": 3 },
            "results": { "failed_checks": failed },
        });
        let found = findings(&answer).unwrap();
        assert_eq!((found[0].check.as_str(), found[0].resource.as_str()), ("CKV_AWS_1", "Table"));
        assert!(findings(&json!({ "summary": { "passed": 0 } })).is_err());
    }
}
