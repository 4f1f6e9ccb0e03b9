"""The test fixture: an emulated AWS in which the deployable artefacts run, and stacks of them.

    fixture.py --template template.yaml --binaries FOLDER --folder FOLDER
               --port PORT --emulator-port PORT

Everything is one process, so that its parent has only one to end. Tests call it in JSON over
HTTP on PORT; see `Control`. Everything else they see as any client of AWS does.
"""

import argparse
import json
import pathlib
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import emulator


class Control(BaseHTTPRequestHandler):
    """POST <path> with a JSON object, which is answered with one. GET /health returns 200 once all is up.

    /deploy    {"parameters": {…}, "policy": text of a policy.yaml, "secrets": {…}: those that parameters name}
               → what a client needs to know about the new stack
    /delete    {"stack": name}
    /sweep     {"stack": name}: runs the sweeper's tick now
    /bridge    {"stack": name}: runs the Redis bridge's tick, until its round ends
    /policy    {"stack": name, "text": text of a policy.yaml}: replaces the one it was deployed with
    /again     {"stack": name, "event": {…}}: publishes an event again that the bus has delivered
    /restart   {"stack": name}: every function starts cold at its next call
    /left      {"stack": name} → messages that are left, and faults in the logs
    /log       {"stack": name} → {"text": …}, everything that its functions have logged
    /subscribe {"stack": name, "pattern": {…}} → {"queue": …}, fed by a rule on the bus
    /queue     {"stack": name, "name": its name in the template} → {"queue": …}
    /received  {"queue": …} → {"bodies": […]}, waits up to two seconds for the first
    """

    protocol_version = "HTTP/1.1"
    fixture = None
    ready = threading.Event()

    def do_GET(self):
        # A client that waits for it disconnects as soon as it has the status.
        self.close_connection = True
        self.answer(200 if self.ready.is_set() else 503, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            made = getattr(self.fixture, "on_" + self.path.strip("/"))(**json.loads(body or b"{}"))
            self.answer(200, made or {})
        except Exception:
            self.answer(500, {"error": traceback.format_exc()})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--template", required=True, type=pathlib.Path)
    asked.add_argument("--binaries", required=True, type=pathlib.Path)
    asked.add_argument("--folder", required=True, type=pathlib.Path)
    asked.add_argument("--port", required=True, type=int)
    asked.add_argument("--emulator-port", required=True, type=int)
    asked = asked.parse_args()
    port = asked.emulator_port
    emulator.prepare(asked.folder, port)

    def up():
        # Imported once the environment is set: the AWS client reads it too.
        import stacks
        Control.fixture = stacks.Fixture(asked, f"http://127.0.0.1:{port}")
        Control.ready.set()

    server = ThreadingHTTPServer(("127.0.0.1", asked.port), Control)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=up, daemon=True).start()
    emulator.serve()


if __name__ == "__main__":
    main()
