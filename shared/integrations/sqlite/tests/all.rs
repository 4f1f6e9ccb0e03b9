//! Tests of the store and the blobs on local files.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod folder_blobs;
mod governance;
mod sqlite_store;
