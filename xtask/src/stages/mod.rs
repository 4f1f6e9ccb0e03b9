//! The stages of `cargo xtask test`, in the order in which they run.

mod advisories;
mod deny;
mod gates;
mod http;
mod licence;
mod rust;
mod unused;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;
use crate::summary::{self, Row};

pub struct Stage {
    pub name: &'static str,
    pub why: &'static str,
    pub run: fn(&Ctx) -> Result<Report>,
}

/// Lines worth repeating at the end of the run, such as the test runner's last one.
pub type Report = Vec<String>;

pub const STAGES: &[Stage] = &[
    Stage { name: "fmt", why: "one layout, so that diffs show changes", run: rust::fmt },
    Stage { name: "unused", why: "no unused dependencies", run: unused::run },
    Stage {
        name: "deny",
        why: "bans, licences and sources of deny.toml, and advisories",
        run: deny::run,
    },
    Stage { name: "clippy", why: "the lints of Cargo.toml and clippy.toml", run: rust::clippy },
    Stage {
        name: "tests",
        why: "unit, property, conformance and repository tests",
        run: rust::tests,
    },
    Stage {
        name: "doctests",
        why: "the examples in the docs compile and pass",
        run: rust::doctests,
    },
    Stage { name: "doc", why: "the docs build, and their links resolve", run: rust::doc },
    Stage { name: "http", why: "the server conforms to its OpenAPI document", run: http::run },
    Stage {
        name: "gates",
        why: "AWS's tools on template.yaml, and building from it",
        run: gates::run,
    },
];

/// Returns false when a stage failed. All stages run, so that one run shows all failures.
pub fn run(ctx: &Ctx, only: &[String], fail_fast: bool) -> Result<bool> {
    let mut rows = Vec::new();
    let mut closing = Vec::new();
    for stage in summary::chosen(STAGES, |s| s.name, only)? {
        println!("\n--- {}: {}", stage.name, stage.why);
        let watch = Stopwatch::start();
        let error = match (stage.run)(ctx) {
            Ok(report) => {
                closing.extend(report);
                None
            }
            Err(error) => {
                println!("--- {} failed: {error:#}", stage.name);
                Some(error)
            }
        };
        let failed = error.is_some();
        rows.push(Row { name: stage.name, took: watch.elapsed(), error });
        if failed && fail_fast {
            break;
        }
    }
    Ok(summary::print("stages", "cargo xtask test", &rows, &closing))
}
