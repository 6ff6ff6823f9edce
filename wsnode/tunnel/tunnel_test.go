package tunnel

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// No ordinary message is found: alone, as the first one of a socket; in its
// conversation; in a socket that has many of its kind; and among all others.
func TestOrdinaryTrafficIsNotFound(t *testing.T) {
	var all []message
	perKind := map[string]*Socket{}
	check := func(s *Socket, kind, where string, m message) {
		if f, ok := s.Look(m.binary, m.payload); ok {
			t.Errorf("%s, %s: found %v, %v in %.200q", kind, where, f.Signature, f.Carriage, m.payload)
			*s = Socket{}
		}
	}
	for _, c := range ordinary() {
		if perKind[c.kind] == nil {
			perKind[c.kind] = &Socket{}
		}
		own := &Socket{}
		for _, m := range c.messages {
			check(&Socket{}, c.kind, "alone", m)
			check(own, c.kind, "in its conversation", m)
			check(perKind[c.kind], c.kind, "in a long conversation", m)
		}
		all = append(all, c.messages...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for socket := range slices.Chunk(all, 10) {
			s := &Socket{}
			for _, m := range socket {
				check(s, "all kinds", "in any order", m)
			}
		}
	}
}

func unhex(text string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// What clients begin with, message by message.
var (
	kexInitPacket = unhex("000000bc 08 14 000102030405060708090a0b0c0d0e0f 0000002e") + "curve25519-sha256,curve25519-sha256@libssh.org" + unhex("0000000b") + "ssh-ed25519" + strings.Repeat("\x00\x00\x00\x0aaes128-ctr", 6) + strings.Repeat("\x00", 21+8)
	helloRecord   = unhex("16 0301 00a5 01 0000a1 0303 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 20 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 0004 1301 1302 01 00 0054") + strings.Repeat("\x00", 84)
	connectRDP    = unhex("0300 002c 27 e0 0000 0000 00") + "Cookie: mstshash=user\r\n" + unhex("01 00 0800 03000000") + "\x00\x00"
)

var tunnels = []struct {
	name string
	want Signature
	sent []string
}{
	{"an SSH client", SSH, []string{"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", kexInitPacket}},
	{"an SSH client of Windows", SSH, []string{"SSH-2.0-PuTTY_Release_0.81\r\n", kexInitPacket}},
	{"an SSH client that does not wait", SSH, []string{"SSH-2.0-Go\r\n" + kexInitPacket, kexInitPacket}},
	{"an SSH server of old", SSH, []string{"SSH-1.99-Cisco-1.25\r\n", kexInitPacket}},
	{"chisel, whatever it calls itself", SSH, []string{"SSH-chisel-v3-client\r\n", kexInitPacket}},
	{"SSH, from its first packet on", SSH, []string{kexInitPacket, kexInitPacket}},
	{"TLS", TLS, []string{helloRecord, unhex("140303000101 1703030020") + strings.Repeat("x", 32)}},
	{"HTTP", HTTP, []string{"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n", "GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n", "POST /b HTTP/1.1\r\nAccept: */*\r\nhost: example.com\r\nContent-Length: 1\r\n\r\nx", "HEAD /b HTTP/1.0\r\nHost: example.com\r\n\r\n"}},
	{"HTTP/2", HTTP, []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00"}},
	{"a proxy", Proxy, []string{"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nProxy-Connection: Keep-Alive\r\n\r\n", "CONNECT example.com:22 HTTP/1.0\r\n\r\n", "CONNECT [::1]:22 HTTP/1.0\r\n\r\n"}},
	{"SOCKS4, then SSH", SSH, []string{unhex("0401 0016 7f000001") + "bob\x00", "SSH-2.0-OpenSSH_9.2\r\n", kexInitPacket}},
	{"SOCKS4a", SOCKS4, []string{unhex("0401 01bb 00000001") + "\x00example.com\x00", unhex("0401 01bb 00000001") + "\x00example.org\x00", unhex("0401 01bb 00000001") + "\x00example.org\x00"}},
	{"SOCKS5", SOCKS5, []string{unhex("050100"), unhex("05010003 0b") + "example.com" + unhex("01bb")}},
	{"SOCKS5, of several methods and to an address", SOCKS5, []string{unhex("0503000102"), unhex("05010001 7f000001 0016")}},
	{"VNC", RFB, []string{"RFB 003.008\n", "\x01", "\x01"}},
	{"RDP", RDP, []string{connectRDP, unhex("0300 0007 02f0 80")}},
	{"a mail client", SMTP, []string{"EHLO mail.example.com\r\n", "MAIL FROM:<a@example.com>\r\n"}},
	{"a mail client of old", SMTP, []string{"HELO mail.example.com\r\n", "MAIL FROM:<a@example.com>\r\n"}},
	{"a mail server", SMTP, []string{"220 mx.example.com ESMTP Postfix (Debian/GNU)\r\n", "250-mx.example.com\r\n250 SIZE\r\n"}},
	{"an FTP client", FTP, []string{"USER anonymous\r\n", "PASS guest@\r\n"}},
	{"an FTP server", FTP, []string{"220-Welcome\r\n220 (vsFTPd 3.0.3)\r\n", "331 Please specify the password.\r\n"}},
}

// ways are how messages carry bytes.
var ways = []struct {
	carriage Carriage
	binary   bool
	wrap     func(b []byte) []byte
}{
	{Raw, true, func(b []byte) []byte { return b }},
	{Raw, false, func(b []byte) []byte {
		var runes []rune
		for _, c := range b {
			runes = append(runes, rune(c))
		}
		return []byte(string(runes))
	}},
	{Base64, false, func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }},
	{Base64, false, func(b []byte) []byte { return []byte(base64.RawURLEncoding.EncodeToString(b)) }},
	{Base64, true, func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b) + "\n") }},
	{Hex, false, func(b []byte) []byte { return []byte(hex.EncodeToString(b)) }},
	{Hex, false, func(b []byte) []byte { return []byte(strings.ToUpper(hex.EncodeToString(b))) }},
	{String, false, func(b []byte) []byte { return fmt.Appendf(nil, `{"type":"data","id":7,"data":%s}`, characters(b)) }},
	{StringBase64, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `{"type":"data","id":7,"data":"%s"}`, base64.StdEncoding.EncodeToString(b))
	}},
	{StringBase64, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `["data:application/octet-stream;base64,%s"]`, base64.StdEncoding.EncodeToString(b))
	}},
	{StringBase64, true, func(b []byte) []byte {
		return fmt.Appendf(nil, `{ "data" : "%s" }`, base64.URLEncoding.EncodeToString(b))
	}},
	{StringHex, false, func(b []byte) []byte { return fmt.Appendf(nil, `42["data","%x"]`, b) }},
	{StringHex, false, func(b []byte) []byte { return fmt.Appendf(nil, `42/ns,["data","%x"]`, b) }},
	{StringHex, false, func(b []byte) []byte { return fmt.Appendf(nil, `42/ns?room=1,17["data","%x"]`, b) }},
	{StringHex, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `451-/ns,["%x",{"_placeholder":true,"num":0}]`, b)
	}},
	{StringHex, false, func(b []byte) []byte { return fmt.Appendf(nil, `451-["%x",{"_placeholder":true,"num":0}]`, b) }},
	// As json_encode of PHP writes slashes.
	{StringBase64, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `{"data":"%s"}`, strings.ReplaceAll(base64.StdEncoding.EncodeToString(b), "/", `\/`))
	}},
	{StringBase64, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `{"data":"data:application\/octet-stream;base64,%s"}`, strings.ReplaceAll(base64.StdEncoding.EncodeToString(b), "/", `\/`))
	}},
	// As base64 of coreutils, Python, Ruby and Android, and xxd, break lines.
	{Base64, false, func(b []byte) []byte { return lines(base64.StdEncoding.EncodeToString(b), 76, "\r\n") }},
	{Hex, false, func(b []byte) []byte { return lines(hex.EncodeToString(b), 60, "\n") }},
	{StringBase64, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `{"data":%s}`, characters(lines(base64.StdEncoding.EncodeToString(b), 76, "\n")))
	}},
	{StringBase64, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `{"data":%s}`, characters(lines(base64.StdEncoding.EncodeToString(b), 64, "\r\n")))
	}},
	{StringHex, false, func(b []byte) []byte {
		return fmt.Appendf(nil, `{"data":%s}`, characters(lines(hex.EncodeToString(b), 60, "\n")))
	}},
}

// lines breaks a text into lines of so many characters, each ended.
func lines(text string, of int, end string) (b []byte) {
	for ; len(text) > of; text = text[of:] {
		b = append(append(b, text[:of]...), end...)
	}
	return append(append(b, text...), end...)
}

// characters is a string of JSON with a character for each byte, as scripts have it
// that read bytes into strings.
func characters(b []byte) []byte {
	var runes []rune
	for _, c := range b {
		runes = append(runes, rune(c))
	}
	text, err := json.Marshal(string(runes))
	if err != nil {
		panic(err)
	}
	return text
}

// Each protocol is found in each carriage, within its first messages.
func TestTunnelsAreFound(t *testing.T) {
	for _, test := range tunnels {
		for i, way := range ways {
			t.Run(fmt.Sprintf("%s/%v %d", test.name, way.carriage, i), func(t *testing.T) {
				s := &Socket{}
				for n, sent := range test.sent {
					payload := way.wrap([]byte(sent))
					before := string(payload)
					f, ok := s.Look(way.binary, payload)
					if string(payload) != before {
						t.Fatal("the payload was changed")
					}
					if !ok {
						continue
					}
					if f != (Finding{test.want, way.carriage}) {
						t.Errorf("found %v, %v, want %v, %v", f.Signature, f.Carriage, test.want, way.carriage)
					}
					if way.carriage == Raw && way.binary && n > 1 {
						t.Errorf("found in message %d only", n)
					}
					if _, again := s.Look(way.binary, payload); again {
						t.Error("found twice")
					}
					return
				}
				t.Errorf("not found in %d messages: %+v", len(test.sent), *s)
			})
		}
	}
}

// What begins a tunnel in binary messages is found at once, unless it is what
// games send too.
func TestFirstMessageIsEnough(t *testing.T) {
	for _, test := range tunnels {
		s := &Socket{}
		_, ok := s.Look(true, []byte(test.sent[0]))
		_, strength := match([]byte(test.sent[0]), false)
		if ok != (strength != weak) {
			t.Errorf("%s: found %v", test.name, ok)
		}
	}
}

func TestEvidence(t *testing.T) {
	const ssh, get = "SSH-2.0-x\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	quote := func(s string) string { return string(characters([]byte(s))) }
	quiet := func(n int) []string { return slices.Repeat([]string{`{"type":"chat","text":"so"}`}, n) }
	for _, test := range []struct {
		rule   string
		binary bool
		sent   []string
		want   bool
	}{
		{"a banner after words of the tunnel's own", true, []string{`{"host":"a","port":22}`, `{"token":"x"}`, ssh}, true},
		{"a banner in a binary socket that has said much", true, append(quiet(20), ssh), false},
		{"two of them", true, append(quiet(20), ssh, ssh), true},
		{"the first packet in a binary socket that has said much", true, append(quiet(300), kexInitPacket), true},
		{"a banner in JSON", false, []string{quote(ssh)}, false},
		{"a banner in JSON, then the first packet", false, []string{quote(ssh), quote(kexInitPacket)}, true},
		{"a message in between", false, slices.Concat([]string{quote(ssh)}, quiet(1), []string{quote(kexInitPacket)}), true},
		{"evidence that was long ago", false, slices.Concat([]string{quote(ssh)}, quiet(7), []string{quote(kexInitPacket)}), false},
		{"a request that is uploaded", true, []string{`{"name":"a.http"}`, get}, false},
		{"the first message is a request", true, []string{get}, true},
		{"a request in a text", false, []string{get}, false},
		{"requests in texts", false, []string{get, get, get, get}, true},
		{"a request without Host", true, []string{"GET / HTTP/1.1\r\nAccept: */*\r\n\r\nHost: a\r\n"}, false},
		{"a request of lines that end as editors end them", true, []string{"GET / HTTP/1.1\nHost: a\n\n"}, false},
		{"SIP", false, slices.Repeat([]string{"OPTIONS sip:a@example.com SIP/2.0\r\nHost: a\r\n\r\n"}, 9), false},
		{"a banner with words behind it", true, []string{ssh + "what is that?"}, false},
		{"a banner without line end", true, []string{"SSH-2.0-OpenSSH_9.2"}, false},
		{"a quoted banner within a string", false, slices.Repeat([]string{`{"text":"he got \"SSH-2.0-x\r\n\""}`}, 9), false},
		{"greetings of SOCKS and nothing else", true, slices.Repeat([]string{"\x05\x01\x00"}, 300), false},
		{"a greeting, then a request too late", true, slices.Concat([]string{"\x05\x01\x00"}, quiet(6), []string{unhex("05010001 7f000001 0016")}), false},
		{"a request of SOCKS in the middle", true, append(quiet(6), "\x05\x01\x00", unhex("05010001 7f000001 0016")), false},
		{"a banner in the strings of a socket that has said much", false, append(quiet(40), slices.Repeat([]string{quote(ssh)}, everyMessages+2)...), true},
		{"the same banner in every eighth message", false, slices.Repeat(append(quiet(7), quote(ssh)), 99), false},
		{"a game that has the fields of SOCKS4a", true, slices.Repeat([]string{unhex("0401 0016 00000005 00 4100"), unhex("0401 0016 00000005 00 41424300")}, 9), false},
		{"nothing at all", true, slices.Repeat([]string{""}, 300), false},
		{"beyond the window", false, slices.Repeat([]string{`{"pad":"` + strings.Repeat(" ", windowBytes) + `","data":` + quote(kexInitPacket) + `}`}, 9), false},
		{"in the window and across its end", false, slices.Repeat([]string{`{"pad":"` + strings.Repeat(" ", windowBytes-60) + `","data":` + quote(kexInitPacket) + `}`}, 2), true},
		{"a ClientHello in hex that somebody pastes", false, append(quiet(9), hex.EncodeToString([]byte(helloRecord))), false},
	} {
		t.Run(test.rule, func(t *testing.T) {
			s, got := &Socket{}, false
			for _, sent := range test.sent {
				_, ok := s.Look(test.binary, []byte(sent))
				got = got || ok
			}
			if got != test.want {
				t.Errorf("found %v, want %v: %+v", got, test.want, *s)
			}
		})
	}
}

func TestSignaturesHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Signatures() {
		if seen[s.String()] || s.String() == "" {
			t.Errorf("signature %d is called %q", s, s)
		}
		seen[s.String()] = true
		if !slices.ContainsFunc(tunnels, func(t struct {
			name string
			want Signature
			sent []string
		}) bool {
			return t.want == s
		}) {
			t.Errorf("no tunnel of the tests is %v", s)
		}
	}
}

// A record of a socket has three bytes to spare.
func TestSocketSize(t *testing.T) {
	if got := unsafe.Sizeof(Socket{}); got != 3 {
		t.Errorf("%d bytes, want 3", got)
	}
}

func TestLookAllocs(t *testing.T) {
	all := slices.Clone(ordinary())
	for _, test := range tunnels {
		for _, way := range ways {
			c := conversation{kind: test.name}
			for _, sent := range test.sent {
				c.messages = append(c.messages, message{way.binary, way.wrap([]byte(sent))})
			}
			all = append(all, c)
		}
	}
	if got := testing.AllocsPerRun(3, func() {
		for _, c := range all {
			var s Socket
			for _, m := range c.messages {
				s.Look(m.binary, m.payload)
			}
		}
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

// FuzzLook holds that what is found does not depend on how it is carried, and
// that nothing is changed.
func FuzzLook(f *testing.F) {
	for _, test := range tunnels {
		for _, sent := range test.sent {
			f.Add([]byte(sent), uint8(0), true)
			f.Add(ways[len(ways)-1].wrap([]byte(sent)), uint8(9), false)
		}
	}
	for _, odd := range []string{`"`, `{"`, `{"\`, `{"\u00`, `{"\u0016\u`, `{"U1NI`, `["data:`, `["data:,`, "U1NILQ=", "53534", "\xc2", `{"SSH-2.0-\`, "\x16\x03\x01", "\x05", "\x04\x01"} {
		f.Add([]byte(odd), uint8(200), false)
	}
	f.Fuzz(func(t *testing.T, payload []byte, messages uint8, binary bool) {
		before := string(payload)
		for last := range uint8(6<<4 | 15) { // whatever was seen before
			s := Socket{messages: messages, score: half, last: last}
			if f, ok := s.Look(binary, payload); ok && (f.Signature == None || f.Signature > FTP) {
				t.Fatalf("found %d", f.Signature)
			}
		}
		if string(payload) != before {
			t.Fatal("the payload was changed")
		}
		if len(payload) == 0 || len(payload) > startBytes {
			return
		}
		want, strength := match(payload, false)
		for _, way := range ways {
			seen := look(way.wrap(payload), way.binary, true, Finding{})
			if want != None && seen != (sighting{Finding{want, way.carriage}, strength}) {
				t.Errorf("%v: %v %v by %v in %d, want %v %v", way.carriage, seen.Signature, seen.strength, seen.Carriage, payload, want, strength)
			}
			if want == None && way.carriage != Raw && seen.Carriage == way.carriage && seen.Signature != None {
				t.Errorf("%v: found %v in %d", way.carriage, seen.Signature, payload)
			}
		}
	})
}

// BenchmarkLook is to be seen beside wsnode/schema's benchmarks of the same
// messages; bench compares both.
func BenchmarkLook(b *testing.B) {
	dense := strings.Repeat(`"`, 4096)
	decoys := `{"a":"` + strings.Repeat(`","FgMBA`, 500)
	for _, m := range []struct{ name, text string }{
		{"chat", `{"type":"chat","room":"general","text":"see you at the station, the train is late again","at":"2026-11-29T10:00:00Z","id":"018c1a2b-aaaa-7bbb-8ccc-01"}`},
		{"plain text", "see you at the station, the train is late again"},
		{"image", `{"type":"image","data":"data:image/png;base64,` + strings.Repeat("iVBORw0KGgoAAAANSUhEUg", 100) + `"}`},
		{"64 KiB of strings", `["` + strings.Repeat(`abc","`, 10_000) + `"]`},
		{"quotation marks", "[" + dense}, {"decoys", decoys}, {"escapes", `["` + strings.Repeat(`\u0016`, 5000)},
	} {
		for _, age := range []struct {
			name string
			s    Socket
		}{{"", Socket{}}, {", later", Socket{messages: 200}}, {", suspect", Socket{messages: 200, score: 15, last: Finding{RFB, StringHex}.packed()}}} {
			payload := []byte(m.text)
			b.Run(m.name+age.name, func(b *testing.B) {
				b.SetBytes(int64(len(payload)))
				b.ReportAllocs()
				for b.Loop() {
					s := age.s
					s.Look(false, payload)
				}
			})
		}
	}
}
