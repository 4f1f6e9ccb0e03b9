"""Replicas of a worker that share one API key. Each polls for tasks over HTTP, claims them by its own name,
and completes them with the fence of its claim.

    replicas.py --key KEY --agent dev --count N --tasks N     until N tasks are done

All see the same list at once, so that they compete for each task. Prints JSON, one object per line: each
task that a replica has done, with the replica's name and fence, then how often claims were refused.
"""

import argparse
import json
import sys
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen


class Replicas:
    def __init__(self, args):
        self.args = args
        self.lock = threading.Lock()
        self.done, self.refused, self.broken = [], 0, []
        self.end = time.monotonic() + args.seconds

    def ask(self, method, path, body=None):
        """Returns the status and the body of the response."""
        headers = {"X-API-Key": self.args.key, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.args.url + path, data, headers, method=method), timeout=30) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def work(self, name):
        try:
            while not self.is_over():
                self.round(name)
        except Exception as error:
            with self.lock:
                self.broken.append(f"{name}: {error!r}")

    def is_over(self):
        with self.lock:
            return bool(self.broken) or len(self.done) >= self.args.tasks or time.monotonic() > self.end

    def round(self, name):
        status, found = self.ask("GET", f"/tasks?assigned_to={self.args.agent}&status=assigned&wait=1")
        if status != 200:
            raise ValueError(f"the list is answered {status}: {found}")
        for task in found["tasks"]:
            path = f"/tasks/{task['task_id']}/status"
            status, claim = self.ask("PATCH", path, {"status": "in_progress", "worker": name})
            if status == 409:
                with self.lock:
                    self.refused += 1
                continue
            if status != 200:
                raise ValueError(f"the claim is answered {status}: {claim}")
            body = {"status": "completed", "worker": name, "fence": claim["fence"], "result": {"by": name}}
            status, ended = self.ask("PATCH", path, body)
            if status != 200:
                raise ValueError(f"the end is answered {status}: {ended}")
            with self.lock:
                self.done.append({"task_id": task["task_id"], "worker": name, "fence": claim["fence"]})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--agent", default="dev")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    replicas = Replicas(args)
    threads = [threading.Thread(target=replicas.work, args=(f"pod-{n}",)) for n in range(args.count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for done in replicas.done:
        print(json.dumps(done), flush=True)
    print(json.dumps({"refused": replicas.refused}), flush=True)
    return "; ".join(replicas.broken) or None


if __name__ == "__main__":
    sys.exit(main())
