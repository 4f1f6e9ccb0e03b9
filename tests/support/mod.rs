//! Support that the tests of the running bundle share.

mod audit;
mod binary;
mod client;
mod cut;
mod feeds;
mod fixture;
mod peers;
mod server;
mod stopwatch;

pub use audit::{Books, assert_chain_holds, changes, is_terminal, settled};
pub use binary::watchbill;
pub use client::{Client, TIMEOUT_ON_AWS};
pub use cut::Cable;
pub use feeds::{Recording, Routing};
pub use fixture::Fixture;
pub use peers::Peer;
pub use server::{Launch, Server};
pub use stopwatch::Stopwatch;

/// The keys of a tested installation, one per role.
pub struct Keys<S = String> {
    pub admin: S,
    pub agent: S,
    pub approver: S,
    pub user: S,
}

/// The keys of every installation that accepts given keys.
pub const KEYS: Keys<&str> = Keys {
    admin: "key-of-the-tests-with-the-role-admin",
    agent: "key-of-the-tests-with-the-role-agent",
    approver: "key-of-the-tests-with-the-role-approver",
    user: "key-of-the-tests-with-the-role-user",
};

impl Keys<&str> {
    pub fn owned(&self) -> Keys {
        let Self { admin, agent, approver, user } = *self;
        Keys {
            admin: admin.to_owned(),
            agent: agent.to_owned(),
            approver: approver.to_owned(),
            user: user.to_owned(),
        }
    }
}
