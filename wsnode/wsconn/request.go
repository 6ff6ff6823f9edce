package wsconn

import (
	"bytes"
	"encoding/base64"
	"iter"
	"math"
	"sync"
)

// maxHeadBytes is what the offsets of a field can reach.
const maxHeadBytes = math.MaxUint16

// maxSubprotocols bounds the list that is searched for repetitions.
const maxSubprotocols = 32

// strictBase64 refuses spare bits, so that a key has one spelling.
var strictBase64 = base64.StdEncoding.Strict()

// Request is a whole, valid opening handshake. All its slices are views into
// what arrived: they and the Request are borrowed until Sink.Opening returns.
type Request struct {
	Path  []byte // as it was sent, escapes and dot segments included
	Query []byte // what follows the first '?'
	Host  []byte // never empty

	Origin        []byte
	UserAgent     []byte
	Authorization []byte

	HasOrigin        bool // an empty Origin is one
	HasAuthorization bool
	HasCookie        bool // the cookie itself is not to be had

	head   []byte
	fields []field
	first  [protocolField + 1]int16 // where in fields the first of a kind is, plus one
	key    [18]byte                 // the decoded key: 16 bytes, as many as the decoder may write

	started  bool // the request line is parsed
	line     int  // where the first line begins that is not parsed
	scanned  int  // how far that line was looked at
	target   span
	upgrades bool // Upgrade lists websocket
	connects bool // Connection lists upgrade
}

type span struct{ from, to uint16 }

type field struct {
	name, value span
	kind        fieldKind
}

func (r *Request) at(s span) []byte { return r.head[s.from:s.to:s.to] }

var requests = sync.Pool{New: func() any { return new(Request) }}

// release gives r back and breaks the views of whoever kept it.
func (r *Request) release() {
	if r == nil {
		return
	}
	*r = Request{fields: r.fields[:0]}
	requests.Put(r)
}

// Header gives the value of the first field of this name, in any case. The
// Cookie field is not to be had.
func (r *Request) Header(name string) (value []byte, ok bool) {
	for n, v := range r.Fields() {
		if sameName(n, name) {
			return v, true
		}
	}
	return nil, false
}

// Fields gives all header fields in the order they were sent, without Cookie.
// Fields may repeat, and their values hold tokens: see who logs them.
func (r *Request) Fields() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := range r.fields {
			f := &r.fields[i]
			if f.kind != cookieField && !yield(r.at(f.name), r.at(f.value)) {
				return
			}
		}
	}
}

// Subprotocols gives the offered subprotocols in the order of the client's
// preference (§4.1): unique tokens.
func (r *Request) Subprotocols() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range r.fields {
			if r.fields[i].kind != protocolField {
				continue
			}
			for rest := r.at(r.fields[i].value); len(rest) > 0; {
				var e []byte
				if e, rest = nextElement(rest); len(e) > 0 && !yield(e) {
					return
				}
			}
		}
	}
}

func sameName(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// parse goes on reading the head, which has grown since the last call and may
// have moved. It returns the head's length once it is whole, and zero before.
//
// Each line is judged when its last byte is there, and control characters as
// they come, so that the same bytes give the same error however they are cut
// and none is looked at twice.
func (r *Request) parse(head []byte, l *Limits) (int, error) {
	window := head[:min(len(head), l.HeadBytes)]
	r.head = window
	for {
		fresh := window[r.scanned:]
		i := bytes.IndexByte(fresh, '\n')
		if i < 0 {
			if n := len(fresh); n > 0 && fresh[n-1] == '\r' { // its LF may follow
				fresh = fresh[:n-1]
			}
			if !clean(fresh) {
				return 0, ErrControlCharacter
			}
			if len(window) >= l.HeadBytes {
				return 0, ErrHeadTooLarge
			}
			r.scanned += len(fresh)
			return 0, nil
		}
		end := r.scanned + i
		crlf := end > r.line && window[end-1] == '\r'
		if crlf {
			fresh = fresh[:max(i-1, 0)]
		} else {
			fresh = fresh[:i]
		}
		if !clean(fresh) {
			return 0, ErrControlCharacter
		}
		if !crlf {
			return 0, ErrLineEnd
		}
		if done, err := r.parseLine(window[r.line:end-1], l); err != nil {
			return 0, err
		} else if done {
			return end + 1, r.finish()
		}
		r.line, r.scanned = end+1, end+1
	}
}

// parseLine reads a line without its CR LF. done is true at the empty line
// that ends the head.
func (r *Request) parseLine(line []byte, l *Limits) (done bool, err error) {
	switch {
	case !r.started:
		r.started = true
		return false, r.parseRequestLine(line)
	case len(line) == 0:
		return true, nil
	case len(r.fields) >= l.HeadFields:
		return false, ErrTooManyFields
	}
	return false, r.parseField(line)
}

// parseRequestLine takes "GET target HTTP/1.1" (RFC 9112 §3). An empty line
// before it is refused: no client of WebSockets sends one.
func (r *Request) parseRequestLine(line []byte) error {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || !isToken(method) {
		return ErrRequestLine
	}
	target, version, ok := bytes.Cut(rest, []byte(" "))
	if !ok || !isHTTPVersion(version) {
		return ErrRequestLine
	}
	switch {
	case string(version) != "HTTP/1.1":
		return ErrHTTPVersion
	case string(method) == "HEAD":
		return ErrHead
	case string(method) != "GET":
		return ErrMethod
	case !validTarget(target):
		return ErrTarget
	}
	from := len(method) + 1 // the request line begins the head
	r.target = span{uint16(from), uint16(from + len(target))}
	return nil
}

// isHTTPVersion reports whether v has the form of RFC 9112 §2.3.
func isHTTPVersion(v []byte) bool {
	return len(v) == 8 && string(v[:5]) == "HTTP/" && digitChars.has(v[5]) && v[6] == '.' && digitChars.has(v[7])
}

// parseField takes "name: value" (RFC 9112 §5). A folded line and a space
// before the colon fail, since no token has a space.
func (r *Request) parseField(line []byte) error {
	colon := 0
	for colon < len(line) && tokenChars.has(line[colon]) {
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return ErrFieldName
	}
	from, to := colon+1, len(line)
	for from < to && isSpace(line[from]) {
		from++
	}
	for from < to && isSpace(line[to-1]) {
		to--
	}
	name, value := line[:colon], line[from:to]
	f := field{
		name:  span{uint16(r.line), uint16(r.line + colon)},
		value: span{uint16(r.line + from), uint16(r.line + to)},
		kind:  kindOf(name),
	}
	r.fields = append(r.fields, f)
	if f.kind == otherField {
		return nil
	}
	if r.first[f.kind] == 0 {
		r.first[f.kind] = int16(len(r.fields))
	} else if f.kind.singleton() {
		return ErrDuplicateField
	}
	return r.checkField(f.kind, value)
}

// checkField judges what one field can be judged by alone.
func (r *Request) checkField(kind fieldKind, value []byte) error {
	switch kind {
	case hostField:
		if !validHost(value) {
			return ErrHost
		}
	case contentLengthField:
		if string(value) != "0" {
			return ErrBody
		}
	case transferEncodingField:
		return ErrBody
	case connectionField:
		found, ok := lists(value, "upgrade", &tokenChars)
		if !ok {
			return ErrNoUpgrade
		}
		r.connects = r.connects || found
	case upgradeField:
		found, ok := lists(value, "websocket", &protocolChars)
		if !ok {
			return ErrNoUpgrade
		}
		r.upgrades = r.upgrades || found
	}
	return nil
}

// finish judges the head as a whole (§4.2.1) and fills in the views.
func (r *Request) finish() error {
	host, ok := r.firstOf(hostField)
	if !ok {
		return ErrHost
	}
	if !r.upgrades || !r.connects {
		return ErrNoUpgrade
	}
	// A client of another version may send another kind of key, or none.
	if version, _ := r.firstOf(versionField); string(version) != "13" {
		return ErrVersion
	}
	if key, _ := r.firstOf(keyField); len(key) != 24 {
		return ErrKey
	} else if n, err := strictBase64.Decode(r.key[:], key); err != nil || n != 16 {
		return ErrKey
	}
	if !r.validSubprotocols() {
		return ErrSubprotocols
	}
	r.Host = host
	target := r.at(r.target)
	r.Path, r.Query, _ = bytes.Cut(target, []byte("?"))
	r.Origin, r.HasOrigin = r.firstOf(originField)
	r.UserAgent, _ = r.firstOf(userAgentField)
	r.Authorization, r.HasAuthorization = r.firstOf(authorizationField)
	_, r.HasCookie = r.firstOf(cookieField)
	return nil
}

func (r *Request) firstOf(k fieldKind) (value []byte, ok bool) {
	i := r.first[k]
	if i == 0 {
		return nil, false
	}
	return r.at(r.fields[i-1].value), true
}

// validSubprotocols checks all Sec-WebSocket-Protocol fields as one list
// (§11.3.4).
func (r *Request) validSubprotocols() bool {
	if r.first[protocolField] == 0 {
		return true
	}
	var seen [maxSubprotocols][]byte
	n := 0
	for e := range r.Subprotocols() {
		if n == len(seen) || !isToken(e) {
			return false
		}
		for _, s := range seen[:n] {
			if bytes.Equal(s, e) {
				return false
			}
		}
		seen[n] = e
		n++
	}
	return n > 0
}
