"""Creates, drives and inspects stacks of the template."""

import itertools
import json
import re
import time
import zipfile

import boto3
import botocore.config

import expand
import roles

BUCKET = "code"
# A stack takes a second or two.
PATIENCE = 120


def faults_in(log):
    """The lines that a function logged as faults. The emulator is one process, and on a busy machine it may
    not respond in time: such outages are left out. The records show whether what must hold after one does."""
    lines = (line for line in log.splitlines() if re.search(r"\bERROR\b|panicked", line))
    return [line for line in lines if "request has timed out" not in line]


class Fixture:
    def __init__(self, asked, endpoint):
        self.endpoint, self.folder = endpoint, asked.folder
        config = botocore.config.Config(
            parameter_validation=False, retries={"max_attempts": 1}, max_pool_connections=16)
        session = boto3.Session()
        services = ["cloudformation", "s3", "sqs", "lambda", "secretsmanager", "events", "iam", "ssm"]
        self.aws = {
            name: session.client(name, endpoint_url=endpoint, config=config) for name in services}
        self.template = expand.read(asked.template.read_text())
        self.numbers = itertools.count(1)
        self.stacks = {}
        self.until(lambda: self.aws["s3"].list_buckets())
        self.aws["s3"].create_bucket(Bucket=BUCKET)
        self.code = {}
        for name, binary in expand.functions(self.template).items():
            self.put_code(asked.binaries / binary)
            self.code[name] = {"Bucket": BUCKET, "Key": binary}

    def until(self, what):
        """Returns the first result of `what` that is neither an error nor empty."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if found := what():
                    return found
                error = "nothing"
            except Exception as failed:
                error = failed
            if time.monotonic() > end:
                raise TimeoutError(f"still {error} after {PATIENCE} s")
            time.sleep(0.02)

    def put_code(self, binary):
        archive = self.folder / f"{binary.name}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            about = zipfile.ZipInfo("bootstrap")
            about.external_attr = 0o755 << 16
            about.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(about, binary.read_bytes())
        self.aws["s3"].put_object(Bucket=BUCKET, Key=binary.name, Body=archive.read_bytes())

    def on_deploy(self, parameters, policy, secrets=None):
        stack = f"wb{next(self.numbers)}"
        for name, secret in (secrets or {}).items():
            parameters[name] = f"/{stack}/{name}"
            self.aws["ssm"].put_parameter(Name=parameters[name], Value=secret, Type="SecureString")
        # Stored outside the stack, where its owner keeps it.
        parameters["PolicyParameter"] = f"/{stack}/policy"
        self.aws["ssm"].put_parameter(Name=parameters["PolicyParameter"], Value=policy, Type="String")
        plain = expand.expand(self.template, parameters, self.code)
        key = f"{stack}.json"
        # A template in the call itself is limited to 51,200 bytes.
        self.aws["s3"].put_object(Bucket=BUCKET, Key=key, Body=json.dumps(plain).encode())
        cloud = self.aws["cloudformation"]
        cloud.create_stack(
            StackName=stack,
            TemplateURL=f"{self.endpoint}/{BUCKET}/{key}",
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        )
        self.until(lambda: self.settled(stack))
        about = cloud.describe_stacks(StackName=stack)["Stacks"][0]
        if about["StackStatus"] != "CREATE_COMPLETE":
            events = cloud.describe_stack_events(StackName=stack)["StackEvents"]
            failed = [f"{e['LogicalResourceId']}: {e.get('ResourceStatusReason', '')}"
                      for e in events if e["ResourceStatus"] == "CREATE_FAILED"]
            raise RuntimeError(f"{about['StackStatus']}: {failed}")
        return self.keep(stack, plain)

    def settled(self, stack):
        found = self.aws["cloudformation"].describe_stacks(StackName=stack)["Stacks"]
        return not found[0]["StackStatus"].endswith("_IN_PROGRESS")

    def keep(self, stack, plain):
        pages = self.aws["cloudformation"].get_paginator("list_stack_resources")
        made = {}
        for page in pages.paginate(StackName=stack):
            for one in page["StackResourceSummaries"]:
                made[one["LogicalResourceId"]] = (one["ResourceType"], one["PhysicalResourceId"])
        self.stacks[stack] = made
        # Recorded beyond the stack's lifetime: roles are checked at the end.
        roles.remember(self.folder, self.roles(plain, made))
        api, stage = self.one(stack, "AWS::ApiGatewayV2::Api"), self.one(stack, "AWS::ApiGatewayV2::Stage")
        secret = self.one(stack, "AWS::SecretsManager::Secret")
        secret = self.aws["secretsmanager"].get_secret_value(SecretId=secret)["SecretString"]
        return {
            "stack": stack,
            "url": f"{self.endpoint}/_aws/execute-api/{api}/{stage}",
            "admin_key": json.loads(secret)["key"],
        }

    def roles(self, plain, made):
        """The functions' roles by the names that IAM gave them, each with its function."""
        for name, about in plain["Resources"].items():
            if about["Type"] == "AWS::Lambda::Function" and name in made:
                yield made[about["Properties"]["Role"]["Fn::GetAtt"][0]][1], name

    def one(self, stack, kind):
        found = [place for (is_kind, place) in self.stacks[stack].values() if is_kind == kind]
        if len(found) != 1:
            raise ValueError(f"{stack} has {len(found)} of {kind}, not one")
        return found[0]

    def all(self, stack, kind):
        return {name: place for name, (is_kind, place) in self.stacks[stack].items() if is_kind == kind}

    def on_delete(self, stack):
        roles.mark_deleted(self.folder, stack)
        self.aws["cloudformation"].delete_stack(StackName=stack)
        del self.stacks[stack]

    def on_sweep(self, stack):
        return self.tick(stack, "SweeperFunction")

    def on_bridge(self, stack):
        return self.tick(stack, "RedisBridgeFunction")

    def tick(self, stack, function):
        name = self.all(stack, "AWS::Lambda::Function")[function]
        answer = self.aws["lambda"].invoke(FunctionName=name, Payload=b"{}")
        said = answer["Payload"].read().decode()
        return {"failed": said} if answer.get("FunctionError") else {}

    def on_policy(self, stack, text):
        self.aws["ssm"].put_parameter(Name=f"/{stack}/policy", Value=text, Type="String", Overwrite=True)

    def on_again(self, stack, event):
        entry = {"EventBusName": self.one(stack, "AWS::Events::EventBus"), "Source": event["source"],
                 "DetailType": event["detail-type"], "Detail": json.dumps(event["detail"]),
                 "Resources": event["resources"]}
        answer = self.aws["events"].put_events(Entries=[entry])
        if answer["FailedEntryCount"]:
            raise RuntimeError(f"the bus does not take it: {answer}")

    def on_restart(self, stack):
        for name in self.all(stack, "AWS::Lambda::Function").values():
            self.aws["lambda"].update_function_configuration(FunctionName=name, Description=time.strftime("%c"))

    def on_left(self, stack):
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible",
                  "ApproximateNumberOfMessagesDelayed"]
        messages, faults = {}, []
        for name, url in self.all(stack, "AWS::SQS::Queue").items():
            about = self.aws["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"]
            if left := sum(int(about[count]) for count in counts):
                messages[name] = left
        for name, function in self.all(stack, "AWS::Lambda::Function").items():
            log = self.folder / "logs" / function
            if log.exists():
                text = log.read_text(errors="replace")
                faults += [f"{name}: {line}" for line in faults_in(text)]
        return {"messages": messages, "faults": faults}

    def on_log(self, stack):
        logs = (self.folder / "logs" / function for function in self.all(stack, "AWS::Lambda::Function").values())
        return {"text": "\n".join(log.read_text(errors="replace") for log in logs if log.exists())}

    def on_subscribe(self, stack, pattern):
        name = f"{stack}-listener-{next(self.numbers)}"
        url = self.aws["sqs"].create_queue(QueueName=name)["QueueUrl"]
        arn = self.aws["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        bus = self.one(stack, "AWS::Events::EventBus")
        rule = self.aws["events"].put_rule(Name=name, EventBusName=bus, EventPattern=json.dumps(pattern))
        policy = {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
            "Resource": arn, "Condition": {"ArnEquals": {"aws:SourceArn": rule["RuleArn"]}}}]}
        self.aws["sqs"].set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
        self.aws["events"].put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "listener", "Arn": arn}])
        return {"queue": url}

    def on_queue(self, stack, name):
        return {"queue": self.all(stack, "AWS::SQS::Queue")[name]}

    def on_received(self, queue):
        answer = self.aws["sqs"].receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=2)
        got = answer.get("Messages", [])
        for one in got:
            self.aws["sqs"].delete_message(QueueUrl=queue, ReceiptHandle=one["ReceiptHandle"])
        return {"bodies": [one["Body"] for one in got]}
