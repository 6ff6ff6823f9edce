// wstunnel's client as a ProxyCommand of ssh: node wstunnel.mjs URL TOKEN [SUBPROTOCOL]
// With a subprotocol it offers that in the place of its own name.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [url, token, subprotocol] = process.argv.slice(2);
const Client = require("wstunnel/lib/WstClient.js");
const WebSocketClient = require("websocket").client;

const say = (text) => process.stderr.write(`tunnel: ${text}\n`);
const connect = WebSocketClient.prototype.connect;
WebSocketClient.prototype.connect = function (to, name, ...rest) {
  this.on("connect", (conn) => {
    say("open");
    conn.on("close", (code, reason) => say(`closed ${code} ${reason}`));
  });
  this.on("connectFailed", (err) => {
    say(`refused ${/status: (\d+)/i.exec(err)?.[1] ?? err}`);
    process.exit(1);
  });
  return connect.call(this, to, subprotocol ?? name, ...rest);
};

new Client().startStdio(url, "", { Authorization: `Bearer ${token}` });
