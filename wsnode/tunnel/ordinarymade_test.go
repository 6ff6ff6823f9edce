package tunnel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
)

type object = map[string]any

func (m *maker) chat() {
	room := m.one("general", "random", "ops", "房间", "support-"+m.hex(3))
	if m.chance(4) { // plain text, a line a message
		for range 2 + m.IntN(12) {
			m.text("%s%s", m.sentence(1+m.IntN(30)), m.one("", "", "\n", "\r\n"))
		}
		return
	}
	m.json(object{"type": "join", "room": room, "user": m.uuid()})
	for range 2 + m.IntN(12) {
		switch m.IntN(6) {
		case 0:
			m.json(object{"type": "typing", "room": room})
		case 1:
			m.json(object{"type": "reaction", "message": m.uuid(), "emoji": m.one("👍", "🎉", "❤️", "😀")})
		default:
			m.json(object{"type": "chat", "room": room, "id": m.next(), "text": m.sentence(1 + m.IntN(40)), "at": m.when()})
		}
	}
}

// quoted are what people paste where tunnels are talked about.
func (m *maker) quoted() string {
	host := m.one("example.com", "db.internal", "10.0.0.5", "mail.example.org")
	eol := m.one("\n", "\n", "\r\n")
	request := m.one("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS") + " /" + m.one("", "index.html", "api/v1/users?id=7") + " HTTP/1.1" + eol
	switch m.IntN(16) {
	case 0:
		return m.one("SSH-2.0-OpenSSH_9.6", "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", "SSH-2.0-Go", "SSH-2.0-dropbear_2022.83", "SSH-1.99-Cisco-1.25")
	case 1:
		return "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3ubuntu0.6\n" + m.sentence(8)
	case 2:
		return m.sentence(3) + " \"SSH-2.0-libssh_0.10.6\" " + m.sentence(4)
	case 3:
		return request + "Host: " + host + eol + "User-Agent: curl/8.5.0" + eol + "Accept: */*" + eol + eol
	case 4:
		return request
	case 5:
		return "CONNECT " + host + ":443 HTTP/1.1" + eol + m.sentence(3)
	case 6:
		return "HTTP/1.1 " + m.one("200 OK", "404 Not Found", "101 Switching Protocols") + eol + "Content-Type: text/plain" + eol + eol + m.sentence(5)
	case 7:
		return "220 " + host + " ESMTP Postfix" + m.one("", "\n250 ok", " (Debian/GNU)", " "+m.sentence(3))
	case 8:
		return "EHLO " + host + m.one("", "\nMAIL FROM:<a@"+host+">", " "+m.sentence(2))
	case 9:
		return "USER " + m.one("anonymous", "bob") + m.one("", "\nPASS guest", " "+m.sentence(4))
	case 10:
		return "RFB 003.008" + m.one("", "\n"+m.sentence(4), " "+m.sentence(4))
	case 11:
		return m.base64([]byte(m.one("SSH-2.0-OpenSSH_9.6", "SSH-2.0-x what is this", "GET / HTTP/1.1", "220 ftp ready", "RFB 003.008")))
	case 12: // the beginning of a hex dump
		return "16030100f8010000f40303" + m.hex(12) + m.one("...", "", " ?")
	case 13:
		return "0000   16 03 01 02 00 01 00 01 fc 03 03 " + m.hex(4) + "\n" + m.sentence(4)
	case 14:
		return "05 01 00 -> 05 00, " + m.sentence(6)
	}
	return "ssh -o ProxyCommand='nc -X connect -x proxy:3128 %h %p' " + host + "\n" + m.sentence(3)
}

func (m *maker) quotes() {
	plain := m.chance(5)
	if !plain {
		m.json(object{"type": "hello", "client": "web/4.2", "user": m.uuid()})
	}
	for range 3 + m.IntN(12) {
		text := m.sentence(1 + m.IntN(12))
		if !m.chance(3) {
			text = m.quoted()
		}
		if plain {
			m.text("%s", text)
			continue
		}
		m.json(object{"type": "chat", "id": m.next(), "text": text})
	}
}

var magics = []string{
	"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00\x00\x00\x01\x00\x08\x06\x00\x00\x00", "\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x01\x00H\x00H\x00\x00",
	"\xff\xd8\xff\xe1\x1c\x45Exif\x00\x00II*\x00", "GIF89a\x40\x00\x40\x00\xf7\x00\x00", "RIFF\x24\x5a\x00\x00WEBPVP8 ", "BM\x36\x10\x0e\x00\x00\x00\x00\x00\x36\x00\x00\x00",
	"\x00\x00\x01\x00\x01\x00\x10\x10\x00\x00\x01\x00\x20\x00", "\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1", "II*\x00\x08\x00\x00\x00", "<svg xmlns=\"http://www.w3.org/2000/svg\">",
}

func (m *maker) images() {
	for range 3 + m.IntN(8) {
		data := append([]byte(magics[m.IntN(len(magics))]), m.bytes(20+m.IntN(900))...)
		switch m.IntN(6) {
		case 0:
			m.binary(data)
		case 1:
			m.text("data:image/png;base64,%s", m.base64(data))
		case 2:
			m.text("%s", m.base64(data))
		case 3:
			m.json(object{"type": "image", "name": "photo.jpg", "data": "data:image/jpeg;base64," + m.base64(data)})
		default:
			m.json(object{"type": "avatar", "user": m.uuid(), "mime": "image/png", "data": m.base64(data), "thumb": m.base64(m.bytes(48))})
		}
	}
}

func (m *maker) orders() {
	rpc := func(method string, params any) {
		m.json(object{"jsonrpc": "2.0", "id": m.next(), "method": method, "params": params})
	}
	for range 4 + m.IntN(8) {
		switch m.IntN(6) {
		case 0:
			rpc("order.place", object{"symbol": m.one("BTC-USD", "AAPL", "EURUSD"), "side": m.one("buy", "sell"), "qty": m.IntN(1000), "price": fmt.Sprintf("%d.%02d", m.IntN(90000), m.IntN(100))})
		case 1:
			rpc("eth_sendRawTransaction", []string{"0x02f8" + m.hex(100)})
		case 2:
			rpc("eth_call", []any{object{"to": "0x" + m.hex(20), "data": "0x70a08231" + m.hex(32)}, "latest"})
		case 3:
			rpc(m.one("GET", "CONNECT", "subscribe", "auth"), object{"key": m.hex(16), "signature": m.base64(m.bytes(32)), "nonce": m.Uint32()})
		case 4:
			m.text("8=FIX.4.4\x019=112\x0135=D\x0149=CLIENT\x0156=BROKER\x0134=%d\x0152=20261129-10:00:00\x0155=EUR/USD\x0154=1\x0138=%d\x0110=%03d\x01", m.next(), m.IntN(1e6), m.IntN(256))
		default:
			items := []object{}
			for range 1 + m.IntN(6) {
				items = append(items, object{"sku": strings.ToUpper(m.hex(4)), "quantity": 1 + m.IntN(9), "price": m.IntN(10000)})
			}
			m.json(object{"type": "order", "id": m.uuid(), "items": items, "note": m.sentence(m.IntN(10) + 1), "currency": "EUR"})
		}
	}
}

func (m *maker) graphQL() {
	m.json(object{"type": "connection_init", "payload": object{"Authorization": "Bearer " + m.base64(m.bytes(24))}})
	for range 3 + m.IntN(8) {
		id := m.uuid()
		query := "subscription On" + m.one("Message", "Order", "Host") + "($id: ID!) {\n  " + m.one("message", "order", "host") + "(id: $id) {\n    id\n    text\n    author { name }\n  }\n}\n"
		if m.chance(3) {
			query = "mutation Send($text: String!) { send(text: $text) { id } }"
		}
		m.json(object{"id": id, "type": "subscribe", "payload": object{"operationName": nil, "query": query, "variables": object{"id": m.uuid(), "text": m.sentence(6)}, "extensions": object{"persistedQuery": object{"version": 1, "sha256Hash": m.hex(32)}}}})
		if m.chance(2) {
			m.json(object{"id": id, "type": "complete"})
		}
		if m.chance(4) {
			m.text(`{"type":"ping"}`)
		}
	}
}

func (m *maker) telemetry() {
	device := m.hex(6)
	for range 5 + m.IntN(10) {
		switch m.IntN(6) {
		case 0:
			m.text("$GPGGA,%06d.00,%04d.%04d,N,%05d.%04d,E,1,08,0.9,545.4,M,46.9,M,,*%02X\r\n", m.IntN(240000), m.IntN(9000), m.IntN(9999), m.IntN(18000), m.IntN(9999), m.IntN(256))
		case 1:
			m.text("cpu,host=%s usage=%d.%d %d\n", device, m.IntN(100), m.IntN(10), m.Uint64())
		case 2: // what a sensor packs: type, flags, readings
			m.binary([]byte{byte(m.IntN(8)), byte(m.IntN(4))}, m.bytes(1+m.IntN(20)))
		case 3:
			b := binary.BigEndian.AppendUint16([]byte{byte(m.IntN(6)), 0}, uint16(m.IntN(600)))
			for range 1 + m.IntN(40) {
				b = binary.BigEndian.AppendUint32(b, math.Float32bits(m.Float32()*100))
			}
			m.binary(b)
		default:
			m.json(object{"resource": object{"host.name": device, "service.name": m.one("ssh-gateway", "http-proxy", "cart")}, "metrics": []object{{"name": "http.server.duration", "value": m.Float64(), "unit": "s"}, {"name": "temperature", "value": m.Float64()*40 - 10}}, "time": m.when(), "traceId": m.hex(16), "spanId": m.hex(8)})
		}
	}
}

// snippets are lines of programs that speak the protocols of tunnels.
var snippets = []string{
	"fmt.Fprintf(conn, \"GET / HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n\", host)", "sock.send(b'SSH-2.0-OpenSSH_9.6\\r\\n')", "const hello = Buffer.from('16030100f8010000f4', 'hex')",
	"s.sendall(b\"\\x05\\x01\\x00\")", "if !strings.HasPrefix(line, \"SSH-2.0-\") {", "w.Write([]byte(\"RFB 003.008\\n\"))", "CONNECT = 'CONNECT %s:%d HTTP/1.1\\r\\n\\r\\n'",
	"EHLO_RE = re.compile(rb'^EHLO (\\S+)\\r\\n')", "return new Response('GET', { status: 405 })", "assert banner == '220 mail.example.com ESMTP'", "SELECT host, port FROM tunnels WHERE kind = 'ssh';",
	"func main() {", "\tif err != nil {", "\t\treturn err", "}", "", "// USER and PASS, see RFC 959", "let b64 = \"U1NILTIuMC1PcGVuU1NIXzkuNg==\";", "printf '\\x04\\x01\\x00\\x16' | nc proxy 1080",
}

// httpFile is what the HTTP clients of editors keep.
func (m *maker) httpFile() string {
	eol := m.one("\n", "\n", "\r\n")
	return m.one("", "### Users"+eol) + m.one("GET", "POST") + " https://api.example.com/users HTTP/1.1" + eol + "Authorization: Bearer {{token}}" + eol + "Content-Type: application/json" + eol + eol + `{"name":"x"}` + eol
}

func (m *maker) snippet() string {
	if m.chance(6) {
		return m.httpFile()
	}
	lines := make([]string, 1+m.IntN(12))
	for i := range lines {
		lines[i] = snippets[m.IntN(len(snippets))]
	}
	return strings.Join(lines, m.one("\n", "\n", "\r\n"))
}

func (m *maker) code() {
	plain := m.chance(5)
	for range 4 + m.IntN(8) {
		switch {
		case plain:
			m.text("%s", m.snippet())
		case m.chance(3): // a language server's client
			m.json(object{"jsonrpc": "2.0", "method": "textDocument/didChange", "params": object{"textDocument": object{"uri": "file:///src/conn.go", "version": m.next()}, "contentChanges": []object{{"text": m.snippet()}}}})
		case m.chance(3):
			m.json(object{"header": object{"msg_id": m.uuid(), "msg_type": "execute_request", "username": "", "version": "5.3"}, "parent_header": object{}, "metadata": object{}, "content": object{"code": m.snippet(), "silent": false}, "channel": "shell"})
		default:
			m.json(object{"type": "snippet", "language": m.one("go", "python", "http"), "body": m.snippet()})
		}
	}
}

func (m *maker) editing() {
	if m.chance(3) { // y-websocket: sync steps and awareness
		m.binary([]byte{0, 0}, varint(uint64(1)), []byte{0})
		for range 4 + m.IntN(8) {
			text := m.one("S", "H", "e", m.sentence(3), m.snippet())
			update := append(varint(1), varint(1)...)
			update = append(append(update, varint(m.Uint64()>>12)...), varint(uint64(m.IntN(500)))...)
			update = append(append(append(update, 4, 1, 4), "text"...), varint(uint64(len(text)))...)
			update = append(append(update, text...), 0)
			if m.chance(3) {
				state := fmt.Sprintf(`{"user":{"name":"%s","color":"#%s"}}`, m.one("Ada", "Bob"), m.hex(3))
				m.binary([]byte{1}, varint(uint64(len(state)+8)), []byte{1}, varint(m.Uint64()>>30), []byte{1}, varint(uint64(len(state))), []byte(state))
				continue
			}
			m.binary([]byte{0, 2}, varint(uint64(len(update))), update)
		}
		return
	}
	m.json(object{"a": "hs", "id": m.uuid()})
	for range 5 + m.IntN(10) {
		insert := m.one("S", "\r\n", "\n", m.sentence(2), m.snippet(), m.quoted())
		if m.chance(2) {
			m.json(object{"a": "op", "c": "docs", "d": "d1", "v": m.next(), "op": []any{m.IntN(4000), object{"i": insert}}})
			continue
		}
		m.json(object{"type": "steps", "version": m.next(), "steps": []object{{"stepType": "replace", "from": m.IntN(900), "to": m.IntN(900), "slice": object{"content": []object{{"type": "text", "text": insert}}}}}})
	}
}

func varint(v uint64) []byte { return binary.AppendUvarint(nil, v) }

func (m *maker) game() {
	switch m.IntN(4) {
	case 0:
		for range 6 + m.IntN(12) {
			m.json(object{"t": m.one("move", "shoot", "pos", "ping"), "x": m.Float64() * 1000, "y": m.Float64() * 1000, "seq": m.next(), "keys": m.IntN(16)})
		}
	case 1: // an opcode, then what it takes
		for range 6 + m.IntN(20) {
			op := byte(m.IntN(8))
			m.binary([]byte{op}, m.bytes([]int{1, 2, 8, 8, 4, 2, 0, 12}[op]))
		}
	case 2: // small integers: opcode, flags, position, end
		for range 6 + m.IntN(20) {
			m.binary([]byte{byte(m.IntN(6)), byte(m.IntN(3)), 0, byte(m.IntN(200)), byte(m.IntN(256)), byte(m.IntN(4)), 0, byte(m.IntN(16)), 0})
		}
	default: // inputs of three bytes
		for range 8 + m.IntN(20) {
			m.binary([]byte{byte(m.IntN(8)), byte(m.IntN(3)), byte(m.IntN(3))})
		}
	}
}

func (m *maker) logLine() string {
	ip := fmt.Sprintf("203.0.113.%d", m.IntN(256))
	switch m.IntN(9) {
	case 0:
		return fmt.Sprintf(`%s - - [29/Nov/2026:10:%02d:%02d +0000] "GET /%s HTTP/1.1" 200 %d "-" "curl/8.5.0"`, ip, m.IntN(60), m.IntN(60), m.hex(3), m.IntN(9999))
	case 1:
		return fmt.Sprintf("Nov 29 10:%02d:11 web sshd[%d]: Bad protocol version identification 'GET / HTTP/1.1' from %s port %d", m.IntN(60), m.IntN(30000), ip, m.IntN(60000))
	case 2:
		return fmt.Sprintf("debug1: Remote protocol version 2.0, remote software version OpenSSH_9.6 [%s]", ip)
	case 3:
		return fmt.Sprintf("Nov 29 10:%02d:11 mx postfix/smtpd[%d]: > %s: 220 mx.example.com ESMTP Postfix", m.IntN(60), m.IntN(30000), ip)
	case 4:
		return fmt.Sprintf("GET /health HTTP/1.1 200 %dms", m.IntN(50)) // a framework's access log
	case 5:
		return fmt.Sprintf("CONNECT example.com:443 - HIER_DIRECT/%s", ip)
	case 6:
		return "220 connections, 3 idle"
	case 7:
		return fmt.Sprintf("level=info ts=%s caller=conn.go:%d msg=\"%s\"", m.when(), m.IntN(999), m.sentence(5))
	}
	return fmt.Sprintf("SSH-2.0-Go from %s, no matching host key type found", ip)
}

func (m *maker) logs() {
	for range 6 + m.IntN(10) {
		switch m.IntN(3) {
		case 0:
			m.text("%s%s", m.logLine(), m.one("", "\n", "\r\n"))
		case 1:
			m.json(object{"time": m.when(), "level": m.one("INFO", "WARN"), "msg": m.logLine(), "source": object{"file": "conn.go", "line": m.IntN(900)}})
		default:
			m.json(object{"streams": []object{{"stream": object{"job": "sshd"}, "values": [][]string{{fmt.Sprint(m.Uint64()), m.logLine()}, {fmt.Sprint(m.Uint64()), m.logLine()}}}}})
		}
	}
}

func (m *maker) signalling() {
	sdp := fmt.Sprintf("v=0\r\no=- %d 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:%s\r\na=ice-pwd:%s\r\na=fingerprint:sha-256 %s\r\na=setup:actpass\r\na=mid:0\r\n",
		m.Uint64(), m.hex(2), m.base64(m.bytes(18)), strings.ToUpper(m.hex(32)))
	m.json(object{"type": "offer", "sdp": sdp})
	for range 4 + m.IntN(8) {
		switch m.IntN(4) {
		case 0:
			m.json(object{"type": "answer", "sdp": sdp})
		case 1:
			m.json(object{"janus": "message", "transaction": m.hex(6), "session_id": m.Uint64() >> 12, "body": object{"request": "configure", "audio": true}, "jsep": object{"type": "offer", "sdp": sdp}})
		default:
			m.json(object{"type": "candidate", "candidate": fmt.Sprintf("candidate:%d 1 %s 2122260223 192.168.1.%d %d typ host generation 0 ufrag %s", m.Uint32(), m.one("udp", "tcp"), m.IntN(255), m.IntN(60000), m.hex(2)), "sdpMid": "0", "sdpMLineIndex": 0})
		}
	}
}

// field appends a length-delimited field of protobuf.
func field(b []byte, number int, value []byte) []byte {
	b = append(b, varint(uint64(number)<<3|2)...)
	return append(append(b, varint(uint64(len(value)))...), value...)
}

func (m *maker) proto(depth int) []byte {
	var b []byte
	for range 1 + m.IntN(5) {
		number := 1 + m.IntN(12)
		switch m.IntN(5) {
		case 0:
			b = append(append(b, varint(uint64(number)<<3)...), varint(m.Uint64()>>m.IntN(64))...)
		case 1:
			b = append(append(b, varint(uint64(number)<<3|5)...), m.bytes(4)...)
		case 2:
			b = append(append(b, varint(uint64(number)<<3|1)...), m.bytes(8)...)
		case 3:
			b = field(b, number, []byte(m.one(m.sentence(4), m.uuid(), m.quoted())))
		default:
			if depth > 0 {
				b = field(b, number, m.proto(depth-1))
			}
		}
	}
	return b
}

func (m *maker) protobuf() {
	framed := m.chance(3) // as gRPC-Web has it: flags, length, message
	for range 5 + m.IntN(10) {
		b := m.proto(2)
		if framed {
			m.binary([]byte{0}, binary.BigEndian.AppendUint32(nil, uint32(len(b))), b)
			continue
		}
		m.binary(b)
	}
}

// pack appends what a value is in MessagePack.
func (m *maker) pack(b []byte, depth int) []byte {
	switch m.IntN(7) {
	case 0:
		return append(b, byte(m.IntN(128)))
	case 1:
		s := m.one(m.quoted(), m.sentence(5))
		return append(binary.BigEndian.AppendUint16(append(b, 0xda), uint16(len(s))), s...)
	case 2:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(m.Float64()))
	case 3:
		n := m.IntN(60)
		return append(append(b, 0xc4, byte(n)), m.bytes(n)...)
	case 4, 5:
		if depth == 0 {
			return append(b, 0xc0)
		}
		n := m.IntN(5)
		b = append(b, 0x90|byte(n))
		for range n {
			b = m.pack(b, depth-1)
		}
		return b
	}
	return append(append(b, 0xa4), "host"...)
}

func (m *maker) packed() {
	cbor := m.chance(3)
	for range 5 + m.IntN(10) {
		if cbor {
			s := m.quoted()
			b := append([]byte{0xa2, 0x62, 'i', 'd', 0x19}, m.bytes(2)...)
			b = append(b, 0x64, 't', 'e', 'x', 't', 0x79, byte(len(s)>>8), byte(len(s)))
			m.binary(append(b, s...))
			continue
		}
		if m.chance(3) { // values one after another, the first of them small
			m.binary(m.pack(m.pack([]byte{byte(m.IntN(8)), byte(m.IntN(4))}, 2), 2))
			continue
		}
		b := []byte{0x83, 0xa4, 't', 'y', 'p', 'e', byte(m.IntN(20)), 0xa2, 'i', 'd', 0xcd, byte(m.IntN(256)), byte(m.IntN(256)), 0xa4, 'd', 'a', 't', 'a'}
		m.binary(m.pack(b, 3))
	}
}

func (m *maker) media() {
	kind := m.IntN(5)
	for i := range 8 + m.IntN(20) {
		data := m.bytes(20 + m.IntN(140))
		switch kind {
		case 0: // Opus, as it is
			m.binary([]byte{byte(m.one("\x78", "\xf8", "\xfc")[0])}, data)
		case 1: // little-endian samples
			m.binary(bytes.Repeat([]byte{byte(m.IntN(3)), 0, byte(m.IntN(6)), 0}, 20), data)
		case 2: // WebM
			if i == 0 {
				m.binary([]byte{0x1a, 0x45, 0xdf, 0xa3, 0x9f, 0x42, 0x86, 0x81, 1}, data)
				continue
			}
			m.binary([]byte{0xa3, 0x40, byte(len(data)), 0x81}, data)
		case 3: // a length and H.264
			m.binary(binary.BigEndian.AppendUint32(nil, uint32(len(data))), []byte{byte(m.one("\x65", "\x41", "\x67", "\x06")[0])}, data)
		default: // RTP
			m.binary([]byte{0x80, 0x6f}, binary.BigEndian.AppendUint16(nil, uint16(i)), data)
		}
	}
}

func (m *maker) uploads() {
	name := m.one("request.http", "auth.log", "capture.pcap", "report.pdf", "backup.zip", "notes.txt", "dump.hex", "id.pem")
	var head []byte
	switch name {
	case "request.http":
		head = []byte(m.httpFile())
	case "auth.log":
		head = []byte(m.logLine() + "\n" + m.logLine() + "\n")
	case "capture.pcap": // whose first packet begins a TLS connection
		head = append([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x01\x00\x00\x00"), append(m.bytes(70), 0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3)...)
	case "report.pdf":
		head = []byte("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
	case "backup.zip":
		head = []byte("PK\x03\x04\x14\x00\x08\x00\x08\x00")
	case "notes.txt":
		head = []byte(m.quoted() + "\n" + m.sentence(20))
	case "dump.hex":
		head = []byte(hex.EncodeToString([]byte(m.quoted())) + "\n")
	case "id.pem":
		head = []byte("-----BEGIN CERTIFICATE-----\n" + m.base64(m.bytes(48)) + "\n")
	}
	inText := m.chance(2)
	m.json(object{"type": "upload", "name": name, "size": m.IntN(1e6), "sha256": m.hex(32)})
	for i := range 3 + m.IntN(6) {
		chunk := m.bytes(100 + m.IntN(400))
		if i == 0 {
			chunk = append(head, chunk...)
		}
		if inText {
			m.json(object{"type": "chunk", "index": i, "data": m.base64(chunk)})
		} else {
			m.binary(chunk)
		}
	}
	m.json(object{"type": "done", "name": name})
}

func (m *maker) protocols() {
	id := m.hex(4)
	switch m.IntN(9) {
	case 0: // MQTT
		m.binary([]byte{0x10, 0x14, 0, 4}, []byte("MQTT"), []byte{4, 2, 0, 60, 0, 8}, []byte(id))
		for range 5 {
			m.binary([]byte{0x30, 12, 0, 4}, []byte("a/b/"), m.bytes(6))
			m.binary([]byte{0xc0, 0})
		}
	case 1: // STOMP
		m.text("CONNECT\naccept-version:1.2\nhost:example.com\nlogin:guest\npasscode:guest\nheart-beat:10000,10000\n\n\x00")
		for range 5 {
			m.text("SEND\ndestination:/queue/a\ncontent-type:text/plain\n\n%s\x00", m.one(m.sentence(6), m.quoted()))
			m.text("\n")
		}
	case 2: // SIP (RFC 7118)
		for range 3 {
			m.text("%s sip:%s@example.com SIP/2.0\r\nVia: SIP/2.0/WS df7jal23ls0d.invalid;branch=z9hG4bK%s\r\nFrom: <sip:a@example.com>;tag=1\r\nCall-ID: %s\r\nCSeq: %d INVITE\r\nContent-Length: 0\r\n\r\n", m.one("REGISTER", "INVITE", "OPTIONS", "BYE"), id, id, m.uuid(), m.next())
			m.text("\r\n\r\n")
		}
	case 3: // socket.io
		m.text("40{\"token\":\"%s\"}", id)
		for range 6 {
			m.text("42%d[\"message\",{\"text\":%q}]", m.next(), m.sentence(5))
			m.text("3")
		}
	case 4: // WAMP
		m.text(`[1,"realm1",{"roles":{"caller":{}}}]`)
		for range 5 {
			m.text(`[48,%d,{},"com.example.get",["%s"]]`, m.next(), m.sentence(3))
		}
	case 5: // IRC
		for _, line := range []string{"CAP LS 302", "NICK " + id, "USER guest 0 * :Guest", "JOIN #ssh"} {
			m.text("%s%s", line, m.one("", "\r\n"))
		}
		for range 4 {
			m.text("PRIVMSG #ssh :%s", m.one(m.sentence(6), "SSH-2.0-OpenSSH_9.6"))
		}
	case 6: // a speech service: fields, then a body
		m.text("Path: speech.config\r\nX-RequestId: %s\r\nX-Timestamp: %s\r\nContent-Type: application/json\r\n\r\n{\"context\":{}}", m.hex(16), m.when())
		for range 4 {
			head := "Path: audio\r\nX-RequestId: " + m.hex(16) + "\r\n"
			m.binary(binary.BigEndian.AppendUint16(nil, uint16(len(head))), []byte(head), m.bytes(200))
		}
	case 7: // XMPP (RFC 7395)
		m.text(`<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="example.com" version="1.0"/>`)
		m.text(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">%s</auth>`, m.base64([]byte("\x00user\x00pass")))
		for range 4 {
			m.text(`<message xmlns="jabber:client" to="b@example.com"><body>%s</body></message>`, m.sentence(6))
		}
	default: // AMQP, then CoAP (RFC 8323)
		m.binary([]byte("AMQP\x00\x01\x00\x00"))
		m.binary([]byte{0, 0, 0, 0x20, 2, 0, 0, 0}, m.bytes(24))
		for range 3 {
			m.binary([]byte{0x01, 0x01, 0x7d, 0xb4}, []byte("temp"))
		}
	}
}
