//! The tests that no crate can hold for itself: the repository's own rules, and the bundle
//! as a whole. To add a kind, make a folder with a mod.rs and name it here.

mod repo;
