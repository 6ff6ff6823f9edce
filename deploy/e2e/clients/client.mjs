// Speaks to a node with the ws package. On stdin: a JSON object with url, ca (a
// file), protocols, headers, origin, send (messages), fragments (how many to send
// each in), ping (what to send a ping with, after them), and last (whether to wait
// for the server's close). Prints what happened as JSON lines.
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const o = JSON.parse(readFileSync(0));
const say = (event, more) => console.log(JSON.stringify({ event, ...more }));
const ws = new WebSocket(o.url, o.protocols ?? [], {
  ca: o.ca && readFileSync(o.ca),
  headers: o.headers,
  origin: o.origin,
  handshakeTimeout: 10000,
});
let waiting = (o.send ?? []).length;
const finish = () => {
  if (waiting > 0) return;
  if (o.ping) ws.ping(o.ping);
  if (!o.last) ws.close(1000, "done");
};
const send = (text) => {
  const whole = Buffer.from(text);
  const n = o.fragments ?? 1;
  for (let i = 0; i < n; i++) {
    const piece = whole.subarray((i * whole.length) / n, ((i + 1) * whole.length) / n);
    ws.send(piece, { binary: false, fin: i === n - 1 });
  }
};
ws.on("unexpected-response", (_, res) => {
  let body = "";
  res.on("data", (d) => (body += d));
  res.on("end", () => {
    say("refused", { status: res.statusCode, headers: res.headers, body });
    process.exit(0);
  });
});
ws.on("open", () => {
  say("open", { protocol: ws.protocol, extensions: ws.extensions });
  for (const m of o.send ?? []) send(m);
  finish();
});
ws.on("message", (data, binary) => {
  say("message", { data: data.toString(), binary });
  waiting--;
  if (waiting === 0) finish();
});
ws.on("pong", (data) => say("pong", { data: data.toString() }));
ws.on("close", (code, reason) => {
  say("close", { code, reason: reason.toString() });
});
ws.on("error", (e) => say("error", { message: e.message }));
setTimeout(() => {
  say("timeout");
  process.exit(1);
}, 20000).unref();
