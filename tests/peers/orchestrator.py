"""An orchestrator's client and worker that behave as docs/redis.md says.

Existing programs that talk over Redis are strict about what they read (an unknown field or an
unknown value makes a task unreadable for them) and have faults that the bridge must survive.
This one is as strict and has the same faults.

    orchestrator.py publish  --count N [--type T] [--priority P] [--agent A] [--payload JSON]
                             [--pad BYTES] [--wait S [--hear]] [--quiet]
    orchestrator.py listen   --seconds S [--types a,b]
    orchestrator.py tell     --count N [--type T]
    orchestrator.py work     --name NAME --seconds S [--fail] [--max-tokens N]

`--agent` may be any name: installations have their own agents, such as qa_agent. `--hear` also
waits for the event of each task's end.

Each prints JSON, one object per line, and the word "ready" where others wait for it.
"""

import argparse
import json
import os
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from enum import Enum

import redis

from spending import OverBudget, Spending

QUEUE = "orchestrator:tasks"
PROCESSING = "orchestrator:tasks:processing"
TASK = "orchestrator:task:"
EVENTS = "orchestrator:events:"
SCORES = {"P0": 1.0, "P1": 2.0, "P2": 3.0, "P3": 4.0}


def now():
    return datetime.now(timezone.utc).isoformat()


def words(name, values):
    return Enum(name, {value: value for value in values.split()})


Type = words("Type", "faq bugfix deploy investigate monitor alert refactor feature kb_update")
Priority = words("Priority", "P0 P1 P2 P3")
Source = words("Source", "faq ops dev user system webhook")
Status = words("Status", "pending assigned in_progress completed failed cancelled blocked")
Urgency = words("Urgency", "critical high medium low")
ENDED = ("completed", "failed", "cancelled", "blocked")


@dataclass
class Sla:
    target: str
    deadline: str
    alert_threshold: int | None = None


@dataclass
class Task:
    """Built from the stored fields by keyword: an unknown field is a TypeError."""

    type: str
    payload: dict
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    priority: str = "P2"
    source: str = "user"
    status: str = "pending"
    trace_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sla: Sla | None = None
    assigned_to: str | None = None
    created_at: str = field(default_factory=now)
    started_at: str | None = None
    completed_at: str | None = None
    parent_task_id: str | None = None
    child_task_ids: list = field(default_factory=list)
    metadata: dict = field(default_factory=dict)
    error: str | None = None
    retry_count: int = 0
    max_retries: int = 3

    @classmethod
    def load(cls, text):
        stored = json.loads(text)
        for name, known in (("type", Type), ("priority", Priority), ("source", Source), ("status", Status)):
            known(stored[name])
        sla = stored.pop("sla", None)
        for name in ("created_at", "started_at", "completed_at"):
            if stored.get(name):
                datetime.fromisoformat(stored[name])
        return cls(**stored, sla=Sla(**sla) if sla else None)

    def dump(self):
        return json.dumps(asdict(self))


@dataclass
class Event:
    event_id: str
    event_type: str
    priority: str
    source_agent: str
    trace_id: str
    task_id: str | None
    payload: dict
    timestamp: str
    metadata: dict

    @classmethod
    def load(cls, text):
        event = cls(**json.loads(text))
        Urgency(event.priority)
        datetime.fromisoformat(event.timestamp.replace("Z", "+00:00"))
        return event


class Orchestrator:
    def __init__(self, url):
        self.redis = redis.from_url(url, decode_responses=True)

    def enqueue(self, task, tell=True):
        pipe = self.redis.pipeline()
        fields = {"data": task.dump(), "status": task.status, "created_at": task.created_at}
        pipe.hset(TASK + task.task_id, mapping={**fields, "priority": task.priority})
        pipe.zadd(QUEUE, {task.task_id: SCORES[task.priority]})
        pipe.execute()
        if tell:
            payload = {"task_type": task.type, "priority": task.priority, "assigned_to": task.assigned_to}
            self.tell("task.created", "orchestrator", payload, task.task_id, task.trace_id)

    def tell(self, event_type, source, payload, task_id=None, trace_id=None):
        event = Event(
            event_id=str(uuid.uuid4()),
            event_type=event_type,
            priority="medium",
            source_agent=source,
            trace_id=trace_id or str(uuid.uuid4()),
            task_id=task_id,
            payload=payload,
            timestamp=now(),
            metadata={},
        )
        text = json.dumps(asdict(event))
        self.redis.publish(EVENTS + event_type, text)
        self.redis.publish(EVENTS + "*", text)
        return event.event_id

    def task(self, task_id):
        text = self.redis.hget(TASK + task_id, "data")
        return Task.load(text) if text else None

    def dequeue(self):
        """Pops the id before it is marked: a worker that dies in between loses it."""
        found = self.redis.zpopmin(QUEUE, 1)
        if not found:
            return None
        task_id = found[0][0]
        task = self.task(task_id)
        if task:
            self.redis.sadd(PROCESSING, task_id)
        return task

    def update(self, task):
        fields = {"data": task.dump(), "status": task.status, "updated_at": now()}
        self.redis.hset(TASK + task.task_id, mapping=fields)


def say(**what):
    print(json.dumps(what), flush=True)


def ready():
    print('"ready"', flush=True)


class Ends:
    """Collects the events of tasks' ends, on the channel of each kind and on the channel for all."""

    def __init__(self, client):
        self.pubsub = client.redis.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(*[f"{EVENTS}task.{end}" for end in ENDED], EVENTS + "*")
        self.pubsub.get_message(timeout=5)
        self.heard = {}

    def hear(self):
        while message := self.pubsub.get_message(timeout=0):
            event = Event.load(message["data"])
            kind = event.event_type.removeprefix("task.")
            if kind in ENDED:
                channel = message["channel"].removeprefix(EVENTS)
                self.heard.setdefault(event.task_id, []).append([channel, kind, event.event_id])

    def of(self, task_id):
        return self.heard.get(task_id, [])


def publish(client, args):
    ends = Ends(client) if args.hear else None
    tasks = []
    for n in range(args.count):
        payload = {"service": "system", "n": n, **json.loads(args.payload)}
        if args.pad:
            payload["pad"] = "x" * args.pad
        task = Task(
            type=args.type,
            payload=payload,
            priority=args.priority,
            status="assigned",
            assigned_to=args.agent,
        )
        client.enqueue(task, tell=not args.quiet)
        tasks.append(task)
    if not args.wait:
        for task in tasks:
            say(task_id=task.task_id)
        return
    seen = {task.task_id: [] for task in tasks}
    until = time.monotonic() + args.wait
    left = dict.fromkeys(seen)
    while left and time.monotonic() < until:
        for task_id in list(left):
            task = client.task(task_id)
            status = client.redis.hget(TASK + task_id, "status")
            if status != task.status:
                continue  # between the two reads
            if status not in seen[task_id]:
                seen[task_id].append(status)
            if ends:
                ends.hear()
            heard = ends.of(task_id) if ends else []
            if status in ENDED and (not ends or len(heard) >= 2):
                task.payload.pop("pad", None)
                say(task_id=task_id, seen=seen[task_id], task=asdict(task), heard=heard)
                del left[task_id]
        time.sleep(0.002)
    for task_id in left:
        say(task_id=task_id, seen=seen[task_id], task=None)


def listen(client, args):
    pubsub = client.redis.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(*[EVENTS + one for one in args.types.split(",")])
    pubsub.get_message(timeout=5)
    ready()
    until = time.monotonic() + args.seconds
    while time.monotonic() < until:
        message = pubsub.get_message(timeout=0.05)
        if message:
            say(channel=message["channel"], event=asdict(Event.load(message["data"])))


def tell(client, args):
    for n in range(args.count):
        say(event_id=client.tell(args.type, "ops_agent", {"n": n}))


def work(client, args):
    """A worker's loop. A task that is not for its exact name is requeued, and nothing is ever removed
    from the processing set. A task that the budget refuses fails without an event."""
    spending = Spending(client.redis)
    ready()
    until = time.monotonic() + args.seconds
    while time.monotonic() < until:
        task = client.dequeue()
        if task is None:
            time.sleep(0.02)
            continue
        if task.assigned_to != args.name:
            client.redis.zadd(QUEUE, {task.task_id: SCORES[task.priority]})
            time.sleep(0.02)
            continue
        if args.max_tokens is not None:
            try:
                spending.enforce(args.max_tokens, float("inf"), task.trace_id)
            except OverBudget as error:
                task.status, task.error, task.completed_at = "failed", str(error), now()
                client.update(task)
                say(task_id=task.task_id, status=task.status)
                continue
        task.status, task.started_at = "in_progress", now()
        client.update(task)
        client.tell("task.started", args.name, {"task_id": task.task_id}, task.task_id, task.trace_id)
        time.sleep(0.01)
        task.completed_at = now()
        if args.fail:
            task.status, task.error = "failed", "the worker could not"
        else:
            task.status = "completed"
            task.metadata["result"] = {"success": True, "by": args.name, "n": task.payload.get("n")}
        client.update(task)
        client.tell(f"task.{task.status}", args.name, {"task_id": task.task_id}, task.task_id, task.trace_id)
        say(task_id=task.task_id, status=task.status)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["publish", "listen", "tell", "work"])
    parser.add_argument("--url", default=os.environ.get("REDIS_URL", "redis://localhost:6379"))
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--type", default=None)
    parser.add_argument("--types", default="*")
    parser.add_argument("--priority", default="P2")
    parser.add_argument("--agent", default="ops")
    parser.add_argument("--name", default="dev")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--payload", default="{}")
    parser.add_argument("--pad", type=int, default=0)
    parser.add_argument("--hear", action="store_true")
    parser.add_argument("--max-tokens", type=int, default=None)
    args = parser.parse_args()
    if args.type is None:
        args.type = "deploy.succeeded" if args.command == "tell" else "monitor"
    client = Orchestrator(args.url)
    {"publish": publish, "listen": listen, "tell": tell, "work": work}[args.command](client, args)


if __name__ == "__main__":
    sys.exit(main())
