package tunnel

import (
	"encoding/hex"
	"strings"
)

// by hand: each line of text is a message, and each of hex a binary one, of one
// socket.
var byHand = []struct{ kind, text, hex string }{
	{kind: "chat of two administrators", text: `{"type":"chat","text":"what does this mean? SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3"}
{"type":"chat","text":"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3"}
{"type":"chat","text":"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\nthat's the banner of the server, it comes first"}
{"type":"chat","text":"and then?"}
{"type":"chat","text":"both send KEXINIT: \u0000\u0000\u0005\u0000 and so on"}
{"type":"chat","text":"I see GET / HTTP/1.1\r\nHost: 203.0.113.7\r\n\r\n in there too, somebody scans us"}`},
	{kind: "chat, plain, that begins with a banner", text: `SSH-2.0-OpenSSH_9.6
is that the new one?
SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13.5
RFB 003.008
220 ftp.example.com FTP server ready
EHLO example.com
CONNECT example.com:443 HTTP/1.1`},
	{kind: "support ticket with an HTTP request", text: `{"type":"ticket","subject":"502 from the proxy","body":"GET /api/v2/orders?limit=50 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: application/json\r\n\r\n"}
{"type":"comment","body":"HTTP/1.1 502 Bad Gateway\r\nServer: nginx\r\n\r\n"}
{"type":"comment","body":"after the fix:\r\nGET /api/v2/orders HTTP/1.1\r\nHost: shop.example.com\r\n\r\nworks"}`},
	{kind: "JSON that carries JSON", text: `{"event":"message","data":"{\"type\":\"chat\",\"text\":\"SSH-2.0-OpenSSH_9.6\\r\\n\"}"}
{"event":"message","data":"{\"type\":\"chat\",\"text\":\"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n\"}"}
["SSH","RFB","GET","CONNECT","EHLO","USER"]
{"SSH-2.0-":true,"U1NI":1,"160301":2,"":""}`},
	{kind: "a capture the flag team", text: `{"type":"chat","text":"U1NILTIuMC1PcGVuU1NIXzkuMg== decodes to the banner"}
{"type":"chat","text":"U1NILTIuMC1PcGVuU1NIXzkuMg=="}
{"type":"chat","text":"5353482d322e302d4f70656e5353485f392e32"}
{"type":"chat","text":"16 03 01 is TLS, 05 01 00 is SOCKS, 03 00 00 2c is RDP"}`},
	{kind: "Discord's gateway", text: `{"op":2,"d":{"token":"MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs","properties":{"os":"linux","browser":"x","device":"x"},"intents":7}}
{"op":1,"d":251}
{"op":4,"d":{"guild_id":"41771983423143937","channel_id":"127121515262115840","self_mute":false,"self_deaf":false}}`},
	{kind: "Phoenix channels", text: `["1","1","room:lobby","phx_join",{}]
["1","2","room:lobby","new_msg",{"body":"GET it done"}]
[null,"3","phoenix","heartbeat",{}]`},
	{kind: "Jupyter", text: `{"header":{"msg_id":"a1","msg_type":"execute_request"},"content":{"code":"import socket\ns = socket.create_connection(('example.com', 80))\ns.sendall(b'GET / HTTP/1.1\\r\\nHost: example.com\\r\\n\\r\\n')"},"channel":"shell"}
{"header":{"msg_id":"a2","msg_type":"execute_request"},"content":{"code":"GET = 1"},"channel":"shell"}`},
	{kind: "Chrome's DevTools protocol", text: `{"id":1,"method":"Network.enable","params":{}}
{"id":2,"method":"Fetch.continueRequest","params":{"requestId":"interception-job-1.0","method":"GET","headers":[{"name":"Host","value":"example.com"}]}}
{"id":3,"method":"Runtime.evaluate","params":{"expression":"atob('U1NILTIuMC0=')"}}`},
	{kind: "a game of three bytes", hex: `050100 050101 050102 000000 040100 030000
050100 020100`},
	{kind: "a game of nine bytes", hex: `040100160a00000500 040100170a00000501 0401001b0b00000500 040100500a00000500`},
	{kind: "a drawing", hex: `0500 050100 0501000100640064 0301ff00 160301 16030100`},
	{kind: "length and type", hex: `0000000c0a1400000000000000000000 000000141401aabbccddeeff0011223344556677 0000000406140000`},
	{kind: "a buffer of samples", hex: `00000000000000000000140000001500 0300000c00e00000000100000000 1603010200010001fc`},
	{kind: "protobuf whose first field is a banner", hex: `0a155353482d322e302d4f70656e5353485f392e360d0a 0a12474554202f20485454502f312e310d0a0d0a00`},
}

func handmade() []conversation {
	var all []conversation
	for _, h := range byHand {
		c := conversation{kind: h.kind}
		for line := range strings.Lines(h.text) {
			c.messages = append(c.messages, message{payload: []byte(strings.TrimSuffix(line, "\n"))})
		}
		for word := range strings.FieldsSeq(h.hex) {
			b, err := hex.DecodeString(word)
			if err != nil {
				panic(err)
			}
			c.messages = append(c.messages, message{binary: true, payload: b})
		}
		all = append(all, c)
	}
	return all
}
