package wsnode

import (
	"bytes"
	"strings"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// malformedTalks have one of each kind of request that is none, among them those that
// smuggle another past a proxy.
func malformedTalks() (all []talk) {
	const upgrade, connection, host = "Upgrade: websocket", "Connection: Upgrade", "Host: node.example"
	const line, key = "GET " + echoPath + " HTTP/1.1", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	for _, x := range []struct{ name, old, new string }{
		{"a method that is no token", "GET ", "G(T "}, {"a method in small letters", "GET ", "get "}, {"no method", "GET ", " "},
		{"two spaces before the target", "GET ", "GET  "}, {"two spaces before the version", " HTTP/1.1", "  HTTP/1.1"}, {"no version", " HTTP/1.1", ""},
		{"a version of two digits", "HTTP/1.1", "HTTP/1.10"}, {"HTTP/2", "HTTP/1.1", "HTTP/2.0"}, {"HTTP/2's preface", line + "\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{"an empty line first", line, "\r\n" + line}, {"the absolute form", echoPath, "http://node.example" + echoPath}, {"the asterisk form", echoPath, "*"},
		{"a fragment", echoPath, echoPath + "#x"}, {"a backslash", echoPath, "\\" + echoPath}, {"bytes above ASCII", echoPath, "/\xc3\xa4"}, {"a cut escape", echoPath, "/%2"},
		{"an escaped NUL", echoPath, "/%00"}, {"LF without CR", host + "\r\n", host + "\n"}, {"LF alone at the end", "\r\n\r\n", "\r\n\n"}, {"CR without LF", host, "X: y\rZ: z"},
		{"NUL in a value", host, host + "\x00"}, {"a space before the colon", "Upgrade: websocket", "Upgrade : websocket"}, {"a folded line", host, host + "\r\n x"},
		{"white space before the first field", host, " " + host}, {"a line without a colon", host, "Host"}, {"a field without a name", host, ": x"}, {"a name above ASCII", host, "H\xc3\xb6st: x"},
		{"Transfer-Encoding", host, host + "\r\nTransfer-Encoding: chunked"}, {"Transfer-Encoding in a folded line", host, host + "\r\n Transfer-Encoding: chunked"},
		{"Transfer-Encoding after LF", host, host + "\nTransfer-Encoding: chunked"}, {"Transfer-Encoding after a vertical tab", host, host + "\r\nTransfer-Encoding:\x0bchunked"},
		{"Content-Length and Transfer-Encoding", host, host + "\r\nContent-Length: 0\r\nTransfer-Encoding: chunked"}, {"Content-Length twice", host, host + "\r\nContent-Length: 0\r\nContent-Length: 0"},
		{"Content-Length with a sign", host, host + "\r\nContent-Length: +0"}, {"Content-Length as a list", host, host + "\r\nContent-Length: 0, 0"},
		{"no Host", host, "X: y"}, {"an empty Host", host, "Host:"}, {"a Host with a path", host, "Host: a/b"}, {"two keys", key, key + "\r\n" + key}, {"no key", key, "X: y"}, {"a key of 15 bytes", key, key[:39] + "A="},
		{"a key with spare bits", "jZQ==", "jZR=="}, {"two versions", "Version: 13", "Version: 13, 8"}, {"no version of WebSocket", "Sec-WebSocket-Version: 13", "X: y"}, {"a version with a leading zero", "Version: 13", "Version: 013"},
		{"no Upgrade", upgrade, "X: y"}, {"Upgrade to something else", upgrade, "Upgrade: h2c"}, {"no Connection", connection, "X: y"}, {"Connection without upgrade", connection, "Connection: keep-alive"},
		{"a subprotocol twice", host, host + "\r\nSec-WebSocket-Protocol: a, a"}, {"a subprotocol that is no token", host, host + "\r\nSec-WebSocket-Protocol: a b"}, {"an empty list of subprotocols", host, host + "\r\nSec-WebSocket-Protocol: ,"},
		{"two tokens", host, host + "\r\nSec-WebSocket-Protocol: app.v1, gatehouse.token.gh1_x"}, {"a target too long", echoPath, echoPath + "?" + strings.Repeat("x", 20_000)},
	} {
		all = append(all, talk{name: "a request with " + x.name, brief: true, steps: func(o wstest.Opening) []step {
			request := bytes.Replace(o.Bytes(), []byte(x.old), []byte(x.new), 1)
			if bytes.Equal(request, o.Bytes()) {
				panic(x.name + " is the request of everybody")
			}
			return []step{{request, 0}}
		}})
	}
	return all
}
