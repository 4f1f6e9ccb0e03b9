//! The arguments of `watchbill serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug, Clone, Default)]
pub struct ServeArgs {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, env = "WATCHBILL_HOST")]
    pub host: Option<IpAddr>,
    /// Port to listen on [default: 8000]
    #[arg(long, env = "ORCHESTRATOR_PORT")]
    pub port: Option<u16>,
    /// Folder for the database and the admin key [default: ./.watchbill]
    #[arg(long, env = "WATCHBILL_DATA", value_hint = clap::ValueHint::DirPath)]
    pub data: Option<PathBuf>,
    /// Configuration file
    #[arg(long, env = "WATCHBILL_CONFIG", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Redis to exchange tasks and events with, as 'watchbill bridge' does; REDIS_DRAIN and
    /// others select what is exchanged, see docs/redis.md
    #[arg(long, value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    pub redis: Option<String>,
}
