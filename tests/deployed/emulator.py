"""Starts ministack as the tests need it.

It is patched at run time in three places, each as small as possible:

- Nagle's algorithm is off where functions call it; a warm call waited 40 ms for it.
- Each function logs to its own file. As shipped, ministack collects logs for 50 ms after each
  call, and later lines are lost.
- Every decision of its authorisation is recorded, as it keeps no record itself. SQS has no
  permissions for batches: those of the single calls cover them.
"""

import json
import os
import socketserver
import sys
import threading


def prepare(folder, port):
    """Must run before anything of ministack is imported: it reads its settings then."""
    os.environ.update({
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # Roles are always enforced.
        "AUTH": "true",
        "LOG_LEVEL": "WARNING",
        "TMPDIR": str(folder),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    })
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True
    keep_logs(folder / "logs")
    keep_decisions(folder / "calls")


def keep_logs(folder):
    from ministack.core.lambda_runtime import ProvidedWorker, Worker

    folder.mkdir(parents=True)

    def pump(self, stream, _):
        with stream, open(folder / self.func_name, "ab", buffering=0) as file:
            for line in iter(stream.readline, b""):
                file.write(line)

    ProvidedWorker._pump_output = pump
    Worker._drain_stderr_bounded = lambda self, **_: ""


def keep_decisions(path):
    """Writes a line for each distinct call of a role: role, action, resource, allowed."""
    from ministack.core import iam_evaluator

    decide = iam_evaluator.enforce
    lock, seen = threading.Lock(), set()

    def enforce(access_key_id, iam_action, service, region, resource_arn="*", service_context=None):
        if service == "sqs":
            iam_action = iam_action.removesuffix("Batch")
        denied = decide(access_key_id, iam_action, service, region, resource_arn, service_context)
        caller = iam_evaluator.caller_arn() or ""
        if ":assumed-role/" in caller:
            role = caller.split("/")[1]
            call = (role, iam_action, resource_arn, denied is None)
            with lock:
                if call not in seen:
                    seen.add(call)
                    with open(path, "a") as file:
                        file.write(json.dumps(call) + "\n")
        return denied

    iam_evaluator.enforce = enforce


def serve():
    """Serves until the process ends."""
    from ministack import app

    del sys.argv[1:]  # ministack would read them as its own.
    app.main()
