import { AGAIN, explain } from "./closes.js";

const LOG_ENTRIES = 200; // older ones are dropped
const SHOWN_CHARS = 2000; // of one message
const TOKEN = /gh1_[A-Za-z0-9_-]+/g;
const MASKED = "gh1_••••••••";

const SAMPLES = {
  chat: {
    text: '{"type":"chat","text":"hello"}',
    hint: "A chat message. The node passes it on, and the backend echoes it.",
  },
  ping: {
    text: '{"type":"ping","n":1}',
    hint: "The other type this route knows: n must be an integer.",
  },
  unknown: {
    text: '{"type":"shout","text":"hello"}',
    hint: "No schema has this type: the node closes with 1008.",
  },
  long: {
    text: JSON.stringify({ type: "chat", text: "x".repeat(281) }),
    hint: "One character more than the 280 of the schema: the node closes with 1008.",
  },
  broken: {
    text: '{"type":"chat","text":',
    hint: "Cut short, so not JSON: the node closes with 1007.",
  },
};

const $ = (id) => document.getElementById(id);

// The token last got: its text, never shown; id; commands; deadline by
// performance.now; life in ms; and whether it is fresh, used or dead.
let token = null;
// The open or opening connection: its socket, token, url, whether it opened,
// when messages were sent that have not come back, and who closed it.
let live = null;
// Whether an answer to POST /token, or to the second connection, is awaited.
// Buttons stay enabled meanwhile: one that is disabled drops the focus.
let asking = false;
let probing = false;

// mask hides token text wherever strings are shown.
const mask = (text) => text.replaceAll(TOKEN, MASKED);

// --- Step 1: the token.

async function getToken() {
  if (asking) {
    return;
  }
  asking = true;
  const request = { subject: $("subject").value };
  showError("");
  try {
    const response = await fetch("/token", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
    });
    const answer = await response.json();
    if (!response.ok) {
      showError(`No token: ${answer.error} (${answer.reason}, HTTP ${response.status})`);
      return;
    }
    took(request, answer);
  } catch {
    showError("No answer: is gatehouse dev still running?");
  } finally {
    asking = false;
  }
}

function took(request, answer) {
  token = {
    text: answer.token,
    id: answer.token_id,
    subject: answer.call.subject,
    commands: answer.commands,
    deadline: performance.now() + answer.expires_in_ms,
    life: answer.expires_in_ms,
    state: "fresh",
  };
  $("token-text").textContent = MASKED;
  $("token-id").textContent = token.id;
  $("call-post").textContent = [
    "POST /token",
    `Origin: ${location.origin}`,
    "Content-Type: application/json",
    "",
    mask(JSON.stringify(request)),
  ].join("\n");
  $("call-issue").textContent = `TokenService.IssueToken\n${mask(JSON.stringify(answer.call, null, 2))}`;
  $("token-result").hidden = false;
  $("again").hidden = true;
  $("again-result").hidden = true;
  hideBanner();
  announce(`Got token ${token.id}`);
  note(`got token ${token.id} for ${token.subject}`);
  render();
}

function showError(words) {
  $("token-error").textContent = mask(words);
  $("token-error").hidden = words === "";
}

// tick counts the token's time down; what has opened a socket counts no more.
function tick() {
  if (token?.state !== "fresh") {
    return;
  }
  const left = token.deadline - performance.now();
  if (left <= 0) {
    token.state = "expired";
    render();
    return;
  }
  const seconds = Math.ceil(left / 1000);
  $("token-expiry").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} left`;
  $("token-life").value = left / token.life;
}

// --- Step 2: the connection.

// dial opens a WebSocket as any page would, the token in the subprotocol.
function dial(url, text) {
  return new WebSocket(url, ["gatehouse.v1", `gatehouse.token.${text}`]);
}

function connect() {
  const url = $("endpoint").value;
  hideBanner();
  const conn = { socket: dial(url, token.text), token, url, opened: false, byUser: false, sent: [] };
  live = conn;
  note(`connecting to ${url}`);
  setState("connecting", "Connecting…", "connecting");
  conn.socket.addEventListener("open", () => {
    conn.opened = true;
    conn.token.state = "used";
    note(`open: the node answered ${conn.socket.protocol} and did not repeat the token`);
    setState("open", "Connected", "socket open");
  });
  conn.socket.addEventListener("message", (event) => received(conn, event.data));
  conn.socket.addEventListener("close", (event) => ended(conn, event));
}

function disconnect() {
  live.byUser = true;
  live.socket.close(1000, "done");
  setState("closing", "Closing…", "closing");
}

function ended(conn, event) {
  live = null;
  $("again-result").hidden = true; // it speaks of the socket that was open
  const reason = mask(event.reason);
  const said = reason === "" ? `${event.code}` : `${event.code} ${reason}`;
  if (conn.byUser && event.code === 1000) {
    note(`closed by this page: ${said}`);
    setState("closed", `Closed: ${said}`, "closed");
    return;
  }
  const row = explain(event.code, reason, conn.url, conn.opened);
  if (row.again === "same" || row.again === "trust" || event.code === 4500 || event.code === 4504) {
    conn.token.state = "fresh"; // a refusal by close opens first, but spends no token
  } else if (event.code === 4401) {
    conn.token.state = "dead";
  }
  log("closed", `closed: ${said}`);
  setState(event.code >= 4500 || event.code === 4401 ? "denied" : "closed", `Closed: ${said}`, `closed ${event.code}`);
  showBanner(event.code, reason, row);
}

// connectAgain shows that the token is single-use: the second socket is
// refused, and the first one stays.
function connectAgain() {
  if (probing) {
    return;
  }
  probing = true;
  const url = live?.url ?? $("endpoint").value;
  const before = live;
  const second = dial(url, token.text);
  let opened = false;
  note("connecting a second time, with the same token");
  second.addEventListener("open", () => {
    opened = true;
  });
  second.addEventListener("close", (event) => {
    const reason = mask(event.reason);
    const said = reason === "" ? `${event.code}` : `${event.code} ${reason}`;
    log("closed", `second connection: ${said}`);
    const words = [`Refused with ${said}.`];
    if (event.code === 4401) {
      words.push("One token opens one socket, once.");
    } else {
      words.push(explain(event.code, reason, url, opened).words);
    }
    if (before !== null && before === live) {
      words.push("The first socket stays open.");
    }
    if (event.code !== 1006) {
      words.push("You can read the code because the route has refuse_by_close on. Without it a browser shows a page nothing but 1006.");
    }
    const result = $("again-result");
    result.dataset.code = event.code;
    result.dataset.reason = reason;
    result.textContent = words.join(" ");
    result.hidden = false;
    probing = false;
  });
}

// --- Step 3: messages.

function send() {
  if (live?.socket.readyState !== WebSocket.OPEN) {
    return; // its close is on the way
  }
  const text = $("message").value;
  live.sent.push({ text, at: performance.now() });
  live.sent.splice(0, live.sent.length - LOG_ENTRIES);
  live.socket.send(text);
  log("sent", text);
}

function received(conn, data) {
  if (typeof data !== "string") {
    log("received", `binary message of ${data.size} bytes`);
    return;
  }
  const i = conn.sent.findIndex((s) => s.text === data);
  if (i < 0) {
    log("received", data);
    fromNode(data);
    return;
  }
  const [sent] = conn.sent.splice(i, 1);
  const ms = performance.now() - sent.at;
  log("received", data, `after ${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);
}

// The node's own messages, in words.
const FROM_NODE = {
  renewed: (m) => `The socket lives by its new token now, until ${clock(m.expires_at)}.`,
  renew_failed: (m) => `Not renewed for now; the socket lives on as before. It may be tried again in ${Number(m.retry_after)} s.`,
  renew_by: (m) => `Revoked with a grace: the socket has until ${clock(m.at)} to renew with a token issued since, or it is closed with 4501.`,
};

function clock(instant) {
  const at = new Date(instant);
  return Number.isNaN(at.getTime()) ? "some time" : at.toLocaleTimeString([], { hour12: false });
}

// fromNode explains what the node itself says. What this page has sent comes back
// as an echo, and is never taken for that.
function fromNode(data) {
  let message = null;
  try {
    message = JSON.parse(data);
  } catch {
    return;
  }
  if (!Object.hasOwn(FROM_NODE, message?.gatehouse ?? "")) {
    return;
  }
  const words = FROM_NODE[message.gatehouse](message);
  note(words);
  announce(words);
}

function sample(name) {
  $("message").value = SAMPLES[name].text;
  $("message-hint").textContent = SAMPLES[name].hint;
}

// --- What happened.

const LOG_NAMES = { sent: "sent", received: "received", note: "", closed: "" };

function log(kind, text, detail = "") {
  const list = $("log");
  const follow = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const now = new Date();
  const entry = document.createElement("li");
  entry.dataset.kind = kind;
  const time = document.createElement("time");
  time.dateTime = now.toISOString();
  time.textContent = `${now.toLocaleTimeString([], { hour12: false })}.${String(now.getMilliseconds()).padStart(3, "0")}`;
  const name = document.createElement("span");
  name.className = "kind";
  name.textContent = LOG_NAMES[kind];
  const body = document.createElement("span");
  body.className = "text";
  const shown = mask(text);
  body.textContent = shown.length > SHOWN_CHARS ? `${shown.slice(0, SHOWN_CHARS)}… (${shown.length} characters)` : shown;
  entry.append(time, name, body);
  if (detail !== "") {
    const more = document.createElement("span");
    more.className = "detail";
    more.textContent = detail;
    entry.append(more);
  }
  list.append(entry);
  while (list.children.length > LOG_ENTRIES) {
    list.firstChild.remove();
  }
  if (follow) {
    list.scrollTop = list.scrollHeight;
  }
}

const note = (text) => log("note", text);

// announce tells screen readers what the eye sees happen.
function announce(words) {
  $("announce").textContent = words;
}

function showBanner(code, reason, row) {
  const banner = $("banner");
  banner.dataset.code = code;
  banner.dataset.reason = reason;
  banner.dataset.again = row.again;
  $("banner-code").textContent = code;
  $("banner-title").textContent = row.title;
  $("banner-words").textContent = row.words;
  $("banner-reason").textContent = reason === "" ? "none" : reason;
  $("banner-reason").classList.toggle("none", reason === "");
  $("banner-again").textContent = AGAIN[row.again];
  $("banner-restart").hidden = row.again === "never" && code !== 4501; // a new token would be refused too
  banner.hidden = false;
  banner.scrollIntoView({ block: "nearest" });
}

function hideBanner() {
  $("banner").hidden = true;
}

// --- What is shown for the state there is.

// setState shows the connection's state in a word for the style sheet, in
// words, and in the few that fit the drawing. The title shows it to a user who
// is in another window, revoking.
function setState(name, words, brief) {
  document.body.dataset.phase = name;
  $("state").dataset.state = name;
  $("state").textContent = words;
  $("path-socket").textContent = brief;
  document.title = `${words} | Gatehouse`;
  render();
}

const TOKEN_STATES = {
  fresh: "Opens one socket,",
  used: "Used: it has opened its socket",
  expired: "Expired: it opens no socket any more",
  dead: "Inactive: it opens no socket",
};

function render() {
  const url = $("endpoint").value;
  const chosen = $("endpoint").selectedOptions[0];
  $("endpoint").disabled = live !== null;
  $("endpoint-note").textContent = chosen?.dataset.note ?? "";
  $("endpoint-note").hidden = $("endpoint-note").textContent === "";
  $("connect-code").textContent = `new WebSocket("${url}",\n  ["gatehouse.v1", "gatehouse.token.${MASKED}"])`;

  const unused = token?.state === "fresh" || token?.state === "expired"; // the node, not this page, refuses an expired one
  const focused = document.activeElement;
  $("connect").disabled = live !== null || !unused;
  $("connect").hidden = live !== null;
  $("disconnect").hidden = live === null;
  if (focused?.hidden) { // the one that took its place, if it can be used
    (live !== null ? $("disconnect") : $("connect").disabled ? $("get-token") : $("connect")).focus({ preventScroll: true });
  }
  $("send").disabled = live?.socket.readyState !== WebSocket.OPEN;
  $("get-token").classList.toggle("primary", live === null && !unused);
  $("again").hidden = token === null || unused;
  document.body.dataset.token = token?.state ?? "none";

  if (token !== null) {
    $("token-state").textContent = TOKEN_STATES[token.state];
    $("token-expiry").hidden = token.state !== "fresh";
    $("token-life").hidden = token.state !== "fresh";
    tick();
  }
  renderCommands(live?.token ?? token);
}

// renderCommands shows the command lines for the token of the open socket,
// else for the one just got.
function renderCommands(of) {
  const list = $("commands");
  const id = of?.id ?? "";
  if (list.dataset.token === id) {
    return;
  }
  list.dataset.token = id;
  $("revoke-lead").textContent = id === ""
    ? "Get a token first, and the command line to paste appears here."
    : "Paste it while the socket is open: it prints a receipt, node by node.";
  list.replaceChildren(...(of?.commands ?? []).map((command, i) => {
    const item = document.createElement("li");
    const title = document.createElement("span");
    title.className = "label";
    title.textContent = command.title;
    const line = document.createElement("code");
    line.id = `command-${i}`;
    line.append(...breakable(command.line));
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.id = `copy-command-${i}`;
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy the command: ${command.title}`);
    button.addEventListener("click", () => copy(button, command.line));
    const head = document.createElement("div");
    head.className = "command-head";
    head.append(title, button);
    item.append(head, line);
    return item;
  }));
}

// breakable lets a line break at its spaces but not within --token.
function breakable(line) {
  return line.split(" ").flatMap((word, i) => {
    const span = document.createElement("span");
    span.textContent = word;
    return i === 0 ? [span] : [" ", span];
  });
}

async function copy(button, text) {
  let words = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    words = "Not allowed";
  }
  button.textContent = words;
  announce(words);
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  getToken();
});
$("copy-token").addEventListener("click", () => copy($("copy-token"), token.text));
$("endpoint").addEventListener("change", render);
$("connect").addEventListener("click", connect);
$("disconnect").addEventListener("click", disconnect);
$("connect-again").addEventListener("click", connectAgain);
$("send").addEventListener("click", send);
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("send").disabled) {
    event.preventDefault();
    send();
  }
});
$("message").addEventListener("input", () => {
  $("message-hint").textContent = "";
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", () => sample(button.dataset.sample));
}
$("clear-log").addEventListener("click", () => $("log").replaceChildren());
$("banner-restart").addEventListener("click", () => {
  $("subject").scrollIntoView({ block: "center" });
  getToken();
});
$("banner-dismiss").addEventListener("click", () => {
  hideBanner();
  $("get-token").focus();
});

sample("chat");
render();
setInterval(tick, 250);
