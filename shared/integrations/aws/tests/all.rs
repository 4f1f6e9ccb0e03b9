//! Tests of the AWS ports against an emulator.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod blobs;
mod dynamo;
