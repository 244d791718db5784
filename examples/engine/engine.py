"""A workflow engine of a hundred lines, whose nodes node-timeout watches over.

It knows nothing of node-timeout's stores. It sends two events over RabbitMQ, and serves the three
operations of docs/reference/engine.openapi.yaml. Start it with: python engine.py
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import time
import uuid
from collections.abc import AsyncIterator

import aio_pika
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
EVENTS_QUEUE = os.environ.get("EVENTS_QUEUE", "node_timeout.events")
SIGNING_KEY = os.environ.get("SIGNING_KEY", "").encode()
PORT = int(os.environ.get("PORT", "8080"))

nodes: dict[str, dict[str, object]] = {}
"""By node id, which is unique here: state, version, root_pipeline_id, story. A real engine has a
database."""
works: set[asyncio.Task[None]] = set()


async def tell(app: Starlette, event: str, node_id: str, **more: object) -> None:
    """Return once RabbitMQ has the event; mandatory, so that a missing queue is an error."""
    entry = {"event": event, "node_id": node_id, "happened_at": time.time(), **more}
    body = json.dumps({"schema": 1, "events": [entry]}).encode()
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await app.state.channel.default_exchange.publish(message, EVENTS_QUEUE, mandatory=True)


async def start(request: Request) -> Response:
    """POST /nodes/{node_id} {"seconds": 60, "timeout": 3, "action": "forced_fail"}: run a node."""
    node_id, order = request.path_params["node_id"], await request.json()
    version, root = uuid.uuid4().hex, order.get("root_pipeline_id", "example")
    config = {"enable": True, "action": order["action"], "seconds": order["timeout"]}
    await tell(
        request.app,
        "node_running",
        node_id,
        version=version,
        root_pipeline_id=root,
        timeout_config=config,
    )
    nodes[node_id] = {"state": "running", "version": version, "root_pipeline_id": root}
    task = asyncio.create_task(work(request.app, node_id, version, float(order["seconds"])))
    works.add(task)
    task.add_done_callback(works.discard)
    return JSONResponse({"version": version}, status_code=202)


async def work(app: Starlette, node_id: str, version: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    node = nodes[node_id]
    if node["version"] == version and node["state"] == "running":
        node |= {"state": "finished", "story": f"finished after {seconds:g} s"}
        root = node["root_pipeline_id"]
        await tell(app, "node_left", node_id, version=version, root_pipeline_id=root)


async def operate(request: Request) -> Response:
    """POST /v1/state, /v1/fail, /v1/skip: what node-timeout asks of an engine."""
    body = await request.body()
    if not genuine(request, body):
        return JSONResponse({"message": "wrong signature"}, status_code=401)
    call = json.loads(body)
    operation = call["operation"]
    is_known = call["schema"] == 1 and operation in ("state", "fail", "skip")
    if not is_known or operation != request.path_params["operation"]:
        return JSONResponse({"message": "unknown schema or operation"}, status_code=400)
    # The very run that is meant, or none: another version or another pipeline is left alone.
    node = nodes.get(call["node_id"], {})
    if any(node.get(name) != call[name] for name in ("root_pipeline_id", "version")):
        node = {}
    if operation == "state":
        return JSONResponse({"running": node.get("state") == "running"})
    if node.get("done_by") == call["idempotency_key"]:
        return JSONResponse({"message": f"{node['state']} before"})
    if node.get("state") != "running":
        return JSONResponse({"message": f"is {node.get('state', 'unknown')}"}, status_code=409)
    # One step: nothing is awaited between the look above and this line.
    state = {"fail": "failed", "skip": "skipped"}[operation]
    node |= {"state": state, "story": call["reason"], "done_by": call["idempotency_key"]}
    return JSONResponse({"message": state})


def genuine(request: Request, body: bytes) -> bool:
    """Signed with our key, and within the last five minutes."""
    if not SIGNING_KEY:
        return True
    identity, sent = (request.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp"))
    digest = hmac.new(SIGNING_KEY, f"{identity}.{sent}.".encode() + body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    fresh = sent.isdigit() and abs(time.time() - int(sent)) <= 300
    signature = request.headers.get("webhook-signature", "")
    return fresh and hmac.compare_digest(expected.encode(), signature.encode())


async def look(_: Request) -> Response:
    """GET /nodes."""
    return JSONResponse(nodes)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with await aio_pika.connect_robust(AMQP_URL) as connection:
        app.state.channel = await connection.channel(on_return_raises=True)
        yield


app = Starlette(
    routes=[
        Route("/nodes", look),
        Route("/nodes/{node_id}", start, methods=["POST"]),
        Route("/v1/{operation}", operate, methods=["POST"]),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT)
