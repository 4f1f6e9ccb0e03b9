//! The ports on AWS. Only hosts/lambda and the Lambda mains use this crate, never the embedded
//! bundle.
//!
//! - `dynamo`: the store on one DynamoDB table, and its stream as the change feed.
//! - `lanes`: priority lanes on SQS. `bus`: events on EventBridge. `blobs`: large bodies on S3.
//!   `secrets`: keys from Secrets Manager and SSM.
//! - `notices`: notifications for people, on SQS. `queue`: sending to SQS.
//! - `wake`: waiting by polling.
//! - `config`: shared client settings. `policy`: the policy text.
//!
//! To add an adapter: a module that implements one port over a client made from
//! [`config::sdk_config`], its wiring in `shared/hosts/lambda/src/config.rs`, and its
//! permissions in [`rights`], which the roles of `template.yaml` follow.

pub mod blobs;
pub mod bus;
pub mod config;
pub mod dynamo;
pub mod lanes;
pub mod notices;
pub mod policy;
pub mod queue;
pub mod rights;
pub mod secrets;
pub mod wake;

/// An SDK error with all its causes; its own text is often only "service error".
pub fn explained(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
