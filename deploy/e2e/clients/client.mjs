// Speaks to a node with the ws package. One argument: a JSON object with url,
// ca (a file), protocols, headers, origin, send (messages), and last (whether to
// wait for the server's close). Prints what happened as JSON lines.
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const o = JSON.parse(process.argv[2]);
const say = (event, more) => console.log(JSON.stringify({ event, ...more }));
const ws = new WebSocket(o.url, o.protocols ?? [], {
  ca: o.ca && readFileSync(o.ca),
  headers: o.headers,
  origin: o.origin,
  handshakeTimeout: 10000,
});
let waiting = (o.send ?? []).length;
const finish = () => {
  if (waiting === 0 && !o.last) ws.close(1000, "done");
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
  for (const m of o.send ?? []) ws.send(m);
  finish();
});
ws.on("message", (data, binary) => {
  say("message", { data: data.toString(), binary });
  waiting--;
  finish();
});
ws.on("close", (code, reason) => {
  say("close", { code, reason: reason.toString() });
  process.exit(0);
});
ws.on("error", (e) => say("error", { message: e.message }));
setTimeout(() => {
  say("timeout");
  process.exit(1);
}, 20000).unref();
