//! What tests of the running bundle share.

mod audit;
mod binary;
mod client;
mod server;
mod stopwatch;

pub use audit::{Books, changes, is_terminal, settled};
pub use client::Client;
pub use server::{Launch, Server, free_port};
pub use stopwatch::Stopwatch;

/// The keys that every tested installation knows, one of each role.
pub struct Keys {
    pub admin: &'static str,
    pub agent: &'static str,
    pub approver: &'static str,
    pub user: &'static str,
}

pub const KEYS: Keys = Keys {
    admin: "key-of-the-tests-with-the-role-admin",
    agent: "key-of-the-tests-with-the-role-agent",
    approver: "key-of-the-tests-with-the-role-approver",
    user: "key-of-the-tests-with-the-role-user",
};
