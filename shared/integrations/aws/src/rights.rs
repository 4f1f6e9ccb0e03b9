//! Which rights each port needs on AWS: the one table that the roles of `template.yaml` and
//! `infra/iam.md` follow. A test (`tests/repo/rights.rs`) holds it against both, against the calls
//! that the adapters make, and against the ports that each function is given.
//!
//! A function has the rights of all that its ports can do, not of what it was seen doing: which call
//! of a port it will make at which time no test can know.

/// What is made of one AWS service, or of a part of it.
pub struct Port {
    pub name: &'static str,
    /// What gives it to a function: a part of the function's sources, or of its resource in the
    /// template. With none, every function has it.
    pub given_by: &'static [&'static str],
    /// Where its calls are made: below `src/`, or, with `lambda/`, below hosts/lambda/src.
    pub files: &'static [&'static str],
    pub rights: &'static [Right],
}

/// One statement of a role.
pub struct Right {
    pub sid: &'static str,
    pub actions: &'static [&'static str],
    /// As the template names them, without their tags, or one of the groups below.
    pub on: &'static [&'static str],
    /// The template's condition, where the role has it under one.
    pub when: Option<&'static str>,
    pub by: By,
}

/// Who makes the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Our adapter.
    Us,
    /// Lambda or another service, on behalf of the function's role.
    Service,
}

/// The log group of the function.
pub const OWN_LOG: &str = "its log";
/// The queues that the function's mappings take from.
pub const OWN_LANES: &str = "its lanes";
/// Where the function's mappings leave what they gave up.
pub const OWN_DEAD: &str = "its dead letters";
/// The queues of all agents.
pub const EVERY_LANE: &str = "every lane";
pub const EVERY_DEAD: &str = "all dead letters";

const fn ours(
    sid: &'static str,
    actions: &'static [&'static str],
    on: &'static [&'static str],
) -> Right {
    Right { sid, actions, on, when: None, by: By::Us }
}

const fn asked_by_lambda(
    sid: &'static str,
    actions: &'static [&'static str],
    on: &'static [&'static str],
) -> Right {
    Right { sid, actions, on, when: None, by: By::Service }
}

/// A parameter of SSM, where one is named.
const fn parameter(sid: &'static str, on: &'static [&'static str], when: &'static str) -> Right {
    Right { sid, actions: &["ssm:GetParameter"], on, when: Some(when), by: By::Us }
}

const INDEXES: &[&str] =
    &["${Table.Arn}/index/due", "${Table.Arn}/index/list1", "${Table.Arn}/index/list2"];

/// In the order in which a role names them.
pub const PORTS: &[Port] = &[
    Port {
        name: "Log",
        given_by: &[],
        files: &[],
        rights: &[asked_by_lambda(
            "Log",
            &["logs:CreateLogStream", "logs:PutLogEvents"],
            &[OWN_LOG],
        )],
    },
    Port {
        name: "Store",
        given_by: &["setup.core()", "setup.core_with_blobs()"],
        files: &["dynamo/mod.rs", "dynamo/lists.rs", "dynamo/write.rs"],
        rights: &[
            ours(
                "Table",
                &[
                    "dynamodb:BatchGetItem",
                    "dynamodb:ConditionCheckItem",
                    "dynamodb:DeleteItem",
                    "dynamodb:GetItem",
                    "dynamodb:PutItem",
                    "dynamodb:Query",
                    "dynamodb:UpdateItem",
                ],
                &["Table.Arn"],
            ),
            ours("Lists", &["dynamodb:Query"], INDEXES),
        ],
    },
    // Of a function that speaks to others outside and has nothing to write.
    Port {
        name: "Store, read only",
        given_by: &["setup.reading_core()"],
        files: &["dynamo/mod.rs", "dynamo/lists.rs"],
        rights: &[
            ours(
                "Table",
                &["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"],
                &["Table.Arn"],
            ),
            ours("Lists", &["dynamodb:Query"], INDEXES),
        ],
    },
    Port {
        name: "Policies",
        given_by: &["setup.core()", "setup.core_with_blobs()"],
        files: &["secrets.rs"],
        rights: &[parameter("Policy", &["PolicyParameter"], "HasPolicy")],
    },
    Port {
        name: "Blobs",
        given_by: &["setup.core_with_blobs()"],
        files: &["blobs.rs"],
        rights: &[
            ours("Blobs", &["s3:GetObject", "s3:PutObject"], &["${BlobsBucket.Arn}/*"]),
            // Without it S3 answers 403 for a blob that is not there.
            asked_by_lambda("BlobsMissing", &["s3:ListBucket"], &["BlobsBucket.Arn"]),
        ],
    },
    Port {
        name: "Lanes",
        given_by: &["setup.lanes()"],
        files: &["lanes.rs", "queue.rs"],
        rights: &[ours("Lanes", &["sqs:GetQueueAttributes", "sqs:SendMessage"], &[EVERY_LANE])],
    },
    Port {
        name: "Counts of dead letters",
        given_by: &["serve_tick("],
        files: &["lanes.rs"],
        rights: &[ours("DeadLetters", &["sqs:GetQueueAttributes"], &[EVERY_DEAD])],
    },
    Port {
        name: "Messages of its lanes",
        given_by: &["serve_agent(", "serve_notices("],
        files: &["lambda/lane.rs"],
        rights: &[
            asked_by_lambda(
                "Take",
                &["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"],
                &[OWN_LANES],
            ),
            // A message that is to come back at a time of its own.
            ours("Delay", &["sqs:ChangeMessageVisibility"], &[OWN_LANES]),
            ours("Park", &["sqs:SendMessage"], &[OWN_DEAD]),
        ],
    },
    Port {
        name: "Feed of changes",
        given_by: &["serve_feed("],
        files: &[],
        rights: &[
            asked_by_lambda(
                "Stream",
                &["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"],
                &["Table.StreamArn"],
            ),
            // When the mapping is made.
            asked_by_lambda("StreamList", &["dynamodb:ListStreams"], &["${Table.Arn}/stream/*"]),
            // What the mapping gave up.
            asked_by_lambda("Failures", &["s3:PutObject"], &["${FailuresBucket.Arn}/*"]),
            asked_by_lambda("FailuresBucket", &["s3:ListBucket"], &["FailuresBucket.Arn"]),
        ],
    },
    Port {
        name: "Events of the bus",
        given_by: &["serve_events("],
        files: &["lambda/events.rs", "queue.rs"],
        // What is rejected; Lambda sends there, too, what it failed over twice.
        rights: &[ours("Failed", &["sqs:SendMessage"], &["EventsDeadQueue.Arn"])],
    },
    Port {
        name: "Buses",
        given_by: &["setup.buses()"],
        files: &["bus.rs", "notices.rs", "queue.rs"],
        rights: &[
            ours("Publish", &["events:PutEvents"], &["Bus.Arn"]),
            ours("Notify", &["sqs:SendMessage"], &["NotifyQueue.Arn"]),
        ],
    },
    Port {
        name: "The admin's key",
        given_by: &["\"WATCHBILL_ADMIN_SECRET\""],
        files: &["secrets.rs"],
        rights: &[ours("AdminKey", &["secretsmanager:GetSecretValue"], &["AdminKeySecret.Id"])],
    },
    Port {
        name: "The secret of JWTs",
        given_by: &["\"WATCHBILL_JWT_SECRET_PARAMETER\""],
        files: &["secrets.rs"],
        rights: &[parameter("JwtSecret", &["JwtSecretParameter"], "HasJwtSecret")],
    },
    Port {
        name: "The webhook's secret",
        given_by: &["\"WATCHBILL_WEBHOOK_SECRET_PARAMETER\""],
        files: &["secrets.rs"],
        rights: &[parameter("WebhookSecret", &["WebhookSecretParameter"], "HasWebhookSecret")],
    },
    Port {
        name: "The address of Redis",
        given_by: &["\"REDIS_URL_PARAMETER\""],
        files: &["secrets.rs"],
        rights: &[parameter("RedisUrl", &["RedisUrlParameter"], "HasRedisParameter")],
    },
    Port {
        name: "A network of its own",
        given_by: &["VpcConfig:"],
        files: &[],
        rights: &[Right {
            sid: "Network",
            actions: &[
                "ec2:CreateNetworkInterface",
                "ec2:DeleteNetworkInterface",
                "ec2:DescribeNetworkInterfaces",
                "ec2:DescribeSubnets",
            ],
            // Interfaces have no name before they are made.
            on: &["*"],
            when: Some("HasVpc"),
            by: By::Service,
        }],
    },
];
