// What close codes mean, in words for the person in front of the page. The
// node's own tables are wsnode/closes.go and wsnode/refusals.go.

// Whether coming back makes sense. A token opens one socket, so whoever had one
// needs a new token; only a refusal that did not ask the authority spends none.
export const AGAIN = {
  never: "Must not be retried",
  mend: "Not before the client is mended",
  token: "May come back with a new token",
  later: "May come back after a pause, with a new token",
  same: "May try again after a pause",
  trust: "May try again once the certificate is trusted",
  done: "Nothing to come back for",
};

// The first row with the code and, where it names one, the reason is taken.
const CLOSES = [
  { code: 1000, again: "done", title: "Closed in order", words: "One side had finished and said so. Nothing is wrong." },
  { code: 1001, reason: "no sign of life", again: "token", title: "Closed for silence", words: "The node heard nothing from this page for too long, not even answers to its pings." },
  { code: 1001, again: "token", title: "The other side went away", words: "The server is going down, or the page was left." },
  { code: 1002, again: "mend", title: "WebSocket rules broken", words: "The client sent something that RFC 6455 does not allow. It would happen again." },
  { code: 1003, again: "mend", title: "Kind of data not accepted", words: "The client sent a kind of message that this endpoint does not take." },
  { code: 1005, again: "token", title: "Closed without a code", words: "The other side closed in order but did not say why." },
  { code: 1006, again: "later", title: "Connection lost", words: "The connection ended without a closing handshake: the network, or the process at the other end, broke off." },
  { code: 1007, reason: "text is not UTF-8", again: "mend", title: "Text was not UTF-8", words: "A text message must be UTF-8. The backend never saw this one." },
  { code: 1007, again: "mend", title: "Message was not valid JSON", words: "The node reads every message before the backend does. This one was not JSON, or JSON that two parsers may read differently." },
  { code: 1008, reason: "message not finished in time", again: "mend", title: "Message not finished in time", words: "A message was begun and not ended. Pings do not keep it alive." },
  { code: 1008, reason: "binary messages not allowed", again: "mend", title: "Binary message refused", words: "This route takes text messages only." },
  { code: 1008, again: "mend", title: "Message not allowed", words: "No schema of this route accepts the message, or the token’s scopes do not cover its type. The backend never saw it." },
  { code: 1009, again: "later", title: "Message too big", words: "The message was longer than the route allows. A shorter one will do." },
  { code: 1011, again: "later", title: "Something broke at the node", words: "It is not the client’s fault. The node’s log has the cause." },
  { code: 1012, again: "later", title: "The node restarts", words: "The node closes its sockets in order before it stops. A client comes back when there is a node again." },
  { code: 1013, reason: "unavailable", again: "same", title: "The node can’t take anyone now", words: "It is full, stopping, or can’t reach the authority." },
  { code: 1013, reason: "reading too slowly", again: "later", title: "Reading too slowly", words: "Messages piled up because this client did not read them, and the node bounds what it keeps for one socket." },
  { code: 1013, reason: "node has lost its authority", again: "later", title: "The node has lost its authority", words: "It could no longer learn of revocations, so it closed its sockets rather than trust them." },
  { code: 1013, again: "later", title: "Try again later", words: "The node has too much to do at the moment." },
  { code: 4008, again: "token", title: "The session’s time is over", words: "A socket lives as long as its token says, then its user must be checked again." },
  { code: 4029, reason: "too_many_requests", again: "same", title: "Too many connections", words: "This address, user or token has as many sockets, or opens them as fast, as it may." },
  { code: 4029, reason: "too many renewals", again: "later", title: "Too many renewals", words: "A socket may renew its token once in a few seconds, and one renewal at a time." },
  { code: 4029, again: "later", title: "Too many messages", words: "Messages came faster than this session may send them." },
  { code: 4401, reason: "token_missing", again: "token", title: "Refused: no token", words: "The handshake carried no token where the route takes one." },
  { code: 4401, reason: "token_repeated", again: "token", title: "Refused: more than one token", words: "A handshake carries exactly one token." },
  { code: 4401, again: "token", title: "Refused: this token opens no socket", words: "It was used before, has expired, was revoked, or was never issued. A client is not told which, so that nobody can sound out tokens; the node’s log says." },
  { code: 4500, again: "never", title: "Refused: handshake not understood", words: "The request asks for a route, method or protocol that is not here. It would happen again." },
  { code: 4501, again: "never", title: "The token was revoked", words: "Someone revoked this token or this session, and every node closed what it had open: at once, or at the end of the grace they had to renew. A client must not come back by itself: the user has to log in again." },
  { code: 4503, again: "never", title: "Locked out", words: "The user, tenant, address or issuer is locked. A new token would be refused too, until the lock is lifted." },
  { code: 4509, again: "never", title: "Opened elsewhere", words: "This user may have only so many sockets, and newer ones took this one's place. A client must not come back by itself, or two of them would close each other for ever." },
  { code: 4504, reason: "origin_not_allowed", again: "never", title: "Refused: this page may not connect", words: "The route does not allow the Origin this page comes from." },
  { code: 4504, again: "never", title: "Refused: not allowed here", words: "The token is for another audience, or the client asks for what this route does not do." },
];

const NEVER_OPENED = {
  again: "same",
  title: "The connection never opened",
  words: "When a handshake fails, a browser tells its page nothing but 1006. The routes of gatehouse dev refuse by a close code that can be read (refuse_by_close), so most likely nobody is listening there. The terminal of gatehouse dev knows.",
};

const NEVER_OPENED_TLS = {
  again: "trust",
  title: "The secure connection never opened",
  words: "When a handshake fails, a browser tells its page nothing but 1006. Most likely it does not trust the certificate, which is signed by gatehouse dev’s own CA. Trust that CA, or choose the endpoint without TLS.",
};

// explain gives title, words and again (a key of AGAIN) for the end of a
// connection to url that had opened or not.
export function explain(code, reason, url, opened) {
  if (code === 1006 && !opened) {
    return url.startsWith("wss:") ? NEVER_OPENED_TLS : NEVER_OPENED;
  }
  const row = CLOSES.find((r) => r.code === code && (r.reason === undefined || r.reason === reason));
  if (row) {
    return row;
  }
  if (code >= 4500 && code <= 4999) {
    return { again: "never", title: "Ended for good", words: "Codes from 4500 to 4999 say that the same must not be tried again." };
  }
  if (code >= 4000 && code <= 4499) {
    return { again: "later", title: "Ended for now", words: "Codes from 4000 to 4499 say that coming back is allowed." };
  }
  return { again: "later", title: "Closed", words: "This page has no words for the code; the reason, if any, is all that was said." };
}
