//! The command line, and the binary as people run it.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod bridge;
mod cli;
mod data_folder;
mod homes;
mod readme;
