//! The tests that no crate can hold for itself: the repository's own rules, and the bundle
//! as a whole. To add a kind, make a folder with a mod.rs and name it here.
//!
//! - `repo`: what holds for the repository.
//! - `e2e`: scenarios over HTTP, the same for every back end.
//! - `crash`: the shipped binary, killed under load again and again.
//! - `rig`: what those two share: the binary, a client, the audit of what was recorded.

mod crash;
mod e2e;
mod repo;
mod rig;
