//! The formats in which legacy programs keep tasks, events and results in Redis. Those programs
//! parse strictly: an unknown field makes a task or an event unreadable for them, so we write
//! exactly their fields.
//!
//! - `task`: a task of the orchestrator's queue. `word`: what its workers report about our
//!   tasks. `event`: an event on its channels.
//! - `domain`: messages and results of the domain network.
//! - `mirror`: approvals for the orchestrator's dashboards.
//! - `rejected`: what clients see of a task that can't be read here.
//! - `lenient`: converts Python's JSON to strict JSON.

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
pub use task::{addressee, compose_task, merge_task, read_legacy_task, score};
pub use word::read_word;

use watchbill_domain::Timestamp;
use watchbill_wire::TaskView;
use watchbill_wire::legacy::Origin;

/// Metadata key of an imported task: the queue it came from.
pub const VIA: &str = "via";

/// Metadata key of an event that we have published on the channels.
pub const RELAYED_BY: &str = "relayed_by";

/// Where a task came from, by its mark.
pub fn origin(view: &TaskView) -> Option<Origin<'_>> {
    match task::is_of_queue(view) {
        true => Some(Origin::Queue),
        false => domain::domain_of(view).map(Origin::Domain),
    }
}

/// RFC 3339 as Python's `isoformat` writes it: with `+00:00`, which older Pythons can parse,
/// unlike `Z`.
pub fn iso(at: Timestamp) -> String {
    let text = at.to_string();
    match text.strip_suffix('Z') {
        Some(bare) => format!("{bare}+00:00"),
        None => text,
    }
}
