"""A workflow engine that needs HTTP alone: events out, actions in.

Start it with: python engine.py
"""

import base64
import hashlib
import hmac
import json
import os
import threading
import time
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = os.environ.get("NODE_TIMEOUT_API", "http://127.0.0.1:8642/api/v1")
TOKEN = os.environ.get("NODE_TIMEOUT_API_TOKEN", "")
SIGNING_KEY = os.environ.get("SIGNING_KEY", "").encode()
PORT = int(os.environ.get("PORT", "8080"))

nodes: dict[str, dict[str, Any]] = {}
"""By node id, which is unique here. A real engine has a database."""
lock = threading.Lock()


def tell(event: str, node_id: str, node: dict[str, Any], **more: Any) -> None:
    """Say what a node does. Raises if node-timeout does not take it: then send it again."""
    entry = {"event": event, "node_id": node_id, "happened_at": time.time(), **more}
    entry |= {name: node[name] for name in ("version", "root_pipeline_id")}
    body = json.dumps({"schema": 1, "events": [entry]}).encode()
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    request = urllib.request.Request(f"{API}/events", body, headers)  # noqa: S310 - our setting
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        if refused := json.load(answer)["refused"]:
            raise ValueError(refused[0]["reason"])


def start(node_id: str, order: dict[str, Any]) -> dict[str, Any]:
    """Run a node: {"seconds": 60, "after": "PT2S", "action": "forced_fail"}."""
    node = {"state": "running", "version": uuid.uuid4().hex, "root_pipeline_id": "example"}
    config = {"enable": True, "action": order["action"], "after": order["after"]}
    with lock:
        nodes[node_id] = node
    tell("node_running", node_id, node, timeout_config=config)
    timer = threading.Timer(float(order["seconds"]), finish, (node_id, node))
    timer.daemon = True
    timer.start()
    return {"version": node["version"]}


def finish(node_id: str, node: dict[str, Any]) -> None:
    with lock:
        if nodes[node_id] is not node or node["state"] != "running":
            return
        node["state"] = "finished"
    tell("node_left", node_id, node)


def operate(operation: str, call: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What a worker asks: is it running? fail it, skip it."""
    if call["schema"] != 1 or call["operation"] != operation:
        return 400, {"message": "unknown schema or operation"}
    with lock:  # the very run that is meant, or none
        node = nodes.get(call["node_id"], {})
        if any(node.get(name) != call[name] for name in ("root_pipeline_id", "version")):
            node = {}
        if operation == "state":
            return 200, {"running": node.get("state") == "running"}
        if node.get("done_by") == call["idempotency_key"]:
            return 200, {"message": f"{node['state']} before"}
        if node.get("state") != "running":
            return 409, {"message": f"is {node.get('state', 'unknown')}"}
        state = {"fail": "failed", "skip": "skipped"}[operation]
        node |= {"state": state, "story": call["reason"], "done_by": call["idempotency_key"]}
    return 200, {"message": state}


def is_genuine(headers: Any, body: bytes) -> bool:
    """Signed with our key, and within the last five minutes."""
    if not SIGNING_KEY:
        return True
    identity, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    digest = hmac.new(SIGNING_KEY, f"{identity}.{sent}.".encode() + body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    is_fresh = sent.isdigit() and abs(time.time() - int(sent)) <= 300
    return is_fresh and hmac.compare_digest(expected, headers.get("webhook-signature", ""))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(200, nodes)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "nodes":
            self.answer(202, start(name, json.loads(body)))
        elif kind != "v1" or name not in ("state", "fail", "skip"):
            self.answer(404, {"message": "there is no such operation"})
        elif not is_genuine(self.headers, body):
            self.answer(401, {"message": "wrong signature"})
        else:
            self.answer(*operate(name, json.loads(body)))

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
