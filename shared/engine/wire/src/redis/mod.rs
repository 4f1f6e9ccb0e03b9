//! The forms in which other programs keep tasks, events and results in Redis. They are read
//! strictly there: a field more than they know makes a task or an event unreadable for them,
//! so what we write has their fields and no others.
//!
//! - `task`: a task of the orchestrator's queue. `event`: an event on its channels.
//! - `domain`: messages and results of the domain network.
//! - `ids`: ids of peers' tasks, there and here.
//! - `mirror`: approvals as the orchestrator's dashboards read them.
//! - `rejected`: what those who wait for a task are told where it can't be read here.

mod domain;
mod event;
mod ids;
mod lenient;
mod mirror;
mod rejected;
mod task;

pub use domain::{DomainTask, DomainView, read_domain_task};
pub use event::{PeerEvent, event_for_peer, read_peer_event};
pub use ids::{id_of_peer, ids_of_peer};
pub use mirror::{approval_for_peer, is_decided};
pub use rejected::Rejection;
pub use task::{
    Addressee, Assignee, PeerTaskView, compose_task, merge_task, read_peer_task, score,
};

use watchbill_domain::Timestamp;

/// The mark in a task's metadata that it came over Redis, with the queue it came from.
pub const VIA: &str = "via";

/// Where an event says that we have put it on the channels.
pub const RELAYED_BY: &str = "relayed_by";

/// RFC 3339 as Python's `isoformat` writes it: with `+00:00`, which older versions of it can
/// read back, unlike `Z`.
pub fn iso(at: Timestamp) -> String {
    let text = at.to_string();
    match text.strip_suffix('Z') {
        Some(bare) => format!("{bare}+00:00"),
        None => text,
    }
}
