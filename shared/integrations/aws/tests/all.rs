//! The ports on AWS, over an emulator.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod blobs;
mod dynamo;
