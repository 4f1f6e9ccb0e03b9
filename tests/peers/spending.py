"""What an orchestrator's agents spend on models, and the budget that stops them.

They count under their own keys, which other programs may add to, and decide by the sums there:
a program that lowers a sum lets them make more calls.

    spending.py spend --tokens N --usd X [--trace ID]      counts a call
    spending.py check --max-tokens N --max-usd X [--trace ID]   checks whether they may make more calls

Each prints JSON, one object per line.
"""

import argparse
import json
import os
import sys
from datetime import datetime, timezone

import redis

HOUR = 3_600
DAY = 24 * HOUR


class OverBudget(Exception):
    pass


class Spending:
    def __init__(self, client):
        self.redis = client

    @staticmethod
    def sums(trace):
        """The key of each sum, and how long it is kept after its last change, in seconds."""
        at = datetime.now(timezone.utc)
        sums = {
            "daily": (f"cost:daily:{at:%Y-%m-%d}", 7 * DAY),
            "hourly": (f"cost:hourly:{at:%Y-%m-%d-%H}", DAY),
        }
        if trace:
            sums["task"] = (f"cost:task:{trace}", 30 * DAY)
        return sums

    def spend(self, tokens, usd, trace=None):
        for key, kept in self.sums(trace).values():
            self.redis.hincrby(key, "tokens", tokens)
            self.redis.hincrbyfloat(key, "usd", usd)
            self.redis.hincrby(key, "requests", 1)
            self.redis.expire(key, kept)

    def read(self, trace=None):
        """Reads the sums as they do: tokens that are no whole number are an error."""
        for period, (key, _) in self.sums(trace).items():
            tokens, usd, requests = self.redis.hmget(key, "tokens", "usd", "requests")
            used = {"tokens": int(tokens or 0), "usd": float(usd or 0), "requests": int(requests or 0)}
            yield period, {**used, "ttl": self.redis.ttl(key)}

    def enforce(self, max_tokens, max_usd, trace=None):
        for period, used in self.read(trace):
            if used["tokens"] > max_tokens or used["usd"] > max_usd:
                raise OverBudget(f"{period} budget exceeded: {used['tokens']} tokens, ${used['usd']:.2f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["spend", "check"])
    parser.add_argument("--url", default=os.environ.get("REDIS_URL", "redis://localhost:6379"))
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--usd", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=1_000_000)
    parser.add_argument("--max-usd", type=float, default=1_000.0)
    parser.add_argument("--trace", default=None)
    args = parser.parse_args()
    spending = Spending(redis.from_url(args.url, decode_responses=True))
    if args.command == "spend":
        spending.spend(args.tokens, args.usd, args.trace)
    why = None
    try:
        spending.enforce(args.max_tokens, args.max_usd, args.trace)
    except OverBudget as error:
        why = str(error)
    print(json.dumps({"within": why is None, "why": why, **dict(spending.read(args.trace))}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
