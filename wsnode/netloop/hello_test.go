package netloop

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
)

// helloOf is the ClientHello of a client, as it is sent.
func helloOf(t testing.TB, edit func(*tls.Config)) []byte {
	client, server := net.Pipe()
	cfg := &tls.Config{ServerName: "node.example", MinVersion: tls.VersionTLS12}
	edit(cfg)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = tls.Client(client, cfg).Handshake()
	}()
	b := make([]byte, 64<<10)
	n, err := io.ReadAtLeast(server, b, headBytes)
	for err == nil && n < headBytes+int(b[3])<<8+int(b[4]) {
		var k int
		k, err = server.Read(b[n:])
		n += k
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	<-ended
	return b[:n]
}

func classical(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }

// payload is what is in records, as far as they are whole.
func payload(t testing.TB, b []byte, most int) (out []byte) {
	for len(b) >= headBytes {
		n := int(b[3])<<8 | int(b[4])
		if n > most {
			t.Errorf("a record holds %d bytes, want at most %d", n, most)
		}
		out = append(out, b[headBytes:min(headBytes+n, len(b))]...)
		b = b[min(headBytes+n, len(b)):]
	}
	return out
}

// A hello is whole with its last byte and not before, in however many records; it
// is the same one in fragments, and what follows stays as it is.
func TestHello(t *testing.T) {
	for rule, edit := range map[string]func(*tls.Config){
		"classical":    classical,
		"post-quantum": func(*tls.Config) {},
		"large":        func(c *tls.Config) { c.NextProtos = strings.Fields(strings.Repeat(strings.Repeat("x", 250)+" ", 50)) },
	} {
		t.Run(rule, func(t *testing.T) {
			hello := helloOf(t, edit)
			message := hello[headBytes:]
			for _, size := range []int{1, 3, 100, plaintextBytes} {
				var b []byte
				for rest := message; len(rest) > 0; {
					n := min(size, len(rest))
					b = append(append(b, recordHandshake, 3, 1, byte(n>>8), byte(n)), rest[:n]...)
					rest = rest[n:]
				}
				var scan helloScan
				for n := range len(b) {
					if scan.whole(b[:n]) {
						t.Fatalf("%d of %d bytes in records of %d are a whole hello", n, len(b), size)
					}
				}
				if !scan.whole(b) || !new(helloScan).whole(b) {
					t.Errorf("%d bytes in records of %d are no hello", len(b), size)
				}
				behind := "\x14\x03\x03\x00\x01\x01\x17\x03"
				got := fragmentHello(append(bytes.Clone(b), behind...))
				rest, ok := bytes.CutSuffix(got, []byte(behind))
				if !ok {
					t.Errorf("%q is not what follows", got)
				}
				if !bytes.Equal(payload(t, rest, fragmentBytes), message) {
					t.Errorf("another hello in records of %d", size)
				}
			}
		})
	}
}

func FuzzFragmentHello(f *testing.F) {
	for _, edit := range []func(*tls.Config){classical, func(*tls.Config) {}} {
		hello := helloOf(f, edit)
		f.Add(hello)
		f.Add(hello[:len(hello)-1])
		f.Add(append(bytes.Clone(hello), hello...))
	}
	f.Add([]byte("\x16\x03\x01\x00\x02\x01\x00\x16\x03\x01\x00\x02\x00\x00"))
	f.Add([]byte("\x16\x03\x01\x40\x00\x01\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := new(helloScan).whole(b)
		got := fragmentHello(bytes.Clone(b))
		if bytes.Equal(got, b) {
			return
		}
		if !whole {
			t.Error("what is no hello is another one in fragments")
		}
		if !bytes.Equal(payload(t, got, 1<<16), payload(t, b, 1<<16)) {
			t.Error("it holds something else")
		}
	})
}
