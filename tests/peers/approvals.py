"""An orchestrator's dashboard: reads approvals by their fields, in Redis and over HTTP, and decides.

    approvals.py --task ID --http URL --key KEY     waits for the task's approval, approves it over HTTP

A missing field is an error, and so is a pending approval without a reason. Prints JSON, one object per
line: what it read in Redis and over HTTP before its decision, and after it.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from urllib.request import Request, urlopen

import redis

PENDING = "hitl:pending:"
HISTORY = "hitl:history:"


@dataclass
class Approval:
    approval_id: str
    task_id: str
    task_type: str
    priority: str
    status: str
    reason: str
    requested_at: str
    approver: str | None
    approved_at: str | None

    @classmethod
    def read(cls, data):
        """Ignores unknown fields; every known field must be present."""
        approval = cls(**{name: data[name] for name in cls.__dataclass_fields__})
        if approval.status == "pending" and not approval.reason:
            raise ValueError(f"{approval.approval_id} has no reason")
        if (approval.status == "approved") != bool(approval.approver and approval.approved_at):
            raise ValueError(f"{approval.approval_id} is {approval.status}, but its approver or time does not match: {data}")
        return approval


class Server:
    def __init__(self, url, key):
        self.url, self.key = url, key

    def ask(self, method, path, body=None):
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data, headers, method=method), timeout=30) as answer:
            return json.load(answer)

    def approval(self, approval_id):
        for path in ("/approvals/pending?limit=200", "/approvals/history?limit=200"):
            body = self.ask("GET", path)
            for name in ("approvals", "history"):
                for one in body.get(name, []):
                    if one["approval_id"] == approval_id:
                        return one
        raise LookupError(approval_id)


def until(client, key, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if text := client.get(key):
            return Approval.read(json.loads(text))
        time.sleep(0.01)
    raise TimeoutError(f"there is no {key}")


def say(server, mirrored):
    there = Approval.read(server.approval(mirrored.approval_id))
    print(json.dumps({"redis": asdict(mirrored), "http": asdict(there)}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default=os.environ.get("REDIS_URL", "redis://localhost:6379"))
    parser.add_argument("--task", required=True)
    parser.add_argument("--http", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    client = redis.from_url(args.url, decode_responses=True)
    server = Server(args.http, args.key)
    approval_id = f"approval_{args.task}"
    say(server, until(client, PENDING + approval_id, args.seconds))
    server.ask("POST", f"/approvals/{approval_id}/approve", {})
    say(server, until(client, HISTORY + approval_id, args.seconds))


if __name__ == "__main__":
    sys.exit(main())
