//! Events of AWS services, in their documented shape: each gets a type that a reaction can name,
//! and starts the task of that reaction.

use std::sync::Arc;

use serde_json::{Value, json};
use watchbill_core::decide::EngineConfig;
use watchbill_core::service::Core;
use watchbill_domain::TenantId;
use watchbill_intake::{Intake, Sources, open, read_reactions};
use watchbill_testkit::{FakeClock, MemoryStore, ports_over};

/// Source, detail-type, a resource, the detail, and the type we derive.
fn samples() -> Vec<(&'static str, &'static str, &'static str, Value, &'static str)> {
    vec![
        (
            "aws.health",
            "AWS Health Event",
            "arn:aws:ec2:eu-central-1:123456789012:instance/i-0a1",
            json!({
                "eventArn": "arn:aws:health:eu-central-1::event/EC2/AWS_EC2_ISSUE/1",
                "service": "EC2", "eventTypeCode": "AWS_EC2_OPERATIONAL_ISSUE",
                "eventTypeCategory": "issue", "statusCode": "open",
                "eventDescription": [{"language": "en_US", "latestDescription": "elevated errors"}],
                "affectedEntities": [{"entityValue": "i-0a1"}],
            }),
            "aws_health.event",
        ),
        (
            "aws.cloudwatch",
            "CloudWatch Alarm State Change",
            "arn:aws:cloudwatch:eu-central-1:123456789012:alarm:shop-5xx",
            json!({
                "alarmName": "shop-5xx",
                "state": {"value": "ALARM", "reason": "threshold crossed", "timestamp": "2026-11-02T09:14:07.000+0000"},
                "previousState": {"value": "OK"},
                "configuration": {"metrics": []},
            }),
            "aws_cloudwatch.alarm_state_change",
        ),
        (
            "aws.ec2",
            "EC2 Instance State-change Notification",
            "arn:aws:ec2:eu-central-1:123456789012:instance/i-0a1",
            json!({"instance-id": "i-0a1", "state": "stopped"}),
            "aws_ec2.instance_state_change_notification",
        ),
        (
            "aws.ecs",
            "ECS Task State Change",
            "arn:aws:ecs:eu-central-1:123456789012:task/shop/0f",
            json!({"clusterArn": "arn:aws:ecs:eu-central-1:123456789012:cluster/shop",
                   "lastStatus": "STOPPED", "desiredStatus": "RUNNING",
                   "stoppedReason": "Essential container in task exited"}),
            "aws_ecs.task_state_change",
        ),
        (
            "aws.autoscaling",
            "EC2 Instance-terminate Lifecycle Action",
            "arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:1:autoScalingGroupName/shop",
            json!({"LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING", "EC2InstanceId": "i-0a1"}),
            "aws_autoscaling.ec2_instance_terminate_lifecycle_action",
        ),
        (
            "aws.rds",
            "RDS DB Instance Event",
            "arn:aws:rds:eu-central-1:123456789012:db:shop",
            json!({"EventCategories": ["failover"], "SourceType": "DB_INSTANCE",
                   "EventID": "RDS-EVENT-0049", "Message": "Multi-AZ failover completed"}),
            "aws_rds.db_instance_event",
        ),
        (
            "aws.codepipeline",
            "CodePipeline Pipeline Execution State Change",
            "arn:aws:codepipeline:eu-central-1:123456789012:shop",
            json!({"pipeline": "shop", "execution-id": "1", "state": "FAILED", "version": 3.0}),
            "aws_codepipeline.pipeline_execution_state_change",
        ),
        (
            "aws.guardduty",
            "GuardDuty Finding",
            "",
            json!({"schemaVersion": "2.0", "id": "1", "type": "Recon:EC2/PortProbe", "severity": 5.3}),
            "aws_guardduty.finding",
        ),
        (
            "aws.s3",
            "Object Created",
            "arn:aws:s3:::shop-backups",
            json!({"version": "0", "bucket": {"name": "shop-backups"}, "object": {"key": "a", "size": 5}}),
            "aws_s3.object_created",
        ),
        (
            "aws.states",
            "Step Functions Execution Status Change",
            "arn:aws:states:eu-central-1:123456789012:execution:shop:1",
            json!({"executionArn": "arn:aws:states:eu-central-1:123456789012:execution:shop:1",
                   "status": "TIMED_OUT", "input": "{}"}),
            "aws_states.step_functions_execution_status_change",
        ),
        (
            "aws.iam",
            "AWS API Call via CloudTrail",
            "",
            json!({"eventVersion": "1.08", "eventSource": "iam.amazonaws.com", "eventName": "CreateUser"}),
            "aws_iam.api_call_via_cloudtrail",
        ),
    ]
}

#[tokio::test]
async fn events_of_aws_services_start_work_by_the_names_that_are_documented() {
    let samples = samples();
    let names: Vec<&str> = samples.iter().map(|(.., name)| *name).collect();
    let reactions: String = names
        .iter()
        .map(|name| {
            format!(
                "  - name: {}\n    on: {name}\n    task:\n      type: alert\n      payload:\n        \
                 message: \"{{{{metadata.detail_type}}}}\"\n",
                name.replace(['.', '_'], "-")
            )
        })
        .collect();
    let reactions = read_reactions(&format!("reactions:\n{reactions}")).unwrap();
    let store = Arc::new(MemoryStore::new());
    let ports = ports_over(store.clone(), Arc::new(FakeClock::default()), 1);
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    let intake = Intake::new(core.clone(), reactions);
    let given: Vec<String> = samples.iter().map(|(source, ..)| format!("{source}=acme")).collect();
    let sources = Sources::parse(&given.join(",")).unwrap();
    let acme = TenantId::parse("acme").unwrap();
    for (n, (source, detail_type, resource, detail, name)) in samples.iter().enumerate() {
        let resources: Vec<&str> = if resource.is_empty() { vec![] } else { vec![resource] };
        let envelope = json!({
            "version": "0", "id": format!("00000000-0000-4000-8000-{n:012}"), "source": source,
            "detail-type": detail_type, "account": "123456789012", "region": "eu-central-1",
            "time": "2026-11-02T09:14:07Z", "resources": resources, "detail": detail,
        });
        let envelope = serde_json::from_value(envelope).unwrap();
        let (tenant, event) = open(&core, &sources, envelope).await.unwrap();
        assert_eq!((&tenant, event.event_type.as_str()), (&acme, *name));
        assert_eq!(Value::from(event.payload.clone()), *detail);
        assert_eq!(event.metadata["detail_type"], json!(detail_type));
        assert_eq!(event.metadata["account"], json!("123456789012"));
        assert_eq!(event.metadata.get("resources").is_some(), !resource.is_empty());
        assert!(intake.wants(&event.event_type));
        intake.handle(&tenant, &event).await.unwrap();
        let tasks = store.items().iter().filter(|item| &*item.kind == "task").count();
        assert_eq!(tasks, n + 1, "{name} started nothing");
    }
}
