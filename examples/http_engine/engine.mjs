// A workflow engine that needs HTTP alone: events out, actions in. Start it with: node engine.mjs
import { createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const { env } = process;
const api = env.NODE_TIMEOUT_API ?? "http://127.0.0.1:8642/api/v1";
const token = env.NODE_TIMEOUT_API_TOKEN ?? "";
const key = env.SIGNING_KEY ?? "";
const port = Number(env.PORT ?? 8080);

// By node id, which is unique here. A real engine has a database.
const nodes = new Map();

// Say what a node does. Throws if node-timeout does not take it: then send it again.
const tell = async (event, nodeId, { version, root_pipeline_id }, more = {}) => {
  const entry = { event, node_id: nodeId, version, root_pipeline_id, happened_at: Date.now() / 1000, ...more };
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const body = JSON.stringify({ schema: 1, events: [entry] });
  const answer = await fetch(`${api}/events`, { method: "POST", headers, body });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  const { refused } = await answer.json();
  if (refused.length) throw new Error(refused[0].reason);
};

// Run a node: {"seconds": 60, "after": "PT2S", "action": "forced_fail"}.
const start = async (nodeId, { seconds, after, action }) => {
  const node = { state: "running", version: randomUUID(), root_pipeline_id: "example" };
  nodes.set(nodeId, node);
  await tell("node_running", nodeId, node, { timeout_config: { enable: true, action, after } });
  setTimeout(() => {
    if (nodes.get(nodeId) !== node || node.state !== "running") return;
    node.state = "finished";
    tell("node_left", nodeId, node).catch(console.error);
  }, 1000 * seconds).unref();
  return { version: node.version };
};

// What a worker asks: is it running? fail it, skip it.
const operate = (operation, call) => {
  if (call.schema !== 1 || call.operation !== operation) {
    return [400, { message: "unknown schema or operation" }];
  }
  let node = nodes.get(call.node_id) ?? {};
  // The very run that is meant, or none: another version or another pipeline is left alone.
  if (node.version !== call.version || node.root_pipeline_id !== call.root_pipeline_id) node = {};
  if (operation === "state") return [200, { running: node.state === "running" }];
  if (node.done_by !== undefined && node.done_by === call.idempotency_key) {
    return [200, { message: `${node.state} before` }];
  }
  if (node.state !== "running") return [409, { message: `is ${node.state ?? "unknown"}` }];
  const state = { fail: "failed", skip: "skipped" }[operation];
  Object.assign(node, { state, story: call.reason, done_by: call.idempotency_key });
  return [200, { message: state }];
};

// Signed with our key, and within the last five minutes.
const isGenuine = (headers, body) => {
  if (!key) return true;
  const { "webhook-id": id, "webhook-timestamp": sent, "webhook-signature": signature = "" } = headers;
  const digest = createHmac("sha256", key).update(`${id}.${sent}.`).update(body).digest("base64");
  const [expected, given] = [Buffer.from(`v1,${digest}`), Buffer.from(signature)];
  const isFresh = Math.abs(Date.now() / 1000 - Number(sent)) <= 300;
  return isFresh && expected.length === given.length && timingSafeEqual(expected, given);
};

const answerTo = async (request, body) => {
  if (request.method === "GET") return [200, Object.fromEntries(nodes)];
  const [, kind, ...rest] = request.url.split("/");
  const name = decodeURIComponent(rest.join("/"));
  if (kind === "nodes") return [202, await start(name, JSON.parse(body))];
  if (kind !== "v1" || !["state", "fail", "skip"].includes(name)) {
    return [404, { message: "there is no such operation" }];
  }
  if (!isGenuine(request.headers, body)) return [401, { message: "wrong signature" }];
  return operate(name, JSON.parse(body));
};

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let answer;
  try {
    answer = await answerTo(request, Buffer.concat(chunks));
  } catch (error) {
    answer = [500, { message: String(error) }];
  }
  response.writeHead(answer[0], { "content-type": "application/json" });
  response.end(JSON.stringify(answer[1]));
}).listen(port, "127.0.0.1");
