package tunnel

import (
	"bytes"
	"encoding/binary"
)

// mayBegin reports whether bytes that begin so are worth a look.
func mayBegin(a, b, c byte) bool {
	switch a {
	case 'S':
		return b == 'S' && c == 'H'
	case 'R':
		return b == 'F' && c == 'B'
	case 0x16:
		return b == 3 && c <= 4
	case 0:
		return b == 0 && c < 0x89 // of the length of an SSH packet, up to 35000
	case 3:
		return b == 0
	case 4:
		return b == 1 || b == 2
	case 5:
		return 1 <= b && b <= 8
	case 'G':
		return b == 'E' && c == 'T'
	case 'P':
		return b == 'O' && c == 'S' || b == 'U' && c == 'T' || b == 'A' && c == 'T' || b == 'R' && c == 'I'
	case 'H':
		return b == 'E' && (c == 'A' || c == 'L')
	case 'D':
		return b == 'E' && c == 'L'
	case 'O':
		return b == 'P' && c == 'T'
	case 'C':
		return b == 'O' && c == 'N'
	case 'T':
		return b == 'R' && c == 'A'
	case 'E':
		return b == 'H' && c == 'L'
	case 'U':
		return b == 'S' && c == 'E'
	case '2':
		return b == '2' && c == '0'
	}
	return false
}

// match finds the signature of what begins with b. more says that there are
// bytes behind b.
func match(b []byte, more bool) (Signature, strength) {
	if len(b) < 3 || !mayBegin(b[0], b[1], b[2]) {
		return None, weak
	}
	switch b[0] {
	case 'S':
		return ssh(b, more)
	case 'R':
		if !more && rfb(b) {
			return RFB, banner
		}
	case 0x16:
		if clientHello(b) {
			return TLS, structure
		}
	case 0:
		if kexInit(b) {
			return SSH, structure
		}
	case 3:
		if rdp(b, more) {
			return RDP, structure
		}
	case 4:
		if !more {
			return socks4(b)
		}
	case 5:
		if !more && socks5Greeting(b) {
			return SOCKS5, weak
		}
	case 'E', '2', 'U':
		return line(b, more)
	case 'H':
		if b[2] == 'L' {
			return line(b, more)
		}
		return http(b)
	default:
		return http(b)
	}
	return None, weak
}

// next reports whether what begins with b is what comes next in a protocol whose
// beginning was seen.
func next(s Signature, b []byte, more bool) bool {
	switch s {
	case TLS: // a record
		return len(b) >= 6 && 20 <= b[0] && b[0] <= 23 && b[1] == 3 && b[2] <= 4 && 0 < be16(b[3:]) && be16(b[3:]) <= 16640
	case RFB: // the security type that the client chose
		return !more && len(b) == 1 && 0 < b[0] && b[0] < ' '
	case RDP: // another TPKT
		return len(b) >= 7 && b[0] == 3 && b[1] == 0 && length(b, more, be16(b[2:]))
	case SOCKS5:
		return !more && socks5Request(b)
	case SMTP:
		return begins(b, "MAIL FROM:", "STARTTLS\r\n", "AUTH ", "250-", "250 ")
	case FTP:
		return begins(b, "PASS ", "331 ")
	}
	return false
}

func begins(b []byte, with ...string) bool {
	for _, w := range with {
		if len(b) >= len(w) && string(b[:len(w)]) == w {
			return true
		}
	}
	return false
}

func be16(b []byte) int { return int(binary.BigEndian.Uint16(b)) }

// length reports whether all that begins with b can be n bytes long.
func length(b []byte, more bool, n int) bool { return len(b) == n || more && len(b) < n }

// maxBanner is the length of an SSH banner with its line end (RFC 4253 section
// 4.2).
const maxBanner = 255

// ssh wants a banner and nothing behind it but the first packet.
func ssh(b []byte, more bool) (Signature, strength) {
	head, _, ok := bytes.Cut(b[:min(len(b), maxBanner)], []byte("\r\n"))
	if !ok || !begins(head, "SSH-2.0-", "SSH-1.99-", "SSH-1.5-", "SSH-chisel-") || !printable(head) || head[len(head)-1] == '-' {
		return None, weak
	}
	switch rest := b[len(head)+2:]; {
	case len(rest) == 0 && !more && bytes.Count(head, []byte(" ")) > 2: // words about a banner
		return SSH, weak
	case len(rest) == 0 && !more:
		return SSH, banner
	case kexInit(rest):
		return SSH, structure
	}
	return None, weak
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// kexInit knows an SSH_MSG_KEXINIT (RFC 4253 section 7.1) in its packet: length,
// padding, message number, cookie, and the first list of names.
func kexInit(b []byte) bool {
	const names = 26
	if len(b) < names+4 || b[5] != 20 {
		return false
	}
	size, pad, list := binary.BigEndian.Uint32(b), uint32(b[4]), binary.BigEndian.Uint32(b[names-4:])
	if size > 35000 || pad < 4 || list == 0 || size < names-4+pad || list > size-(names-4)-pad {
		return false
	}
	for _, c := range b[names:min(len(b), names+int(min(list, 64)))] {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// clientHello knows the fields of a ClientHello up to its cipher suites, in the
// record that begins a connection (RFC 8446 sections 4.1.2 and 5.1).
func clientHello(b []byte) bool {
	const sessionID = 43
	if len(b) <= sessionID || b[5] != 1 {
		return false
	}
	record, hello := be16(b[3:]), int(b[6])<<16|be16(b[7:])
	if record < 42 || record > 16384 || hello+4 < record || b[9] != 3 || b[10] > 3 || b[sessionID] > 32 {
		return false
	}
	suites := b[sessionID+1+min(int(b[sessionID]), len(b)-sessionID-1):]
	return len(suites) >= 2 && be16(suites) >= 2 && be16(suites)%2 == 0
}

// rdp knows an X.224 connection request, class 0, in a TPKT of its own
// (MS-RDPBCGR section 2.2.1.1).
func rdp(b []byte, more bool) bool {
	return len(b) >= 11 && length(b, more, be16(b[2:])) && int(b[4])+5 == be16(b[2:]) && b[5] == 0xe0 && b[6] == 0 && b[7] == 0 && b[10] == 0
}

func rfb(b []byte) bool {
	if len(b) != 12 || string(b[:4]) != "RFB " || b[7] != '.' || b[11] != '\n' {
		return false
	}
	for _, i := range [...]int{4, 5, 6, 8, 9, 10} {
		if b[i] < '0' || b[i] > '9' {
			return false
		}
	}
	return true
}

// socks4 wants command, port, address and user, and in SOCKS4a a host.
func socks4(b []byte) (Signature, strength) {
	if len(b) < 9 || be16(b[2:]) == 0 || b[len(b)-1] != 0 {
		return None, weak
	}
	user, host, _ := bytes.Cut(b[8:len(b)-1], []byte{0})
	named := b[4] == 0 && b[5] == 0 && b[6] == 0 && b[7] != 0
	switch {
	case !printable(user) || !printable(host):
	case named && hostname(host):
		return SOCKS4, banner
	case !named && b[4] != 0 && len(user) == len(b)-9:
		return SOCKS4, weak
	}
	return None, weak
}

// hostname wants a name of at least two labels, as ordinary bytes are none.
func hostname(b []byte) bool {
	for _, c := range b {
		if c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return len(b) >= 4 && bytes.IndexByte(b[1:], '.') >= 0
}

func socks5Greeting(b []byte) bool {
	if len(b) != 2+int(b[1]) {
		return false
	}
	for _, method := range b[2:] {
		if method > 9 && method < 0x80 || method == 0xff {
			return false
		}
	}
	return true
}

func socks5Request(b []byte) bool {
	if len(b) < 7 || b[0] != 5 || b[1] < 1 || b[1] > 3 || b[2] != 0 {
		return false
	}
	switch b[3] {
	case 1:
		return len(b) == 10
	case 3:
		return len(b) == 7+int(b[4]) && b[4] > 0 && printable(b[5:len(b)-2])
	case 4:
		return len(b) == 22
	}
	return false
}

// http wants a request line and, behind it, Host, which every request of HTTP/1.1
// has: what is saved by hand mostly lacks it, or has other line ends.
func http(b []byte) (Signature, strength) {
	if begins(b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
		return HTTP, structure
	}
	if !begins(b, "GET ", "POST ", "PUT ", "PATCH ", "HEAD ", "DELETE ", "OPTIONS ", "TRACE ", "CONNECT ") {
		return None, weak
	}
	b = b[:min(len(b), 2048)]
	line, fields, ok := bytes.Cut(b, []byte("\r\n"))
	_, target, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(target, []byte(" "))
	if !ok || len(target) == 0 || string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0" {
		return None, weak
	}
	connect := line[0] == 'C'
	if connect {
		if host, port, ok := bytes.Cut(target, []byte(":")); !ok || len(host) == 0 || len(port) == 0 {
			return None, weak
		}
	}
	for len(fields) > 0 {
		line, fields, ok = bytes.Cut(fields, []byte("\r\n"))
		if ok && len(line) > 5 && (line[0]|0x20) == 'h' && bytes.EqualFold(line[:5], []byte("host:")) {
			if connect {
				return Proxy, banner
			}
			return HTTP, request
		}
		if len(line) == 0 { // the end of the head
			break
		}
	}
	if connect && len(line) == 0 && ok {
		return Proxy, banner
	}
	return None, weak
}

// line wants a line of SMTP or FTP, or several that begin alike, and nothing
// else.
func line(b []byte, more bool) (Signature, strength) {
	if more || len(b) > 512 || !bytes.HasSuffix(b, []byte("\r\n")) {
		return None, weak
	}
	words := b[:len(b)-2]
	switch {
	case begins(b, "220 ", "220-"):
		for rest := words; len(rest) > 0; {
			var one []byte
			if one, rest, _ = bytes.Cut(rest, []byte("\r\n")); !printable(one) || !begins(one, "220") {
				return None, weak
			}
		}
		switch {
		case containsFold(words, "smtp"):
			return SMTP, banner
		case containsFold(words, "ftp"):
			return FTP, banner
		}
		return None, weak
	case len(words) < 6 || !printable(words) || bytes.IndexByte(words[5:], ' ') >= 0:
		return None, weak
	case begins(b, "EHLO "):
		return SMTP, banner
	case begins(b, "HELO "):
		return SMTP, weak
	case begins(b, "USER "):
		return FTP, weak
	}
	return None, weak
}

// containsFold is bytes.Contains without the case of ASCII; lower is in lower
// case.
func containsFold(b []byte, lower string) bool {
	for i := 0; i+len(lower) <= len(b); i++ {
		j := 0
		for j < len(lower) && b[i+j]|0x20 == lower[j] {
			j++
		}
		if j == len(lower) {
			return true
		}
	}
	return false
}
