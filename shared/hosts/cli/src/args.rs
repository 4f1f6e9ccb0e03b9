//! The arguments of the command line. The doc comments are the help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use watchbill_domain::parse_span;
use watchbill_local::bridge::config::BridgeArgs;
use watchbill_local::serve::args::ServeArgs;

use super::exit::Exit;

/// Ops work for agents: submit tasks, watch them, approve those that require it.
///
/// Without a command it runs the server: all functions in one process, on http://127.0.0.1:8000.
#[derive(Parser, Debug)]
#[command(name = "watchbill", version, after_help = Exit::help(), max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print the server's JSON unchanged: one document, or with watch one event per line
    #[arg(long, global = true)]
    pub json: bool,
    /// URL of the server
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "WATCHBILL_URL",
        default_value = "http://127.0.0.1:8000"
    )]
    pub url: String,
    /// API key. Default for a server on this machine: the key that 'watchbill serve' wrote to
    /// admin.key in its data folder (WATCHBILL_DATA, or ./.watchbill)
    #[arg(long, global = true, value_name = "KEY", env = "WATCHBILL_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// No colours; NO_COLOR in the environment does the same
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the server: all functions in one process (the default without a command)
    Serve(ServeArgs),
    /// Submit a task
    Submit(SubmitArgs),
    /// Show a task
    Get(GetArgs),
    /// List tasks, newest first
    List(ListArgs),
    /// Follow events as they are recorded
    Watch(WatchArgs),
    /// Approve a task that waits for approval
    Approve {
        /// `approval_TASK-ID`, or the id of the task that waits
        #[arg(value_parser = id)]
        id: String,
    },
    /// Reject a task that waits for approval; it is cancelled
    Reject {
        /// `approval_TASK-ID`, or the id of the task that waits
        #[arg(value_parser = id)]
        id: String,
        /// Reason, stored with the approval
        #[arg(long)]
        reason: String,
    },
    /// List pending approvals, or with --history decided ones
    #[command(args_conflicts_with_subcommands = true)]
    Approvals {
        #[command(subcommand)]
        command: Option<ApprovalsCommand>,
        /// List decided approvals
        #[arg(long)]
        history: bool,
        /// How many decided approvals to list
        #[arg(long, requires = "history", default_value_t = 50)]
        limit: u32,
    },
    /// Answer the question of a blocked task
    Answer {
        #[arg(value_parser = id)]
        id: String,
        text: String,
        /// TEXT is one of the question's choices
        #[arg(long)]
        choice: bool,
    },
    /// Cancel an open task
    Cancel {
        #[arg(value_parser = id)]
        id: String,
        /// Reason, stored with the task
        #[arg(long)]
        reason: Option<String>,
    },
    /// Retry a failed or blocked task
    Retry {
        #[arg(value_parser = id)]
        id: String,
    },
    /// Show everything that happened to a task, in order
    Timeline {
        #[arg(value_parser = id)]
        id: String,
    },
    /// Publish an event
    Publish(PublishArgs),
    /// Count tasks by status, agent and priority
    Stats,
    /// List the agents with their status and reputation
    Agents {
        #[command(subcommand)]
        command: Option<AgentsCommand>,
    },
    /// Show the cost of models today and this hour, and the limits
    Budget {
        #[command(subcommand)]
        command: Option<BudgetCommand>,
    },
    /// Let a task run in spite of a freeze
    Override {
        #[arg(value_name = "TASK", value_parser = id)]
        id: String,
        /// The freeze's name
        #[arg(long, value_name = "NAME")]
        freeze: String,
        /// Why the task can't wait, stored with the task
        #[arg(long)]
        reason: String,
    },
    /// Show the health of the server and its parts
    Health,
    /// Copy the data folder of this machine, even while a server uses it
    Backup(BackupArgs),
    /// Manage API keys
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// List, verify and export the audit log
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Check or show the policy file, without a server
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Connect a server to a Redis in which other programs keep their tasks
    Bridge(Box<BridgeArgs>),
    /// Print the server's OpenAPI document
    Openapi,
    /// Print a completion script, for example: watchbill completions bash
    Completions { shell: Shell },
}

#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Folder to create for the copy: the database and the blobs, no keys. It must not exist
    #[arg(value_name = "DEST", value_hint = clap::ValueHint::DirPath)]
    pub dest: PathBuf,
    /// The data folder [default: ./.watchbill]
    #[arg(long, env = "WATCHBILL_DATA", value_hint = clap::ValueHint::DirPath)]
    pub data: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct PayloadArgs {
    /// JSON object, @file, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// A field of the payload: key=text, or key:=JSON for a number, true, a list …; dots
    /// separate levels (target.host=web-1). May be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Args, Debug)]
pub struct SubmitArgs {
    /// faq, bugfix, deploy, investigate, monitor, alert, refactor, feature, kb_update, devops
    #[arg(value_name = "TYPE")]
    pub task_type: String,
    #[command(flatten)]
    pub payload: PayloadArgs,
    /// P0 to P3, or critical, high, medium, low [server's default: P2]
    #[arg(long)]
    pub priority: Option<String>,
    /// Who submits the task [server's default: user]
    #[arg(long)]
    pub source: Option<String>,
    /// Submitting the same task with the same key again returns the first one [default: random]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Time to completion, such as 15m or 8h
    #[arg(long, value_name = "SPAN")]
    pub sla_target: Option<String>,
    /// Parent task
    #[arg(long, value_name = "ID")]
    pub parent: Option<String>,
    /// JSON object or @file, stored with the task
    #[arg(long, value_name = "JSON|@FILE")]
    pub metadata: Option<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug, Clone)]
pub struct WaitArgs {
    /// Wait until the task is finished or needs a person
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "10m", requires = "wait")]
    pub timeout: Duration,
    /// Keep waiting while a person has to approve or answer
    #[arg(long, requires = "wait")]
    pub through_approval: bool,
}

#[derive(Args, Debug)]
pub struct GetArgs {
    #[arg(value_parser = id)]
    pub id: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// pending, assigned, in_progress, completed, failed, cancelled, blocked
    #[arg(long)]
    pub status: Option<String>,
    /// ops, dev, faq, devops
    #[arg(long)]
    pub agent: Option<String>,
    #[arg(long = "type", value_name = "TYPE")]
    pub task_type: Option<String>,
    #[arg(long)]
    pub priority: Option<String>,
    #[arg(long)]
    pub source: Option<String>,
    /// Only the children of this task
    #[arg(long, value_name = "ID")]
    pub parent: Option<String>,
    /// How many to list
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// List all
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Only this type, or a whole group such as task. or deploy.
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only events of this task
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    /// How many earlier events to show first
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=200))]
    pub last: u32,
}

#[derive(Args, Debug)]
pub struct PublishArgs {
    /// noun.verb, such as deploy.started
    #[arg(value_name = "TYPE")]
    pub event_type: String,
    #[command(flatten)]
    pub payload: PayloadArgs,
    /// Who publishes it
    #[arg(long, default_value = "user")]
    pub source: String,
    /// The task it belongs to
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    #[arg(long, value_name = "ID")]
    pub trace_id: Option<String>,
    /// critical, high, medium, low
    #[arg(long)]
    pub priority: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum ApprovalsCommand {
    /// Show what the approver decides on: target, payload, plan, reasons, approvals so far
    Show {
        /// `approval_TASK-ID`, or the id of the task that waits
        #[arg(value_parser = id)]
        id: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum AgentsCommand {
    /// Show its score, its level and the operations it may perform
    Show {
        /// ops, dev, faq, devops, or ops_agent and so on
        #[arg(value_parser = id)]
        agent: String,
    },
    /// List the changes of its score, newest first
    Events {
        #[arg(value_parser = id)]
        agent: String,
        /// How many to list
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
    },
}

#[derive(Subcommand, Debug)]
pub enum BudgetCommand {
    /// Set limits; the others stay unchanged
    Set(LimitArgs),
}

#[derive(Args, Debug)]
pub struct LimitArgs {
    /// US dollars per day (UTC)
    #[arg(long, value_name = "USD", value_parser = usd)]
    pub day_usd: Option<f64>,
    /// Tokens per day (UTC)
    #[arg(long, value_name = "N")]
    pub day_tokens: Option<u64>,
    /// US dollars per hour
    #[arg(long, value_name = "USD", value_parser = usd)]
    pub hour_usd: Option<f64>,
    /// Tokens per hour
    #[arg(long, value_name = "N")]
    pub hour_tokens: Option<u64>,
    /// US dollars that one task may spend
    #[arg(long, value_name = "USD", value_parser = usd)]
    pub task_usd: Option<f64>,
    /// Tokens that one task may use
    #[arg(long, value_name = "N")]
    pub task_tokens: Option<u64>,
}

#[derive(Subcommand, Debug)]
pub enum KeysCommand {
    /// Create a key; it is shown only once
    Create {
        #[arg(long)]
        name: String,
        /// admin, agent, approver, user
        #[arg(long)]
        role: String,
    },
    /// List the keys, without their secrets
    List,
    /// Revoke a key, immediately and permanently
    Revoke {
        #[arg(value_parser = id)]
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Summarize a policy file, or report its first invalid line
    Check {
        /// [default: the file that 'watchbill serve' would use here]
        #[arg(env = "WATCHBILL_POLICY", value_hint = clap::ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Print the policy in force here: the file, or the built-in one
    Show {
        /// [default: the file that 'watchbill serve' would use here]
        #[arg(env = "WATCHBILL_POLICY", value_hint = clap::ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// List entries, newest first
    List {
        #[command(flatten)]
        filter: AuditFilterArgs,
        /// How many to list
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Verify locally, batch by batch, that nothing in the ledger was changed, added or removed;
    /// report the first break
    Verify {
        /// Hash of a batch that you saved elsewhere, from an audit.sealed event or an earlier
        /// verify: without it, a ledger that was rewritten as a whole is not detected
        #[arg(long, value_name = "HASH", value_parser = hash)]
        head: Option<String>,
    },
    /// Export all entries, newest first, as NDJSON: one per line
    Export {
        #[command(flatten)]
        filter: AuditFilterArgs,
    },
}

#[derive(Args, Debug)]
pub struct AuditFilterArgs {
    /// approved, key_created, policy_changed …
    #[arg(long)]
    pub kind: Option<String>,
    /// Only entries about this task
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    /// Only entries of this actor
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// Earliest time: 2026-01-31T08:00:00Z, 2026-01-31, or 24h for a day ago
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Latest time
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
}

fn usd(text: &str) -> Result<f64, String> {
    let usd = text.trim().trim_start_matches('$').parse::<f64>().ok();
    let usd = usd.filter(|usd| usd.is_finite() && *usd >= 0.0);
    usd.ok_or_else(|| "not an amount of US dollars, such as 2.50".to_owned())
}

/// Accepts a SHA-256 hash in hex.
fn hash(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err("not a SHA-256 in hex: 64 characters of 0-9 and a-f".to_owned())
}

/// Accepts an id that becomes one path segment. `.` and `..` would name another resource.
fn id(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        "." | ".." => Err(format!("'{text}' can't be an id")),
        trimmed => Ok(trimmed.to_owned()),
    }
}
