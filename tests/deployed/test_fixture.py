"""Tests of the fixture's own checks: `python -m unittest` in this folder."""

import unittest

import expand
import roles
import stacks


ROLES = [["r-api", "ApiFunction"], ["r-rec", "RecorderFunction"]]


def calls(*more):
    usual = [["r-api", "dynamodb:PutItem", "table/one", True], ["r-rec", "dynamodb:PutItem", "table/one", True]]
    return usual + list(more)


class Faults(unittest.TestCase):
    def test_a_functions_errors_are_reported_but_no_slow_emulator(self):
        wrong = '{"level":"ERROR","message":"the item can\'t be read"}'
        slow = '{"level":"ERROR","message":"not sent yet: request has timed out: after 12s"}'
        fine = '{"level":"WARN","message":"tried again"}'
        log = "\n".join([fine, slow, wrong, "thread main panicked"])
        self.assertEqual(stacks.faults_in(log), [wrong, "thread main panicked"])


class Roles(unittest.TestCase):
    def test_what_is_allowed_passes(self):
        self.assertEqual(roles.faults(ROLES, calls()), [])

    def test_a_denied_call_is_reported(self):
        found = roles.faults(ROLES, calls(["r-api", "sqs:SendMessage", "queue", False]))
        self.assertEqual(found, ["ApiFunction may not sqs:SendMessage on queue"])

    def test_a_call_that_outlives_its_stack_is_no_fault(self):
        refused = ["r-api", "sqs:SendMessage", "queue", False]
        ended = ["r", roles.DELETED, "*", True]
        other = ["s", roles.DELETED, "*", True]
        self.assertEqual(roles.faults(ROLES, calls(ended, refused)), [])
        self.assertEqual(len(roles.faults(ROLES, calls(other, refused))), 1)
        self.assertEqual(len(roles.faults(ROLES, calls(refused, ended))), 1)

    def test_a_record_that_stopped_is_told(self):
        self.assertEqual(len(roles.faults(ROLES, [])), 2)


class Expand(unittest.TestCase):
    def test_routes_are_written_out(self):
        target = {"type": "aws_proxy", "uri": "u", "httpMethod": "POST", "payloadFormatVersion": "2.0"}
        body = {"paths": {
            "/a": {"get": {"x-amazon-apigateway-integration": dict(target)}},
            "$default": {expand.ANY: {"x-amazon-apigateway-integration": target, "isDefaultRoute": True}},
        }}
        made = expand.routes("Api", body)
        keys = [one["Properties"].get("RouteKey") for one in made.values() if one["Type"].endswith("Route")]
        self.assertEqual(keys, ["GET /a", "$default"])

    def test_what_it_does_not_know_is_refused(self):
        target = {"x-amazon-apigateway-integration": {"type": "aws_proxy"}, "security": []}
        with self.assertRaisesRegex(ValueError, "security"):
            expand.routes("Api", {"paths": {"/a": {"get": target}}})

    def test_only_what_is_listed_is_dropped(self):
        alarm, math = ({"Type": "AWS::CloudWatch::Alarm", "Properties": {name: []}} for name in ("Metric", "Metrics"))
        resources = {"A": alarm, "B": math, "C": {"Type": "AWS::SQS::Queue"}}
        expand.drop(resources)
        self.assertEqual(sorted(resources), ["A", "C"])


if __name__ == "__main__":
    unittest.main()
