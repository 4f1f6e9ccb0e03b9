//! Reads the policy text from an SSM parameter.

use async_trait::async_trait;
use watchbill_policy::PolicyText;

use crate::secrets::read_parameter;

pub struct ParameterText {
    config: aws_types::SdkConfig,
    name: String,
}

impl ParameterText {
    pub fn new(config: &aws_types::SdkConfig, name: &str) -> Self {
        Self { config: config.clone(), name: name.to_owned() }
    }
}

#[async_trait]
impl PolicyText for ParameterText {
    fn name(&self) -> &str {
        &self.name
    }

    async fn read(&self) -> Result<String, String> {
        read_parameter(&self.config, &self.name).await
    }
}
