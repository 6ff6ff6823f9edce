package wsconn

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

const benchPayload = 128

func benchWire() []byte {
	return textFrame(strings.Repeat("abcdefghijklmnop", benchPayload/16))
}

// BenchmarkFeed128 takes and answers a masked text message of 128 bytes.
// BenchmarkReader128 does the same by wsutil.Reader, which our frame loop must
// beat to stay.
func BenchmarkFeed128(b *testing.B) {
	wire := benchWire()
	p := openPeer(b, &testLimits)
	in, out := make([]byte, len(wire)), make([]byte, 0, 4096)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		copy(in, wire)
		sent, err := p.c.Feed(in, p.l, testNow, echo{}, out)
		if err != nil || len(sent) != benchPayload+4 {
			b.Fatal(len(sent), err)
		}
	}
}

// BenchmarkFeed128Corked takes 32 such messages in one read.
func BenchmarkFeed128Corked(b *testing.B) {
	wire := bytes.Repeat(benchWire(), 32)
	p := openPeer(b, &testLimits)
	in, out := make([]byte, len(wire)), make([]byte, 0, 8192)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		copy(in, wire)
		if _, err := p.c.Feed(in, p.l, testNow, echo{}, out); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFeed128InPart has each message come in two reads.
func BenchmarkFeed128InPart(b *testing.B) {
	wire := benchWire()
	p := openPeer(b, &testLimits)
	in, out := make([]byte, len(wire)), make([]byte, 0, 4096)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		copy(in, wire)
		if _, err := p.c.Feed(in[:60], p.l, testNow, echo{}, out); err != nil {
			b.Fatal(err)
		}
		if _, err := p.c.Feed(in[60:], p.l, testNow, echo{}, out); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReader128(b *testing.B) {
	wire := benchWire()
	src := bytes.NewReader(wire)
	r := &wsutil.Reader{Source: src, State: ws.StateServerSide, CheckUTF8: true, MaxMessageSize: 64 << 10}
	var out bytes.Buffer
	payload, head := make([]byte, benchPayload), make([]byte, ws.MaxHeaderSize)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(wire)
		out.Reset()
		h, err := r.NextFrame()
		if err != nil {
			b.Fatal(err)
		}
		// The Reader says EOF with the last bytes, or after them.
		n := 0
		for err == nil {
			var m int
			m, err = r.Read(payload[n:])
			n += m
		}
		if err != io.EOF || n != benchPayload {
			b.Fatal(n, err)
		}
		if err := ws.WriteHeaderBuffer(&out, ws.Header{Fin: true, OpCode: h.OpCode, Length: int64(n)}, head); err != nil {
			b.Fatal(err)
		}
		out.Write(payload[:n])
	}
}

// BenchmarkOpening takes a browser's request in one read and answers it.
// BenchmarkUpgrade does the same by ws.Upgrader.
func BenchmarkOpening(b *testing.B) {
	in, out := []byte(browserHead), make([]byte, 0, 4096)
	var conn Conn
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		conn.Reset(&testLimits, testNow)
		if _, err := conn.Feed(in, &testLimits, testNow, discard{}, nil); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Accept("gatehouse.v1", out); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpeningBytewise has the same request come byte by byte.
func BenchmarkOpeningBytewise(b *testing.B) {
	in, out := []byte(browserHead), make([]byte, 0, 4096)
	var conn Conn
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		conn.Reset(&testLimits, testNow)
		for i := range in {
			if _, err := conn.Feed(in[i:i+1], &testLimits, testNow, discard{}, nil); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := conn.Accept("gatehouse.v1", out); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpgrade(b *testing.B) {
	var rw struct {
		bytes.Reader
		io.Writer
	}
	rw.Writer = io.Discard
	u := ws.Upgrader{Protocol: func(p []byte) bool { return string(p) == "gatehouse.v1" }}
	in := []byte(browserHead)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		rw.Reset(in)
		if _, err := u.Upgrade(&rw); err != nil && !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	}
}
