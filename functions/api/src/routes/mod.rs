//! All routes, by module.

mod access;
pub mod approvals;
mod audit;
mod events;
mod follow;
mod governance;
pub mod links;
mod service;
mod tasks;

use watchbill_wire::{ANY_ID, Field};

use crate::route::Route;

/// Every route there is.
pub const ROUTES: &[&[Route]] = &[
    service::ROUTES,
    tasks::ROUTES,
    events::ROUTES,
    approvals::ROUTES,
    links::ROUTES,
    governance::ROUTES,
    access::ROUTES,
    audit::ROUTES,
];

pub fn all() -> Vec<&'static Route> {
    ROUTES.iter().flat_map(|group| group.iter()).collect()
}

const TASK_ID: &[Field] = &[Field::needed("id", ANY_ID, "The task's id.")];
