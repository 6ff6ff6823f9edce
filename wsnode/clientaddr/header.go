package clientaddr

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// MaxHeader is the longest PROXY header that is read. Version 2 could say 64 KiB;
// what proxies add to the addresses takes some hundred bytes, and with a client's
// certificate some thousand.
const MaxHeader = 4096

const (
	maxHeader1 = 107 // with its CR LF, as its specification has it
	prefix1    = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
	head2      = len(signature2) + 4
)

// Header is what a PROXY header says.
type Header struct {
	// Client is who connected to the proxy.
	Client netip.Addr
	// Local says that the proxy speaks for itself, as to look after the node's
	// health. There is no Client then.
	Local bool
}

// ParseHeader reads the PROXY header, of version 1 or 2, that b begins with. n is
// its length, or zero as long as it is not whole. An error is final: it is the
// same whatever follows, and however few bytes of it came at a time. It comes at
// MaxHeader bytes at the latest.
//
// What version 2 has beside the addresses is skipped, a checksum of them too.
func ParseHeader(b []byte) (h Header, n int, err error) {
	switch {
	case bytes.HasPrefix(b, []byte(signature2)):
		return parseHeader2(b)
	case bytes.HasPrefix(b, []byte(prefix1)):
		return parseHeader1(b)
	case bytes.HasPrefix([]byte(signature2), b), bytes.HasPrefix([]byte(prefix1), b):
		return Header{}, 0, nil
	}
	return Header{}, 0, ErrNoHeader
}

// parseHeader1 reads "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443".
func parseHeader1(b []byte) (Header, int, error) {
	window := b[:min(len(b), maxHeader1)]
	end := bytes.IndexByte(window, '\n')
	if end < 0 {
		if len(window) == maxHeader1 {
			return Header{}, 0, ErrHeaderSize
		}
		return Header{}, 0, nil
	}
	line, ok := bytes.CutSuffix(window[len(prefix1):end], []byte("\r"))
	if !ok {
		return Header{}, 0, ErrHeader
	}
	family, rest, _ := bytes.Cut(line, []byte(" "))
	if string(family) == "UNKNOWN" { // whatever follows
		return Header{}, 0, ErrNoAddress
	}
	words := bytes.Split(rest, []byte(" "))
	if len(words) != 4 || !isPort(words[2]) || !isPort(words[3]) {
		return Header{}, 0, ErrHeader
	}
	source, err := netip.ParseAddr(string(words[0]))
	to, errTo := netip.ParseAddr(string(words[1]))
	switch {
	case err != nil || errTo != nil:
	case string(family) == "TCP4" && source.Is4() && to.Is4(), string(family) == "TCP6" && source.Is6() && to.Is6():
		if source, err = client(source); err != nil {
			return Header{}, 0, err
		}
		return Header{Client: source}, end + 1, nil
	}
	return Header{}, 0, ErrHeader
}

// isPort reports whether p is a decimal number below 65536, without zeros before
// it.
func isPort(p []byte) bool {
	value := 0
	for _, c := range p {
		if c < '0' || c > '9' || value > 65535 {
			return false
		}
		value = 10*value + int(c-'0')
	}
	return len(p) > 0 && value < 65536 && (p[0] != '0' || len(p) == 1)
}

// parseHeader2 reads the binary form. Each byte is judged as it comes.
func parseHeader2(b []byte) (Header, int, error) {
	const (
		local, proxied           = 0x20, 0x21
		unspecified              = 0x00
		tcp4, tcp6               = 0x11, 0x21
		unixStream, unixDatagram = 0x31, 0x32
	)
	at := len(signature2)
	if len(b) > at && b[at] != local && b[at] != proxied {
		return Header{}, 0, ErrHeader
	}
	if len(b) < head2 {
		return Header{}, 0, nil
	}
	family, size := b[at+1], int(binary.BigEndian.Uint16(b[at+2:]))
	if size > MaxHeader-head2 {
		return Header{}, 0, ErrHeaderSize
	}
	if b[at] == proxied {
		switch {
		case family == tcp4 && size >= 2*(4+2), family == tcp6 && size >= 2*(16+2):
		case family == unspecified || family == unixStream || family == unixDatagram:
			return Header{}, 0, ErrNoAddress
		default:
			return Header{}, 0, ErrHeader
		}
	}
	if len(b)-head2 < size {
		return Header{}, 0, nil
	}
	if b[at] == local {
		return Header{Local: true}, head2 + size, nil
	}
	source := netip.AddrFrom4([4]byte(b[head2:]))
	if family == tcp6 {
		source = netip.AddrFrom16([16]byte(b[head2:]))
	}
	source, err := client(source)
	if err != nil {
		return Header{}, 0, err
	}
	return Header{Client: source}, head2 + size, nil
}
