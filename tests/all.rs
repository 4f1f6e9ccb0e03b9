//! The tests that no crate can hold for itself: the repository's own rules, and the bundle
//! as a whole. To add a kind, make a folder with a mod.rs and name it here.
//!
//! - `aws`: the functions' handlers over the AWS adapters, with calls that go wrong.
//! - `repo`: what holds for the repository.
//! - `e2e`: scenarios over HTTP, the same for every back end. The one that deploys
//!   template.yaml needs what stands in `deployed/`, in Python, as the emulator does.
//! - `leave`: no effect without leave, in any order of events.
//! - `crash`: the shipped binary, killed under load again and again.
//! - `pump`: router and recorder behind a stream that does all that streams may do.
//! - `bridge`: beside the programs that talk over Redis (`peers/`, in Python), with a real server.
//! - `tenants`: two tenants in one store, and everything that is stored looked at.
//! - `rig`: what those two share: the binary, a client, the audit of what was recorded.

mod aws;
mod bridge;
mod crash;
mod e2e;
mod leave;
mod pump;
mod repo;
mod rig;
mod tenants;
