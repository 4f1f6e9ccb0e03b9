//! Settings that all AWS clients share.

use std::time::Duration;

use anyhow::Context as _;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Region};
use aws_types::SdkConfig;
use watchbill_wire::settings::Env;

/// Region, credentials and endpoint, which Lambda sets in the environment for the life of the
/// process. Timeouts are short because a function's time is; retries are the SDK's.
pub fn sdk_config(env: &Env) -> anyhow::Result<SdkConfig> {
    let need = |name: &str| {
        non_empty(env, name)
            .map(str::to_owned)
            .with_context(|| format!("{name} is not set; Lambda sets it for its functions"))
    };
    let credentials = Credentials::new(
        need("AWS_ACCESS_KEY_ID")?,
        need("AWS_SECRET_ACCESS_KEY")?,
        non_empty(env, "AWS_SESSION_TOKEN").map(str::to_owned),
        None,
        "environment",
    );
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(Duration::from_secs(4))
        .operation_timeout(Duration::from_secs(12))
        .build();
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(need("AWS_REGION")?))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .timeout_config(timeouts)
        .build();
    if let Some(endpoint) = non_empty(env, "AWS_ENDPOINT_URL") {
        config = config.into_builder().endpoint_url(endpoint).build();
    }
    Ok(config)
}

fn non_empty<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).map(String::as_str).filter(|text| !text.is_empty())
}
