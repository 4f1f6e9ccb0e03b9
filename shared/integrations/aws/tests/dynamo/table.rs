//! A table per test, as the template makes it, deleted with the test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::BehaviorVersion;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType,
};
use aws_types::SdkConfig;
use aws_types::region::Region;
use watchbill_aws::dynamo::{self, DynamoStore};

const ENDPOINT: &str = "WATCHBILL_AWS_ENDPOINT";

pub fn sdk_config(endpoint: &str, key_id: &str) -> SdkConfig {
    let credentials = Credentials::new(key_id, "test", None, None, "tests");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .build()
}

/// An account per table; the emulator takes any twelve digits. DynamoDB keeps transaction
/// tokens per account, and tests use the same write ids.
fn account() -> SdkConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let endpoint = std::env::var(ENDPOINT).unwrap_or_else(|_| {
        panic!("{ENDPOINT} is not set: `cargo xtask test` starts an AWS emulator and sets it")
    });
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    sdk_config(&endpoint, &format!("{:08}{n:04}", std::process::id()))
}

pub struct Table {
    pub stream: String,
    pub account: SdkConfig,
    client: Client,
}

const NAME: &str = "watchbill-test";

impl Table {
    /// Without TTL: the emulator would remove items that expired in 1970, the suite's time,
    /// which DynamoDB never does.
    pub async fn create() -> Self {
        let account = account();
        let client = patient(&account);
        // Left behind by a killed run.
        let _ = client.delete_table().table_name(NAME).send().await;
        let request = client
            .create_table()
            .table_name(NAME)
            .billing_mode(BillingMode::PayPerRequest)
            .set_attribute_definitions(Some(attributes()))
            .set_key_schema(Some(keys("pk", "sk")))
            .global_secondary_indexes(index("list1", "l1", "l1s"))
            .global_secondary_indexes(index("list2", "l2", "l2s"))
            .global_secondary_indexes(index("due", "ds", "d"))
            .stream_specification(
                StreamSpecification::builder()
                    .stream_enabled(true)
                    .stream_view_type(StreamViewType::NewImage)
                    .build()
                    .unwrap(),
            );
        let made = request.send().await.expect("the emulator makes a table");
        let stream = made.table_description.and_then(|table| table.latest_stream_arn);
        Self { stream: stream.expect("the table has a stream"), account, client }
    }

    /// A store with its own connections.
    pub fn open(&self) -> DynamoStore {
        DynamoStore::new(patient(&self.account), NAME)
    }
}

/// The production client with longer timeouts: the suite sends hundreds of requests at once to
/// a single-threaded emulator.
fn patient(account: &SdkConfig) -> Client {
    let patience = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(60))
        .operation_attempt_timeout(Duration::from_secs(60))
        .operation_timeout(Duration::from_secs(60))
        .build();
    let shipped = dynamo::client(account);
    Client::from_conf(shipped.config().to_builder().timeout_config(patience).build())
}

impl Drop for Table {
    fn drop(&mut self) {
        let request = self.client.delete_table().table_name(NAME);
        let runtime = tokio::runtime::Handle::current();
        // The tests' runtime has several threads, so this one may block.
        let deleted = tokio::task::block_in_place(|| {
            runtime.block_on(async { request.send().await.map_err(|error| error.to_string()) })
        });
        if let Err(error) = deleted {
            eprintln!("the table stays behind: {error}");
        }
    }
}

fn attributes() -> Vec<AttributeDefinition> {
    let text = ["pk", "sk", "l1", "l1s", "l2", "l2s", "ds"].map(|name| (name, "S"));
    let definition = |(name, kind): (&str, &str)| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::from(kind))
            .build()
            .unwrap()
    };
    text.into_iter().chain([("d", "N")]).map(definition).collect()
}

fn keys(partition: &str, sort: &str) -> Vec<KeySchemaElement> {
    let key = |(name, kind): (&str, KeyType)| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap()
    };
    [(partition, KeyType::Hash), (sort, KeyType::Range)].into_iter().map(key).collect()
}

fn index(name: &str, partition: &str, sort: &str) -> GlobalSecondaryIndex {
    GlobalSecondaryIndex::builder()
        .index_name(name)
        .set_key_schema(Some(keys(partition, sort)))
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
        .build()
        .unwrap()
}
