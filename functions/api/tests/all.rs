//! Test root: the API over HTTP, on an in-memory store.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod arbitrary;
mod audit;
mod auth;
mod canary;
mod common;
mod events;
mod first_key;
mod forgeries;
mod governance;
mod held;
mod http;
mod links;
mod matrix;
mod openapi;
mod places;
mod proxies;
mod tasks;
