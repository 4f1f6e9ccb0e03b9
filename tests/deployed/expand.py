"""Converts template.yaml into a form that the emulator accepts.

SAM's own translator turns it into plain CloudFormation, as the service would. Only three
changes are needed for the emulator:

- The translator leaves the HTTP API's routes in an OpenAPI body, which the emulator
  ignores. They are written out as the resources that API Gateway creates from such a body.
- A parameter is text. AWS converts it where a number is required, and the emulator does
  not; the mappings' concurrency must be a number.
- Resources in DROPPED are removed, because the emulator lacks them. Anything else that it
  does not know fails the deployment.

Code was uploaded before, as one archive for each function's binary.
"""

import copy
import logging
import re

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

# The translator would log metrics for its makers.
logging.getLogger("samtranslator.metrics").setLevel(logging.ERROR)

# Resource type, the property that is not supported (None: the whole type), and why tests don't need it.
DROPPED = [
    ("AWS::Events::Archive", None, "it has no archives; nothing reads them but people"),
    ("AWS::S3::BucketPolicy", None, "it speaks no TLS, and the policies let nobody in without"),
    ("AWS::CloudWatch::Alarm", "Metrics", "it knows no metric math; cfn-lint reads the alarm"),
]

METHODS = {"get", "put", "post", "delete", "options", "head", "patch"}
ANY = "x-amazon-apigateway-any-method"
# The names of an integration's properties in a body, and in a resource.
INTEGRATION = {
    "type": "IntegrationType",
    "uri": "IntegrationUri",
    "httpMethod": "IntegrationMethod",
    "payloadFormatVersion": "PayloadFormatVersion",
    "timeoutInMillis": "TimeoutInMillis",
}


class Managed:
    """The managed policies that SAM itself names. The real service gets them from IAM."""

    def load(self):
        base = "arn:aws:iam::aws:policy/"
        return {
            "AWSLambdaBasicExecutionRole": base + "service-role/AWSLambdaBasicExecutionRole",
            "AWSXrayWriteOnlyAccess": base + "AWSXrayWriteOnlyAccess",
        }


def read(text):
    return yaml_parse(text)


def functions(template):
    """Logical id and binary of every function, as `sam build` finds them."""
    found = {}
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            build = resource.get("Metadata", {}).get("BuildProperties", {})
            binary = build.get("Binary")
            if not binary:
                raise ValueError(f"{name} does not say which binary it is: Metadata.BuildProperties.Binary")
            found[name] = binary
    return found


def expand(template, parameters, code):
    """Returns plain CloudFormation; `code` has bucket and key of each function's archive."""
    template = copy.deepcopy(template)
    for name, place in code.items():
        template["Resources"][name]["Properties"]["CodeUri"] = place
    plain = transform(template, dict(parameters), Managed())
    resources = plain["Resources"]
    for name in list(resources):
        if resources[name]["Type"] == "AWS::ApiGatewayV2::Api" and "Body" in resources[name]["Properties"]:
            resources.update(routes(name, resources[name]["Properties"].pop("Body")))
            spell_out(name, resources[name]["Properties"])
    drop(resources)
    number(plain, parameters)
    return plain


def spell_out(api, properties):
    """Sets the properties that a body defines for the API itself."""
    properties.setdefault("Name", api)
    properties.setdefault("ProtocolType", "HTTP")
    for inside in ("Tags", "FailOnWarnings"):
        properties.pop(inside, None)


def routes(api, body):
    """Route and integration of each operation."""
    made = {}
    for path, methods in body["paths"].items():
        for method, about in methods.items():
            if method not in METHODS and method != ANY:
                raise ValueError(f"{path}: {method} is no method")
            verb = "ANY" if method == ANY else method.upper()
            target = about.pop("x-amazon-apigateway-integration")
            for has, known in ((about, {"responses", "isDefaultRoute"}), (target, set(INTEGRATION))):
                if unknown := sorted(set(has) - known):
                    raise ValueError(f"{verb} {path} has {unknown}, which nothing here writes out")
            stem = api + re.sub(r"\W", "", f"{verb}{path}".title())
            made[stem + "Integration"] = {
                "Type": "AWS::ApiGatewayV2::Integration",
                "Properties": {"ApiId": {"Ref": api}} | {
                    INTEGRATION[name]: value.upper() if name == "type" else value
                    for name, value in target.items()
                },
            }
            made[stem + "Route"] = {
                "Type": "AWS::ApiGatewayV2::Route",
                "Properties": {
                    "ApiId": {"Ref": api},
                    "RouteKey": "$default" if about.get("isDefaultRoute") else f"{verb} {path}",
                    "Target": {"Fn::Join": ["/", ["integrations", {"Ref": stem + "Integration"}]]},
                },
            }
    return made


def number(plain, parameters):
    for about in plain["Resources"].values():
        scaling = about.get("Properties", {}).get("ScalingConfig")
        if scaling and isinstance(scaling["MaximumConcurrency"], dict):
            name = scaling["MaximumConcurrency"]["Ref"]
            scaling["MaximumConcurrency"] = int(parameters.get(name, plain["Parameters"][name]["Default"]))


def drop(resources):
    for kind, prop, _ in DROPPED:
        for name, about in list(resources.items()):
            if about["Type"] == kind and (prop is None or prop in about["Properties"]):
                del resources[name]
