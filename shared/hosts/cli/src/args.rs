use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use watchbill_domain::parse_span;
use watchbill_local::bridge::config::BridgeArgs;
use watchbill_local::serve::args::ServeArgs;

use super::exit::Exit;

/// Ops work for agents: hand in tasks, watch them, approve what needs a person.
///
/// Without a command it serves: the whole bundle in one process, on http://127.0.0.1:8000.
#[derive(Parser, Debug)]
#[command(name = "watchbill", version, after_help = Exit::help(), max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Print the server's JSON as it is: one document, or one event a line with watch
    #[arg(long, global = true)]
    pub json: bool,
    /// Where the server is
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "WATCHBILL_URL",
        default_value = "http://127.0.0.1:8000"
    )]
    pub url: String,
    /// API key. Without one, and with the server on this machine, the key that 'watchbill serve'
    /// left in admin.key of its data folder is taken (WATCHBILL_DATA, or ./.watchbill)
    #[arg(long, global = true, value_name = "KEY", env = "WATCHBILL_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// No colours; NO_COLOR in the environment does the same
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the whole bundle in this process (what happens without a command)
    Serve(ServeArgs),
    /// Hand in a task
    Submit(SubmitArgs),
    /// Show a task
    Get(GetArgs),
    /// List tasks, newest first
    List(ListArgs),
    /// Follow events as they are recorded
    Watch(WatchArgs),
    /// Give leave to what waits for it
    Approve {
        /// `approval_TASK-ID`, or the id of the task that waits
        #[arg(value_parser = id)]
        id: String,
    },
    /// Refuse leave; the task is cancelled
    Reject {
        /// `approval_TASK-ID`, or the id of the task that waits
        #[arg(value_parser = id)]
        id: String,
        /// Why; kept with the approval
        #[arg(long)]
        reason: String,
    },
    /// What waits for approval, or with --history what was decided
    #[command(args_conflicts_with_subcommands = true)]
    Approvals {
        #[command(subcommand)]
        command: Option<ApprovalsCommand>,
        #[arg(long)]
        history: bool,
        /// How many of the history
        #[arg(long, requires = "history", default_value_t = 50)]
        limit: u32,
    },
    /// Answer the question of a blocked task
    Answer {
        #[arg(value_parser = id)]
        id: String,
        text: String,
        /// TEXT is one of the choices offered
        #[arg(long)]
        choice: bool,
    },
    /// Cancel an open task
    Cancel {
        #[arg(value_parser = id)]
        id: String,
        /// Why; kept with the task
        #[arg(long)]
        reason: Option<String>,
    },
    /// Try a failed or blocked task again
    Retry {
        #[arg(value_parser = id)]
        id: String,
    },
    /// Everything that happened to a task, in order
    Timeline {
        #[arg(value_parser = id)]
        id: String,
    },
    /// Publish an event
    Publish(PublishArgs),
    /// Tasks by state, agent and priority
    Stats,
    /// The agents and how they stand
    Agents {
        #[command(subcommand)]
        command: Option<AgentsCommand>,
    },
    /// What models have cost in this day and hour, and what they may
    Budget {
        #[command(subcommand)]
        command: Option<BudgetCommand>,
    },
    /// Let a task pass a freeze of the policy
    Override {
        #[arg(value_name = "TASK", value_parser = id)]
        id: String,
        /// The freeze's name
        #[arg(long, value_name = "NAME")]
        freeze: String,
        /// Why the task can't wait; kept with it
        #[arg(long)]
        reason: String,
    },
    /// Whether the server and its parts are well
    Health,
    /// Copy the data folder of this machine, also while a server works in it
    Backup(BackupArgs),
    /// API keys
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Who did what, and whether the record of it was changed
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// The policy file: what agents may do. Read here, no server is asked
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Stand between a server and a Redis in which other programs keep their tasks
    Bridge(Box<BridgeArgs>),
    /// Print the server's OpenAPI document
    Openapi,
    /// Print a completion script, for example: watchbill completions bash
    Completions { shell: Shell },
}

#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Folder to be made for the copy: the database and the blobs, no keys. It must not be there
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
    /// A field of the payload: key=text, or key:=JSON for a number, true, a list …; a dot goes
    /// one level down (target.host=web-1). May be repeated
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
    /// Who asks [server's default: user]
    #[arg(long)]
    pub source: Option<String>,
    /// The same key and task again give the same task; made at random if not given
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Time to completion, such as 15m or 8h
    #[arg(long, value_name = "SPAN")]
    pub sla_target: Option<String>,
    /// The task that this one is part of
    #[arg(long, value_name = "ID")]
    pub parent: Option<String>,
    /// JSON object or @file kept with the task
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
    /// Go on waiting while a person has to approve or answer
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
    /// How many
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// All there are
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
    /// Show so many earlier events first
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
    /// All that the approver decides on: target, payload, plan, reasons, who said yes
    Show {
        /// `approval_TASK-ID`, or the id of the task that waits
        #[arg(value_parser = id)]
        id: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum AgentsCommand {
    /// Score, level, and what it may do
    Show {
        /// ops, dev, faq, devops, or ops_agent and so on
        #[arg(value_parser = id)]
        agent: String,
    },
    /// What changed its score, newest first
    Events {
        #[arg(value_parser = id)]
        agent: String,
        /// How many
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
    },
}

#[derive(Subcommand, Debug)]
pub enum BudgetCommand {
    /// Set limits; those that are not named stay as they are
    Set(LimitArgs),
}

#[derive(Args, Debug)]
pub struct LimitArgs {
    /// US dollars in a day, UTC
    #[arg(long, value_name = "USD", value_parser = usd)]
    pub day_usd: Option<f64>,
    /// Tokens in a day, UTC
    #[arg(long, value_name = "N")]
    pub day_tokens: Option<u64>,
    /// US dollars in an hour
    #[arg(long, value_name = "USD", value_parser = usd)]
    pub hour_usd: Option<f64>,
    /// Tokens in an hour
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
    /// Make a key; it is shown once
    Create {
        #[arg(long)]
        name: String,
        /// admin, agent, approver, user
        #[arg(long)]
        role: String,
    },
    /// The keys there are, without the keys themselves
    List,
    /// Make a key useless, at once and for good
    Revoke {
        #[arg(value_parser = id)]
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Say what a policy file lets happen, or which line of it is wrong
    Check {
        /// [default: what 'watchbill serve' would take here]
        #[arg(env = "WATCHBILL_POLICY", value_hint = clap::ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Print the policy that holds here: the file, or the built-in one
    Show {
        /// [default: what 'watchbill serve' would take here]
        #[arg(env = "WATCHBILL_POLICY", value_hint = clap::ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Who did what, newest first
    List {
        #[command(flatten)]
        filter: AuditFilterArgs,
        /// How many
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Check here, batch by batch, that nothing in the ledger was changed, added or taken away;
    /// names the first entry that was
    Verify {
        /// The hash of a batch that you kept elsewhere, from an audit.sealed event or an earlier
        /// verify: only with it a ledger that was written anew as a whole is found out
        #[arg(long, value_name = "HASH", value_parser = hash)]
        head: Option<String>,
    },
    /// All of it, newest first, as NDJSON: one entry a line
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
    /// Only what is about this task
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    /// Only what this one did
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// From then on: 2026-01-31T08:00:00Z, 2026-01-31, or 24h for a day ago
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Up to then
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
}

fn usd(text: &str) -> Result<f64, String> {
    let usd = text.trim().trim_start_matches('$').parse::<f64>().ok();
    let usd = usd.filter(|usd| usd.is_finite() && *usd >= 0.0);
    usd.ok_or_else(|| "it is no amount of US dollars, such as 2.50".to_owned())
}

/// SHA-256 in hex.
fn hash(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err("it is no SHA-256 in hex, 64 characters of 0-9 and a-f".to_owned())
}

/// A word that becomes one segment of a path. `.` and `..` would name another resource.
fn id(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        "." | ".." => Err(format!("'{text}' can't be an id")),
        trimmed => Ok(trimmed.to_owned()),
    }
}
