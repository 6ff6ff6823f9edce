// Package tunnel recognizes other protocols that are carried in the messages of
// a socket: SSH, TLS, HTTP, SOCKS, VNC, RDP, mail and files, as they are or in
// base64, hex or the strings of JSON.
//
// It knows how those protocols begin, since that is all of them that is not
// encrypted, and wants as much evidence as it takes for ordinary traffic never
// to give it: a banner that opens a binary socket is enough, one in a string of
// JSON is not, for people quote such things. Who means to hide a tunnel can.
package tunnel

// Signature is what a protocol is known by.
type Signature uint8

// The signatures. None is no signature.
const (
	None   Signature = iota
	SSH              // RFC 4253: a banner, or the first packet
	TLS              // RFC 8446: a ClientHello
	HTTP             // RFC 9112: a request with Host; RFC 9113: the preface of a client
	Proxy            // RFC 9110: a CONNECT request
	SOCKS4           // a request, of SOCKS4a too
	SOCKS5           // RFC 1928: a greeting, then a request
	RFB              // RFC 6143, of VNC: a banner
	RDP              // MS-RDPBCGR: an X.224 connection request in a TPKT
	SMTP             // RFC 5321: a banner or EHLO
	FTP              // RFC 959: a banner, or USER, then PASS

	last = FTP
)

var names = [...]string{"", "ssh", "tls", "http", "http_connect", "socks4", "socks5", "rfb", "rdp", "smtp", "ftp"}

func (s Signature) String() string { return names[s] }

// Signatures lists them all.
func Signatures() []Signature {
	var all []Signature
	for s := None + 1; s <= last; s++ {
		all = append(all, s)
	}
	return all
}

// Carriage is how a message carries the bytes of a protocol.
type Carriage uint8

// The carriages: a whole message, as it is or encoded, or a string of JSON.
const (
	Raw Carriage = iota
	Base64
	Hex
	String
	StringBase64
	StringHex
)

var carriages = [...]string{"raw", "base64", "hex", "json", "json_base64", "json_hex"}

func (c Carriage) String() string { return carriages[c] }

// Socket is what is remembered of a socket that is looked at: nothing of what it
// sent. The zero Socket has sent nothing yet. One goroutine at a time.
type Socket struct {
	messages uint8 // looked at; from 248 on modulo eight
	score    uint8 // evidence so far; found once it was enough
	last     uint8 // the newest of it: signature, and carriage in the upper half
}

// Finding is a tunnel that was found: the signature that completed the evidence,
// and how it was carried.
type Finding struct {
	Signature Signature
	Carriage  Carriage
}

func (f Finding) packed() uint8 { return uint8(f.Signature) | uint8(f.Carriage)<<4 }

const (
	enough = 16
	found  = 255
	// Two halves make enough, up to four ordinary messages apart, or three thirds,
	// or four quarters: each ordinary message takes one off.
	half    = 10
	third   = 7
	quarter = 5

	// A tunnel begins with its protocol's first bytes, or soon after words of its
	// own.
	earlyMessages = 4
	// A socket that has sent more and given no evidence has the strings of every
	// eighth message looked at, and the beginnings of all.
	youngMessages = 32
	everyMessages = 8
)

// strength says how sure a sighting is by itself.
type strength uint8

const (
	// weak is what a game may send too: only what follows it makes it evidence.
	weak strength = iota
	// request is what people and programs quote and save as a whole.
	request
	// banner is text that nothing else begins and ends with.
	banner
	// structure is binary fields that fit one another.
	structure
	// step is what comes next in the protocol of the sighting before.
	step
)

// sighting is what one message shows.
type sighting struct {
	Finding
	strength strength
}

// Look takes the next message and reports whether it completes the evidence of a
// tunnel. Once it has, it looks at nothing more. It keeps nothing of payload,
// allocates nothing, and looks at no more than the first 4 KiB and what a string
// has at its beginning there.
func (s *Socket) Look(binary bool, payload []byte) (Finding, bool) {
	if s.Found() {
		return Finding{}, false
	}
	index := s.messages
	if s.messages++; s.messages == 0 {
		s.messages = 256 - everyMessages
	}
	var suspect Finding
	if s.score > 0 {
		suspect = Finding{Signature(s.last & 15), Carriage(s.last >> 4)}
	}
	seen := look(payload, binary, index < youngMessages || index%everyMessages == 0 || s.score > 0, suspect)
	if seen.Signature == None {
		if s.score > 0 {
			s.score--
		}
		return Finding{}, false
	}
	if seen.strength == weak {
		s.weak(seen.Finding, index)
		return Finding{}, false
	}
	s.last = seen.packed()
	s.score += weight(&seen, binary, index)
	if s.score < enough {
		return Finding{}, false
	}
	s.score = found
	return seen.Finding, true
}

// Found reports whether Look has found a tunnel.
func (s *Socket) Found() bool { return s.score == found }

// weak takes a sighting that is evidence only with what follows it, and only
// where a tunnel begins.
func (s *Socket) weak(f Finding, index uint8) {
	switch {
	case index < earlyMessages:
		s.last, s.score = f.packed(), max(s.score, half)
	case s.score > 0:
		s.score--
	}
}

// weight is how much a sighting in a socket's message of that index counts for.
func weight(seen *sighting, binary bool, index uint8) uint8 {
	early := index < earlyMessages
	switch carried := seen.Carriage; {
	case seen.strength == step:
		return half
	case carried >= String:
		switch {
		case seen.strength == request:
			return quarter
		case seen.strength == banner && carried == String:
			return third
		}
		return half
	case seen.strength == structure && carried == Raw:
		return enough
	case seen.strength != request && early && (binary || carried != Raw):
		return enough
	case seen.strength != request:
		return half
	case binary && carried == Raw && index == 0: // a request
		return enough
	case binary && carried == Raw:
		return half
	}
	return quarter
}
