"""Speaks to a node with the websockets package, as client.mjs does."""
import asyncio
import json
import ssl
import sys

import websockets

o = json.load(sys.stdin)


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def pieces(text):
    n = o.get("fragments", 1)
    if n == 1:
        return text
    return [text[i * len(text) // n:(i + 1) * len(text) // n] for i in range(n)]


async def main():
    tls = ssl.create_default_context(cafile=o["ca"]) if "ca" in o else None
    try:
        ws = await websockets.connect(
            o["url"], ssl=tls, subprotocols=o.get("protocols") or None,
            extra_headers=o.get("headers"), origin=o.get("origin"), open_timeout=10)
    except websockets.InvalidStatusCode as e:
        say("refused", status=e.status_code, headers={k.lower(): v for k, v in e.headers.items()})
        return
    say("open", protocol=ws.subprotocol or "", extensions=ws.response_headers.get("Sec-WebSocket-Extensions", ""))
    try:
        for m in o.get("send", []):
            await ws.send(pieces(m))
            data = await ws.recv()
            say("message", data=data if isinstance(data, str) else data.decode(), binary=not isinstance(data, str))
        if "ping" in o:
            await (await ws.ping(o["ping"]))
            say("pong", data=o["ping"])  # it takes no other
        if o.get("last"):
            await ws.recv()
        await ws.close(1000, "done")
    except websockets.ConnectionClosed:
        pass
    await ws.wait_closed()
    say("close", code=ws.close_code, reason=ws.close_reason or "")


asyncio.run(asyncio.wait_for(main(), 20))
