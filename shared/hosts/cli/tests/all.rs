//! Tests of the command line and of the binary.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod backends;
mod bridge;
mod cli;
mod data_folder;
mod readme;
