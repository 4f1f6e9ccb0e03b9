//! The ports on AWS. Only hosts/lambda and the Lambda mains use it; the embedded bundle never
//! knows of it.
//!
//! - `dynamo`: the store on one DynamoDB table, and its stream as the change feed.
//! - `lanes`: the priority lanes on SQS. `bus`: events on EventBridge. `blobs`: large bodies
//!   on S3. `secrets`: keys from Secrets Manager and SSM.
//! - `notices`: what people are told of, on SQS. `queue`: how anything is sent to a queue.
//! - `wake`: waiting for news by looking again.
//! - `config`: what all clients have in common, from the environment. `policy`: the policy's text.
//!
//! How to add an adapter: a module that implements one port of the core over one client made
//! from [`config::sdk_config`], its wiring in `shared/hosts/lambda/src/config.rs`, and its rights in [`rights`], which the
//! roles of `template.yaml` follow.

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

/// An SDK error with all that it says, its causes too: its own text is often only "service
/// error".
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
