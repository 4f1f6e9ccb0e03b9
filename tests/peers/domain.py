"""A client of the domain network that behaves as docs/redis.md says.

    domain.py publish --description TEXT [--priority P] [--wait S]   publishes a task, prints its result
    domain.py find                                                   prints the domains and their health
"""

import argparse
import json
import os
import sys
import time
import uuid
from datetime import datetime, timezone

import redis


def now():
    return datetime.now(timezone.utc).isoformat()


class Network:
    def __init__(self, url):
        self.redis = redis.from_url(url, decode_responses=True)

    def publish(self, domain, description, priority):
        task_id = str(uuid.uuid4())
        # Compact, in this order: a claimed message must be removed by the same bytes.
        message = json.dumps(
            {
                "task_id": task_id,
                "type": "task_assignment",
                "source": "cli",
                "destination": domain,
                "timestamp": now(),
                "payload": {"description": description, "requirements": [], "context": {}},
                "metadata": {"priority": priority, "timeout_seconds": 300},
            },
            separators=(",", ":"),
        )
        self.redis.lpush(f"tasks:pending:{domain}", message)
        self.redis.hset(f"results:{task_id}", mapping={"task_id": task_id, "status": "pending"})
        self.redis.publish(f"notifications:{domain}", message)
        return task_id

    def wait(self, task_id, seconds):
        key = f"results:{task_id}"
        pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(key)
        notified, seen = None, []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            message = pubsub.get_message(timeout=0.01)
            if message:
                notified = json.loads(message["data"])
            status = self.redis.hget(key, "status")
            if status not in seen:
                seen.append(status)
            if status in ("completed", "failed") and notified:
                break
        result = self.redis.hgetall(key)
        if result.get("output"):
            result["output"] = json.loads(result["output"])
        logs = self.redis.lrange(f"results:{task_id}:logs", 0, -1)
        return {"task_id": task_id, "seen": seen, "notified": notified, "result": result, "logs": logs}

    def find(self, domain):
        found = []
        for agent in self.redis.smembers(f"agents:domains:{domain}"):
            info = self.redis.hgetall(f"agents:info:{agent}")
            sets = [one for one in ("agents:all", "agents:domains") if self.redis.sismember(one, agent)]
            healthy = self.redis.exists(f"agents:heartbeat:{agent}") > 0
            ttl = self.redis.ttl(f"agents:heartbeat:{agent}")
            found.append({"info": info, "sets": sets, "healthy": healthy, "ttl": ttl})
        return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["publish", "find"])
    parser.add_argument("--url", default=os.environ.get("REDIS_URL", "redis://localhost:6379"))
    parser.add_argument("--domain", default="devops")
    parser.add_argument("--description", default="Create a Dockerfile")
    parser.add_argument("--priority", default="normal")
    parser.add_argument("--wait", type=float, default=10.0)
    args = parser.parse_args()
    network = Network(args.url)
    if args.command == "find":
        print(json.dumps(network.find(args.domain)), flush=True)
        return
    task_id = network.publish(args.domain, args.description, args.priority)
    print(json.dumps(network.wait(task_id, args.wait)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
