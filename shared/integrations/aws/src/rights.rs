//! The AWS permissions of each port, which the roles of `template.yaml` and `infra/iam.md`
//! follow. `tests/repo/rights.rs` checks this table against both, against the adapters' calls
//! and against the ports of each function.
//!
//! A function has permission for all that its ports can do, not only for calls seen in tests,
//! which can't show every call.

/// Use of an AWS service, or of a part of it.
pub struct Port {
    pub name: &'static str,
    /// Substrings of a function's sources, or of its resource in the template, that give it the
    /// port. If empty, every function has it.
    pub given_by: &'static [&'static str],
    /// Where its calls are made: below `src/`, or, with `lambda/`, below hosts/lambda/src.
    pub files: &'static [&'static str],
    pub rights: &'static [Right],
}

/// One statement of a role.
pub struct Right {
    pub sid: &'static str,
    pub actions: &'static [&'static str],
    /// Resources as the template names them, without tags, or one of the groups below.
    pub on: &'static [&'static str],
    /// The template's condition for this statement, if any.
    pub when: Option<&'static str>,
    pub by: CallerKind,
}

/// Who makes the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// Our adapter.
    Us,
    /// Lambda or another service, on behalf of the function's role.
    Service,
}

/// The function's log group.
pub const OWN_LOG: &str = "its log";
/// Queues that the function's mappings receive from.
pub const OWN_LANES: &str = "its lanes";
/// Dead letter queues of the function's mappings.
pub const OWN_DEAD: &str = "its dead letters";
/// All agents' queues.
pub const EVERY_LANE: &str = "every lane";
pub const EVERY_DEAD: &str = "all dead letters";

const fn ours(
    sid: &'static str,
    actions: &'static [&'static str],
    on: &'static [&'static str],
) -> Right {
    Right { sid, actions, on, when: None, by: CallerKind::Us }
}

const fn asked_by_lambda(
    sid: &'static str,
    actions: &'static [&'static str],
    on: &'static [&'static str],
) -> Right {
    Right { sid, actions, on, when: None, by: CallerKind::Service }
}

/// An SSM parameter, if configured.
const fn parameter(sid: &'static str, on: &'static [&'static str], when: &'static str) -> Right {
    Right { sid, actions: &["ssm:GetParameter"], on, when: Some(when), by: CallerKind::Us }
}

const INDEXES: &[&str] =
    &["${Table.Arn}/index/due", "${Table.Arn}/index/list1", "${Table.Arn}/index/list2"];

/// In the order of a role's statements.
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
    // For functions that call external services and write nothing.
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
            // Without it S3 returns 403 for a missing blob.
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
            // For messages that become visible at a time of their own.
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
            // To create the mapping.
            asked_by_lambda("StreamList", &["dynamodb:ListStreams"], &["${Table.Arn}/stream/*"]),
            // For what the mapping gives up.
            asked_by_lambda("Failures", &["s3:PutObject"], &["${FailuresBucket.Arn}/*"]),
            asked_by_lambda("FailuresBucket", &["s3:ListBucket"], &["FailuresBucket.Arn"]),
        ],
    },
    Port {
        name: "Events of the bus",
        given_by: &["serve_events("],
        files: &["lambda/events.rs", "queue.rs"],
        // For rejected events; Lambda also sends those that failed twice.
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
            // Network interfaces have no name before they are created.
            on: &["*"],
            when: Some("HasVpc"),
            by: CallerKind::Service,
        }],
    },
];
