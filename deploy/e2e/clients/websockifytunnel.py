"""websockify's WebSocket as a ProxyCommand of ssh: websockifytunnel.py URL SUBPROTOCOL..."""
import os
import select
import sys

from websockify.websocket import WebSocket, WebSocketWantReadError


def say(text):
    print("tunnel: " + text, file=sys.stderr, flush=True)


class Client(WebSocket):
    """websockify's, but for the mask: that of 0.10.0 adds numbers to bytes."""

    def _sendmsg(self, opcode, msg):
        return self._send(self._encode_hybi(opcode, msg, os.urandom(4)))


ws = Client()
try:
    ws.connect(sys.argv[1], protocols=sys.argv[2:])
except Exception as e:
    say("refused " + str(e).removeprefix("WebSocket request denied: ")[:3])
    sys.exit(1)
say("open")
while True:
    ready = [ws] if ws.pending() else select.select([0, ws], [], [])[0]
    if 0 in ready:
        data = os.read(0, 65536)
        if not data:
            break
        ws.sendmsg(data)
    if ws in ready:
        try:
            data = ws.recvmsg()
        except WebSocketWantReadError:
            continue
        if data is None:
            say(f"closed {ws.close_code} {ws.close_reason}")
            break
        os.write(1, data)
