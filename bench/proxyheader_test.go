package main

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
)

// PROXY headers of others are read as they are meant, and what is taken for a
// header at all is one to them too.
func TestProxyHeaderOfOthers(t *testing.T) {
	addr := func(text string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }
	for _, c := range []struct {
		source, to string
		transport  proxyproto.AddressFamilyAndProtocol
	}{
		{"192.0.2.1:40000", "192.0.2.2:443", proxyproto.TCPv4},
		{"[2001:db8::1]:1", "[2001:db8::2]:65535", proxyproto.TCPv6},
	} {
		for version := byte(1); version <= 2; version++ {
			h := proxyproto.Header{Version: version, Command: proxyproto.PROXY, TransportProtocol: c.transport, SourceAddr: addr(c.source), DestinationAddr: addr(c.to)}
			if version == 2 {
				if err := h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("node.example")}}); err != nil {
					t.Fatal(err)
				}
			}
			b, err := h.Format()
			if err != nil {
				t.Fatal(err)
			}
			got, n, err := clientaddr.ParseHeader(append(b, "GET"...))
			if want := netip.MustParseAddrPort(c.source).Addr(); err != nil || n != len(b) || got.Client != want {
				t.Errorf("%q: %+v, %d, %v, want %v and %d", b, got, n, err, want, len(b))
			}
		}
	}
	local := proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	b, err := local.Format()
	if err != nil {
		t.Fatal(err)
	}
	if got, n, err := clientaddr.ParseHeader(b); err != nil || n != len(b) || !got.Local {
		t.Errorf("LOCAL: %+v, %d, %v", got, n, err)
	}
}

// What is taken of headers with bytes changed is held against go-proxyproto,
// which takes some that are none: a header that we take it takes too, and for the
// same client.
func TestProxyHeaderChanged(t *testing.T) {
	const v2 = "\r\n\r\n\x00\r\nQUIT\n"
	headers := []string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n", "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n", "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
		v2 + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x9c\x40\x01\xbb",
		v2 + "\x21\x11\x00\x13\xc0\x00\x02\x01\xc0\x00\x02\x02\x9c\x40\x01\xbb\x02\x00\x04abcd",
		v2 + "\x21\x21\x00\x24" + strings.Repeat("\x20\x01", 16) + "\x00\x01\x00\x02",
	}
	const bytesOfHeaders = "0123456789abcdefF:. PROXYTCPU\r\n\x00\x11\x20\x21\x22\xff"
	random := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for i := range 50_000 {
		b := []byte(headers[i%len(headers)])
		for range 1 + random.IntN(2) {
			b[random.IntN(len(b))] = bytesOfHeaders[random.IntN(len(bytesOfHeaders))]
		}
		h, n, err := clientaddr.ParseHeader(b)
		if n == 0 || err != nil || h.Local { // of LOCAL nothing else counts, which theirs does not know
			continue
		}
		taken++
		theirs, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b[:n])))
		if err != nil {
			t.Fatalf("%q is no header to them: %v", b[:n], err)
		}
		if source, ok := theirs.SourceAddr.(*net.TCPAddr); !ok || source.AddrPort().Addr().Unmap() != h.Client {
			t.Fatalf("%q: %v, theirs %v", b[:n], h.Client, theirs.SourceAddr)
		}
	}
	if taken < 1000 {
		t.Errorf("only %d headers were taken", taken)
	}
}
