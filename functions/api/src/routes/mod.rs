//! The table of all routes, by module.

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

/// Every route of the API.
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

const TASK_ID: &[Field] = &[Field::required("id", ANY_ID, "The task's id.")];
