//! The forms in which other programs keep tasks, events and results in Redis. They are read
//! strictly there: a field more than they know makes a task or an event unreadable for them,
//! so what we write has their fields and no others.
//!
//! - `task`: a task of the orchestrator's queue. `word`: what its workers say of one of ours.
//!   `event`: an event on its channels.
//! - `domain`: messages and results of the domain network.
//! - `mirror`: approvals as the orchestrator's dashboards read them.
//! - `rejected`: what those who wait for a task are told where it can't be read here.
//! - `lenient`: what Python takes for JSON, made JSON.

mod domain;
mod event;
mod lenient;
mod mirror;
mod rejected;
mod task;
mod word;

pub use domain::{DomainView, read_domain_task};
pub use event::{event_for_peer, read_peer_event};
pub use mirror::{approval_for_peer, is_decided};
pub use rejected::Rejection;
pub use task::{addressee, compose_task, merge_task, read_peer_task, score};
pub use word::read_word;

use watchbill_domain::Timestamp;
use watchbill_wire::TaskView;
use watchbill_wire::peer::Origin;

/// The mark in a task's metadata that it came over Redis, with the queue it came from.
pub const VIA: &str = "via";

/// Where an event says that we have put it on the channels.
pub const RELAYED_BY: &str = "relayed_by";

/// Where a task came from, as its mark says.
pub fn origin(view: &TaskView) -> Option<Origin<'_>> {
    match task::is_of_queue(view) {
        true => Some(Origin::Queue),
        false => domain::domain_of(view).map(Origin::Domain),
    }
}

/// RFC 3339 as Python's `isoformat` writes it: with `+00:00`, which older versions of it can
/// read back, unlike `Z`.
pub fn iso(at: Timestamp) -> String {
    let text = at.to_string();
    match text.strip_suffix('Z') {
        Some(bare) => format!("{bare}+00:00"),
        None => text,
    }
}
