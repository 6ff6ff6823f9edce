package wsconn

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// head is goodHead with its lines edited: "-Name" drops a field, any other
// line is added.
func head(edits ...string) string {
	lines := strings.Split(strings.TrimSuffix(goodHead, "\r\n\r\n"), "\r\n")
	for _, e := range edits {
		if name, drop := strings.CutPrefix(e, "-"); drop {
			kept := lines[:1:1]
			for _, l := range lines[1:] {
				if !strings.HasPrefix(l, name+":") {
					kept = append(kept, l)
				}
			}
			lines = kept
			continue
		}
		lines = append(lines, e)
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// start is goodHead with another request line.
func start(line string) string {
	_, rest, _ := strings.Cut(goodHead, "\r\n")
	return line + "\r\n" + rest
}

func TestRequestRefused(t *testing.T) {
	for _, c := range []struct {
		rule string
		head string
		want error
	}{
		// RFC 9112 §3: the request line.
		{"9112/3 a method other than GET", start("POST /chat HTTP/1.1"), ErrMethod},
		{"9112/3 HEAD is not GET", start("HEAD /chat HTTP/1.1"), ErrHead},
		{"9110/9.1 methods are case-sensitive", start("get /chat HTTP/1.1"), ErrMethod},
		{"9112/3 a method that is no token", start("G(T /chat HTTP/1.1"), ErrRequestLine},
		{"9112/3 no method", start(" /chat HTTP/1.1"), ErrRequestLine},
		{"9112/3 two spaces before the target", start("GET  /chat HTTP/1.1"), ErrRequestLine},
		{"9112/3 two spaces before the version", start("GET /chat  HTTP/1.1"), ErrRequestLine},
		{"9112/3 a space at the end", start("GET /chat HTTP/1.1 "), ErrRequestLine},
		{"9112/3 a tab instead of a space", start("GET\t/chat HTTP/1.1"), ErrRequestLine},
		{"9112/3 HTTP/0.9 has no version", start("GET /chat"), ErrRequestLine},
		{"9112/2.2 an empty line first", "\r\n" + goodHead, ErrRequestLine},
		{"9112/2.2 white space first", " " + goodHead, ErrRequestLine},
		{"9112/2.3 HTTP/1.0", start("GET /chat HTTP/1.0"), ErrHTTPVersion},
		{"9112/2.3 HTTP/2.0", start("GET /chat HTTP/2.0"), ErrHTTPVersion},
		{"9113/3.4 HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ErrHTTPVersion},
		{"9112/2.3 the version's case", start("GET /chat http/1.1"), ErrRequestLine},
		{"9112/2.3 a version of two digits", start("GET /chat HTTP/1.10"), ErrRequestLine},
		{"9112/2.3 a version with a sign", start("GET /chat HTTP/+.1"), ErrRequestLine},
		// RFC 9112 §3.2: the target.
		{"9112/3.2.2 the absolute form", start("GET http://server.example.com/chat HTTP/1.1"), ErrTarget},
		{"9112/3.2.3 the authority form", start("GET server.example.com:443 HTTP/1.1"), ErrTarget},
		{"9112/3.2.4 the asterisk form", start("GET * HTTP/1.1"), ErrTarget},
		{"9112/3.2.1 a relative path", start("GET chat HTTP/1.1"), ErrTarget},
		{"3986/3.5 a fragment", start("GET /chat#top HTTP/1.1"), ErrTarget},
		{"3986/3.3 a backslash", start(`GET /..\chat HTTP/1.1`), ErrTarget},
		{"3986/3.3 a tab", start("GET /a\tb HTTP/1.1"), ErrTarget},
		{"3986/3.3 bytes above ASCII", start("GET /ch\xc3\xa4t HTTP/1.1"), ErrTarget},
		{"3986/3.3 a quotation mark", start(`GET /"chat" HTTP/1.1`), ErrTarget},
		{"3986/3.3 angle brackets", start("GET /<chat> HTTP/1.1"), ErrTarget},
		{"3986/2.1 a cut escape", start("GET /chat%2 HTTP/1.1"), ErrTarget},
		{"3986/2.1 an escape of no hex", start("GET /chat%zz HTTP/1.1"), ErrTarget},
		{"3986/2.1 an escape in the query", start("GET /chat?%g0 HTTP/1.1"), ErrTarget},
		{"3986/7.3 an escaped NUL in the path", start("GET /chat%00 HTTP/1.1"), ErrTarget},
		{"3986/7.3 an escaped NUL in the query", start("GET /chat?a=%00 HTTP/1.1"), ErrTarget},
		// RFC 9112 §2.2, §5: lines and fields.
		{"9112/2.2 LF without CR in the request line", "GET /chat HTTP/1.1\n\n", ErrLineEnd},
		{"9112/2.2 LF without CR in a field", head("X: y\nZ: z"), ErrLineEnd},
		{"9112/2.2 LF alone ends the head", strings.Replace(goodHead, "\r\n\r\n", "\r\n\n", 1), ErrLineEnd},
		{"9112/2.2 CR without LF", head("X: y\rZ: z"), ErrControlCharacter},
		{"9112/2.2 CR CR LF", head("X: y\r"), ErrControlCharacter},
		{"9110/5.5 NUL in a value", head("X: a\x00b"), ErrControlCharacter},
		{"9110/5.5 a control character in a value", head("X: aaaaaaaaaaaa\x1fb"), ErrControlCharacter},
		{"9110/5.5 DEL in a value", head("X: a\x7fb"), ErrControlCharacter},
		{"a TLS hello on a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ErrControlCharacter},
		{"9112/5.1 a space before the colon", head("X : y"), ErrFieldName},
		{"9112/5.1 a tab before the colon", head("X\t: y"), ErrFieldName},
		{"9112/5.2 a folded line", head("X: a\r\n b"), ErrFieldName},
		{"9112/5.2 a line folded with a tab", head("X: a\r\n\tb"), ErrFieldName},
		{"9112/2.2 white space before the first field", start("GET /chat HTTP/1.1\r\n X: y"), ErrFieldName},
		{"9112/5 a line without a colon", head("Upgrade"), ErrFieldName},
		{"9112/5 a field without a name", head(": y"), ErrFieldName},
		{"9110/5.1 a name that is no token", head("X(y): z"), ErrFieldName},
		{"9110/5.1 a name above ASCII", head("H\xc3\xb6st: z"), ErrFieldName},
		// RFC 9112 §11.2, §6: what smuggles.
		{"9112/6.1 Transfer-Encoding", head("Transfer-Encoding: chunked"), ErrBody},
		{"9112/6.1 Transfer-Encoding: identity", head("Transfer-Encoding: identity"), ErrBody},
		{"9112/6.1 an empty Transfer-Encoding", head("Transfer-Encoding:"), ErrBody},
		{"9112/6.1 TE before the colon hidden by a space", head("Transfer-Encoding : chunked"), ErrFieldName},
		{"9112/6.1 TE hidden by a vertical tab", head("Transfer-Encoding:\x0bchunked"), ErrControlCharacter},
		{"9112/6.1 TE in a folded line", head("X: y\r\n Transfer-Encoding: chunked"), ErrFieldName},
		{"9112/6.1 TE after a lone LF", head("X: y\nTransfer-Encoding: chunked"), ErrLineEnd},
		{"9112/6.3 CL and TE", head("Content-Length: 0", "Transfer-Encoding: chunked"), ErrBody},
		{"9112/6.2 Content-Length above zero", head("Content-Length: 5"), ErrBody},
		{"9112/6.2 Content-Length with a sign", head("Content-Length: +0"), ErrBody},
		{"9112/6.2 Content-Length of two zeros", head("Content-Length: 00"), ErrBody},
		{"9112/6.2 Content-Length as a list", head("Content-Length: 0, 0"), ErrBody},
		{"9112/6.2 an empty Content-Length", head("Content-Length:"), ErrBody},
		{"9112/6.2 Content-Length twice", head("Content-Length: 0", "Content-Length: 0"), ErrDuplicateField},
		{"9112/6.2 Content-Length in two cases", head("content-length: 0", "CONTENT-LENGTH: 5"), ErrDuplicateField},
		// RFC 9112 §3.2, RFC 6455 §11.3: what may stand once.
		{"9112/3.2 two Hosts", head("Host: evil.example"), ErrDuplicateField},
		{"9112/3.2 two equal Hosts", head("host: server.example.com"), ErrDuplicateField},
		{"6455/11.3.1 two keys", head("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), ErrDuplicateField},
		{"6455/11.3.5 two versions", head("Sec-WebSocket-Version: 13"), ErrDuplicateField},
		{"6454/7.3 two Origins", head("Origin: http://example.com"), ErrDuplicateField},
		{"9110/11.6.2 two Authorizations", head("Authorization: Bearer a", "Authorization: Bearer b"), ErrDuplicateField},
		{"9110/10.1.5 two User-Agents", head("User-Agent: a", "User-Agent: b"), ErrDuplicateField},
		// RFC 9112 §3.2: Host.
		{"9112/3.2 no Host", head("-Host"), ErrHost},
		{"9112/3.2 an empty Host", head("-Host", "Host:"), ErrHost},
		{"9110/7.2 a port alone", head("-Host", "Host: :80"), ErrHost},
		{"9110/7.2 a port that is no number", head("-Host", "Host: a:b"), ErrHost},
		{"9110/7.2 a port too long", head("-Host", "Host: a:123456"), ErrHost},
		{"9110/7.2 two ports", head("-Host", "Host: a:1:2"), ErrHost},
		{"9110/7.2 two hosts in one field", head("-Host", "Host: a, b"), ErrHost},
		{"9110/7.2 user information", head("-Host", "Host: u@a"), ErrHost},
		{"9110/7.2 a path", head("-Host", "Host: a/b"), ErrHost},
		{"9110/7.2 an escape", head("-Host", "Host: a%2eb"), ErrHost},
		{"9110/7.2 a space", head("-Host", "Host: a b"), ErrHost},
		{"9110/7.2 an open bracket", head("-Host", "Host: [::1"), ErrHost},
		{"9110/7.2 an empty address", head("-Host", "Host: []"), ErrHost},
		{"9110/7.2 a zone", head("-Host", "Host: [fe80::1%25eth0]"), ErrHost},
		{"9110/7.2 text behind the bracket", head("-Host", "Host: [::1]a"), ErrHost},
		// RFC 6455 §4.2.1.
		{"4.2.1-3 no Upgrade", head("-Upgrade"), ErrNoUpgrade},
		{"4.2.1-3 Upgrade to something else", head("-Upgrade", "Upgrade: h2c"), ErrNoUpgrade},
		{"4.2.1-3 websocket inside a word", head("-Upgrade", "Upgrade: websockets"), ErrNoUpgrade},
		{"4.2.1-3 Upgrade that is no list", head("-Upgrade", `Upgrade: "websocket"`), ErrNoUpgrade},
		{"4.2.1-4 no Connection", head("-Connection"), ErrNoUpgrade},
		{"4.2.1-4 Connection without upgrade", head("-Connection", "Connection: keep-alive"), ErrNoUpgrade},
		{"4.2.1-4 upgrade inside a word", head("-Connection", "Connection: noupgrade"), ErrNoUpgrade},
		{"4.2.1-4 Connection that is no list", head("-Connection", "Connection: upgrade; close"), ErrNoUpgrade},
		{"4.2.1-4 a list with a bad element", head("-Connection", "Connection: upgrade, a b"), ErrNoUpgrade},
		{"4.2.1-3 a list with a bad element", head("-Upgrade", "Upgrade: websocket, a b"), ErrNoUpgrade},
		{"a plain GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ErrNoUpgrade},
		{"4.2.1-5 no key", head("-Sec-WebSocket-Key"), ErrKey},
		{"4.2.1-5 an empty key", head("-Sec-WebSocket-Key", "Sec-WebSocket-Key:"), ErrKey},
		{"4.2.1-5 a key of 15 bytes", head("-Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"), ErrKey},
		{"4.2.1-5 a key of 17 bytes", head("-Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="), ErrKey},
		{"4.2.1-5 a key of 18 bytes", head("-Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA"), ErrKey},
		{"4648/3.5 a key with spare bits", head("-Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="), ErrKey},
		{"4648/3.2 a key without padding", head("-Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), ErrKey},
		{"4648/5 a key in the other alphabet", head("-Sec-WebSocket-Key", "Sec-WebSocket-Key: _GhlIHNhbXBsZSBub25jZQ=="), ErrKey},
		{"4.2.1-6 no version", head("-Sec-WebSocket-Version"), ErrVersion},
		{"4.2.1-6 version 8", head("-Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), ErrVersion},
		{"4.2.1-6 two versions in one field", head("-Sec-WebSocket-Version", "Sec-WebSocket-Version: 13, 8"), ErrVersion},
		{"4.2.1-6 a leading zero", head("-Sec-WebSocket-Version", "Sec-WebSocket-Version: 013"), ErrVersion},
		{"4.4 another version is told so, whatever its key", head("-Sec-WebSocket-Version", "-Sec-WebSocket-Key"), ErrVersion},
		{"4.1-10 a subprotocol twice", head("-Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: a, b, a"), ErrSubprotocols},
		{"4.1-10 a subprotocol twice over two fields", head("Sec-WebSocket-Protocol: chat"), ErrSubprotocols},
		{"4.1-10 a subprotocol that is no token", head("-Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: a b"), ErrSubprotocols},
		{"4.1-10 an empty list", head("-Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: ,"), ErrSubprotocols},
		{"4.1-10 an empty field", head("-Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol:"), ErrSubprotocols},
		{"more subprotocols than are compared", head("-Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: "+numbered(33)), ErrSubprotocols},
		// Limits.
		{"more fields than allowed", head(strings.Repeat("X: y\r\n", 93) + "X: y"), ErrTooManyFields},
		{"more bytes than allowed", head("X: " + strings.Repeat("y", 16<<10)), ErrHeadTooLarge},
		{"more bytes than allowed in the target", start("GET /" + strings.Repeat("y", 16<<10) + " HTTP/1.1"), ErrHeadTooLarge},
		{"more bytes than allowed without a line", strings.Repeat("G", 17<<10), ErrHeadTooLarge},
	} {
		for how, feed := range cuts {
			p := newPeer(&testLimits)
			feed(p, []byte(c.head))
			if len(p.events) != 1 || p.events[0] != "error "+c.want.Error() {
				t.Errorf("%s (%s): %v, want the error %q", c.rule, how, p.events, c.want)
			}
			if p.c.State() != StateClosed || !bytes.HasPrefix(p.out, []byte("HTTP/1.1 400 Bad Request\r\n")) {
				t.Errorf("%s (%s): %v after %.40q, want it refused", c.rule, how, p.c.State(), p.out)
			}
			if held(&p.c) > 0 || p.c.part != nil && p.c.request != nil {
				t.Errorf("%s (%s): a refused connection keeps its head", c.rule, how)
			}
		}
	}
}

func numbered(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprint("p", i))
	}
	return strings.Join(all, ",")
}

// A wrong head is refused at the byte that makes it so, not at its end, which
// may never come.
func TestRequestFailsFast(t *testing.T) {
	for rule, in := range map[string]string{
		"a control character":   "\x16",
		"a control in a field":  "GET / HTTP/1.1\r\nHost: a\x00",
		"a lone CR":             "GET / HTTP/1.1\r ",
		"a lone LF":             "GET / HTTP/1.1\n",
		"the method":            "POST / HTTP/1.1\r\n",
		"a folded line":         "GET / HTTP/1.1\r\nA: b\r\n c\r\n",
		"a second Host":         "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
		"a body":                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
		"the last allowed byte": strings.Repeat("G", 16<<10),
	} {
		p := newPeer(&testLimits)
		p.bytewise([]byte(in[:len(in)-1]))
		if len(p.events) != 0 {
			t.Errorf("%s: %v before its last byte", rule, p.events)
		}
		p.bytewise([]byte(in[len(in)-1:]))
		if len(p.events) != 1 {
			t.Errorf("%s: %v, want an error at its last byte", rule, p.events)
		}
	}
}

func TestRequestAccepted(t *testing.T) {
	for rule, text := range map[string]string{
		"1.3 the RFC's example":                       goodHead,
		"9112/3.2.1 an empty query":                   start("GET /chat? HTTP/1.1"),
		"9112/3.2.1 escapes":                          start("GET /%E4%bd?a=%2F%0a HTTP/1.1"),
		"3986/3.3 dot segments are the router's":      start("GET /a/../b//c/./ HTTP/1.1"),
		"3986/3.4 what browsers leave unescaped":      start("GET /[a]^`{|}?[b]^`{|}?/ HTTP/1.1"),
		"9110/5.1 names in any case":                  strings.NewReplacer("Host", "hOST", "Upgrade:", "UPGRADE:", "Sec-WebSocket-Key", "sec-websocket-KEY").Replace(goodHead),
		"9112/5.1 no white space around a value":      strings.ReplaceAll(goodHead, ": ", ":"),
		"9112/5.1 tabs and spaces around a value":     strings.NewReplacer(": ", ": \t ", "Upgrade\r", "Upgrade \t\r").Replace(goodHead),
		"9110/5.5 bytes above ASCII in a value":       head("X: \x80\xff\xc3\xa4"),
		"9110/5.5 a tab in a value":                   head("X: aaaa\tbbbbbbbb\t"),
		"9110/5.5 an empty value":                     head("X:"),
		"9110/5.6.1 Connection as a list":             head("-Connection", "Connection: keep-alive ,\tUPGRADE"),
		"9110/5.6.1 Connection over two fields":       head("-Connection", "Connection: Upgrade", "Connection: keep-alive"),
		"9110/5.6.1 empty list elements":              head("-Connection", "Connection: ,, upgrade,"),
		"9110/7.8 Upgrade as a list, with a version":  head("-Upgrade", "Upgrade: h2c, foo/2, WebSocket"),
		"9112/6.3 Content-Length zero":                head("Content-Length: 0"),
		"4.1-10 subprotocols over two fields":         head("Sec-WebSocket-Protocol: , a ,", "Sec-WebSocket-Protocol: b"),
		"4.1-10 subprotocols are case-sensitive":      head("Sec-WebSocket-Protocol: Chat"),
		"4.1-10 as many subprotocols as are compared": head("-Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: "+numbered(32)),
		"9.1 extensions are left alone":               head("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, ;;=\"", "Sec-WebSocket-Extensions: x"),
		"9110/7.2 a host with a port":                 head("-Host", "Host: a_b-c.example:65535"),
		"9110/7.2 a host with an empty port":          head("-Host", "Host: a:"),
		"9110/7.2 an IPv6 address":                    head("-Host", "Host: [2001:DB8::1]:8443"),
		"6265/5.4 two Cookies are one":                head("Cookie: a=b", "Cookie: c=d"),
		"as many fields as allowed":                   head(strings.Repeat("X: y\r\n", 92) + "X: y"),
		"as many bytes as allowed":                    head("X: " + strings.Repeat("y", 16<<10-len(head("X: ")))),
	} {
		for how, feed := range cuts {
			p := newPeer(&testLimits)
			feed(p, []byte(text))
			if p.c.State() != StateOpen || len(p.events) != 1 || !bytes.HasPrefix(p.out, []byte("HTTP/1.1 101 ")) {
				t.Errorf("%s (%s): %v, %v", rule, how, p.c.State(), p.events)
			}
			if held(&p.c) > 0 || p.c.part != nil && p.c.request != nil {
				t.Errorf("%s (%s): an open connection keeps its head", rule, how)
			}
		}
	}
}

// A head that trickles in is looked at once, byte by byte, not anew each time.
func TestTrickledHeadIsScannedOnce(t *testing.T) {
	p := newPeer(&testLimits)
	for i, b := range []byte(start("GET /" + strings.Repeat("x", 5000) + " HTTP/1.1"))[:5000] {
		p.feed([]byte{b})
		if got := p.c.request.scanned; got != i+1 {
			t.Fatalf("%d bytes are there, %d were looked at", i+1, got)
		}
	}
}

// views copies what a sink sees of a request.
type views struct {
	discard
	seen func(*Request)
	kept *Request
}

func (v *views) Opening(r *Request) { v.kept = r; v.seen(r) }

func TestRequestViews(t *testing.T) {
	const text = "GET /a/%2e?token=x?y&z HTTP/1.1\r\n" +
		"host: Example.com:8443\r\nOrigin:\r\nUser-Agent:  Mozilla/5.0 \xff \r\n" +
		"X-Forwarded-For: 1.1.1.1\r\nCookie: secret=1\r\nAuthorization: Bearer t\r\nx-forwarded-for: 2.2.2.2\r\n" +
		"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Protocol: b,a\r\nSec-WebSocket-Protocol: c\r\n\r\n"
	for _, step := range []int{1, 7, len(text)} {
		var got string
		v := &views{seen: func(r *Request) {
			got = fmt.Sprintf("%s|%s|%s|%q %t|%q|%s %t|%t", r.Path, r.Query, r.Host, r.Origin, r.HasOrigin, r.UserAgent,
				r.Authorization, r.HasAuthorization, r.HasCookie)
			for p := range r.Subprotocols() {
				got += fmt.Sprintf("|%s", p)
			}
			for name, value := range r.Fields() {
				if strings.EqualFold(string(name), "x-forwarded-for") {
					got += fmt.Sprintf("|%s=%s", name, value)
				}
				if strings.EqualFold(string(name), "cookie") || bytes.Contains(value, []byte("secret")) {
					t.Error("Fields gives the cookie")
				}
			}
			if value, ok := r.Header("X-FORWARDED-for"); !ok || string(value) != "1.1.1.1" {
				t.Errorf("Header: %q, %t, want the first of its name", value, ok)
			}
			if _, ok := r.Header("Cookie"); ok {
				t.Error("Header gives the cookie")
			}
			if _, ok := r.Header("X-Forwarded"); ok {
				t.Error("Header gives a field by a part of its name")
			}
			for range r.Fields() { // iteration may stop
				break
			}
			for range r.Subprotocols() {
				break
			}
		}}
		var c Conn
		c.Reset(&testLimits, testNow)
		for in := []byte(text); len(in) > 0; in = in[min(step, len(in)):] {
			if _, err := c.Feed(in[:min(step, len(in))], &testLimits, testNow, v, nil); err != nil {
				t.Fatal(err)
			}
		}
		const want = `/a/%2e|token=x?y&z|Example.com:8443|"" true|"Mozilla/5.0 \xff"|Bearer t true|true` +
			`|b|a|c|X-Forwarded-For=1.1.1.1|x-forwarded-for=2.2.2.2`
		if got != want {
			t.Errorf("%d bytes a time:\n%s\nwant\n%s", step, got, want)
		}
		if v.kept.Path != nil || v.kept.Authorization != nil {
			t.Error("a request kept beyond Opening still has its views")
		}
	}
}

func TestRequestWithoutOptionalFields(t *testing.T) {
	v := &views{seen: func(r *Request) {
		if r.HasOrigin || r.HasAuthorization || r.HasCookie || r.Origin != nil || r.Query != nil || r.UserAgent != nil {
			t.Errorf("fields that were not sent: %+v", r)
		}
		for p := range r.Subprotocols() {
			t.Errorf("subprotocol %q", p)
		}
	}}
	var c Conn
	c.Reset(&testLimits, testNow)
	if _, err := c.Feed([]byte(head("-Origin", "-Sec-WebSocket-Protocol")), &testLimits, testNow, v, nil); err != nil || v.kept == nil {
		t.Fatal(err)
	}
}

// Each cause is told apart, and belongs to the group a node maps.
func TestErrorGroups(t *testing.T) {
	groups := map[error][]error{
		ErrMalformed: {ErrControlCharacter, ErrLineEnd, ErrRequestLine, ErrTarget, ErrFieldName, ErrDuplicateField, ErrHost, ErrBody,
			ErrNoUpgrade, ErrKey, ErrSubprotocols},
		ErrMethod:       {ErrHead},
		ErrHeadTooLarge: {ErrTooManyFields},
		ErrProtocol: {ErrReservedBits, ErrReservedOpCode, ErrLengthForm, ErrLengthRange, ErrUnmasked, ErrNoMessageBegun, ErrMessageUnfinished,
			ErrControlFragmented, ErrControlTooLong, ErrCloseLength, ErrCloseCode},
		ErrInvalidUTF8:   {ErrCloseReason},
		ErrMessageTooBig: {ErrTooManyFragments},
	}
	alone := []error{ErrHTTPVersion, ErrVersion, ErrHandshakeTimeout, ErrPipelined, ErrMessageTimeout, ErrPeerClosed,
		ErrCloseTimeout, ErrNotVerifying, ErrNotOpen, ErrSubprotocol}
	texts := make(map[string]bool)
	check := func(err, group error) {
		if texts[err.Error()] {
			t.Errorf("two errors say %q", err)
		}
		texts[err.Error()] = true
		for other := range groups {
			if errors.Is(err, other) != (other == group) {
				t.Errorf("%q is %q: %t", err, other, errors.Is(err, other))
			}
		}
	}
	for group, causes := range groups {
		check(group, group)
		for _, err := range causes {
			check(err, group)
		}
	}
	for _, err := range alone {
		check(err, nil)
	}
}
