package wsnode

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// Subprotocol is the one that Gatehouse answers where the application has none
// of its own.
const Subprotocol = "gatehouse.v1"

// tokenPrefix begins the subprotocol that carries a token.
const tokenPrefix = "gatehouse.token."

// Route is what a path leads to.
type Route struct {
	Path          string        `yaml:"path" help:"the request path, compared byte for byte"`
	Audience      string        `yaml:"audience" help:"tokens must be issued for this audience"`
	Origins       []string      `yaml:"origins" help:"the Origins that browsers may come from, as scheme://host[:port]; none refuses all browsers"`
	MissingOrigin MissingOrigin `yaml:"missing_origin" help:"what becomes of a handshake without Origin, which browsers never send: refuse or allow"`
	Subprotocols  []string      `yaml:"subprotocols" help:"the application's own subprotocols, best first; gatehouse.v1 is always understood"`
	QueryToken    bool          `yaml:"query_token" help:"take a token from ?token= too, where it may end up in other people's logs; single-use tokens only"`
	RefuseByClose bool          `yaml:"refuse_by_close" help:"answer refused handshakes with 101 and a close frame, since browsers hide HTTP refusals from pages"`
	Messages      schema.Config `yaml:"messages" help:"the types of message, each with its JSON Schema"`
	Outgoing      Outgoing      `yaml:"outgoing" help:"the types of message that the application may send, where these are to be checked too"`
	Unchecked     bool          `yaml:"unchecked" help:"pass messages on without a schema; then no message types may be given"`
	Binary        bool          `yaml:"binary" help:"pass binary messages on; no schema sees them, so unchecked must be true"`
	Tunnels       TunnelPolicy  `yaml:"tunnels" help:"what a socket meets whose messages carry another protocol, such as SSH: close, throttle (to 4 KiB a second), or log"`
}

// MissingOrigin is a rule for handshakes without Origin.
type MissingOrigin string

const (
	// RefuseMissing is the default.
	RefuseMissing MissingOrigin = "refuse"
	// AllowMissing lets programs that are not browsers in.
	AllowMissing MissingOrigin = "allow"
)

// SetDefaults fills a route before its configuration is read.
func (r *Route) SetDefaults() {
	r.MissingOrigin, r.Messages, r.Outgoing, r.Tunnels = RefuseMissing, schema.Default(), defaultOutgoing(), CloseTunnels
}

var subprotocolName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func (r *Route) validate(name string) error {
	var problems []error
	bad := func(field, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s.%s: %s", name, field, fmt.Sprintf(format, args...)))
	}
	if !strings.HasPrefix(r.Path, "/") || strings.ContainsAny(r.Path, "?# \\") || len(r.Path) > 1024 {
		bad("path", "%q must begin with / and hold no query, fragment, space or backslash", r.Path)
	}
	if r.Audience == "" || len(r.Audience) > 128 {
		bad("audience", "required, 1 to 128 bytes")
	}
	for i, o := range r.Origins {
		if err := checkOrigin(o); err != nil {
			bad(fmt.Sprintf("origins[%d]", i), "%v", err)
		}
	}
	if r.MissingOrigin != RefuseMissing && r.MissingOrigin != AllowMissing {
		bad("missing_origin", "%q is neither refuse nor allow", string(r.MissingOrigin))
	}
	for i, p := range r.Subprotocols {
		switch {
		case !subprotocolName.MatchString(p):
			bad(fmt.Sprintf("subprotocols[%d]", i), "%q is not a token of RFC 9110 section 5.6.2", p)
		case strings.HasPrefix(p, tokenPrefix):
			bad(fmt.Sprintf("subprotocols[%d]", i), "%q carries tokens and is never answered", tokenPrefix)
		case schema.TunnelSubprotocol([]byte(p)):
			bad(fmt.Sprintf("subprotocols[%d]", i), "%q is a tunnel's, which no route passes", p)
		}
	}
	if !r.Tunnels.known() {
		bad("tunnels", "%q is none of close, throttle and log", string(r.Tunnels))
	}
	if r.Binary && !r.Unchecked {
		bad("binary", "true needs unchecked: true, since no schema can see into binary messages")
	}
	switch {
	case r.Unchecked && len(r.Messages.Types) > 0:
		bad("unchecked", "true contradicts messages.types: leave out one of them")
	case !r.Unchecked && len(r.Messages.Types) == 0:
		bad("messages.types", "required: give a schema for each message type, or say unchecked: true")
	case !r.Unchecked:
		problems = append(problems, within(name+".messages", r.Messages.Validate()))
	}
	if strconv.Quote(r.Messages.Discriminator) == nodeMember {
		bad("messages.discriminator", "%q is the node's own (docs/protocol.md): choose another one", r.Messages.Discriminator)
	}
	problems = append(problems, within(name+".outgoing", r.Outgoing.validate()))
	return errors.Join(problems...)
}

// checkOrigin wants an Origin as browsers write it (RFC 6454 section 6.2), so
// that comparing bytes is comparing Origins.
func checkOrigin(v string) error {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme+"://"+u.Host != v || u.Hostname() == "" || strings.ToLower(v) != v ||
		strings.HasSuffix(u.Hostname(), ".") || strings.HasSuffix(u.Host, ":") || strings.Contains(v, "*"):
		return fmt.Errorf("%q must be scheme://host[:port] in lower case, without path, wildcard or trailing dot, such as https://app.example.com", v)
	case strings.ContainsFunc(v, func(r rune) bool { return r > unicode.MaxASCII }):
		return fmt.Errorf("%q must be written as browsers send it: in ASCII, as https://xn--bcher-kva.example", v)
	case !plainPort(u.Port()):
		return fmt.Errorf("%q has a port that no browser sends: want 1 to 65535 without leading zero", v)
	case u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
		return fmt.Errorf("%q must leave out the port %s, which browsers do not send", v, u.Port())
	}
	return nil
}

// plainPort reports whether p is empty or a port as browsers write it.
func plainPort(p string) bool {
	n, err := strconv.ParseUint(p, 10, 16)
	return p == "" || err == nil && n > 0 && strconv.FormatUint(n, 10) == p
}

// route is a Route in use.
type route struct {
	Route
	checks   atomic.Pointer[schema.Set] // nil where unchecked; reloaded
	outgoing outgoing
	origins  atomic.Pointer[originRule] // reloaded
	rated    map[string]schema.Type     // with a rate of their own; nil where there are none
}

// originRule says which Origins may come. It is not changed.
type originRule struct {
	allowed []string
	missing MissingOrigin
}

func (r *Route) originRule() *originRule { return &originRule{r.Origins, r.MissingOrigin} }

// originReason decides about the Origin of a request; 0 lets it pass.
func (r *originRule) originReason(req *wsconn.Request) pb.Reason {
	if !req.HasOrigin {
		if r.missing == AllowMissing {
			return 0
		}
		return pb.Reason_REASON_ORIGIN_MISSING
	}
	for _, o := range r.allowed {
		if string(req.Origin) == o {
			return 0
		}
	}
	return pb.Reason_REASON_ORIGIN_REFUSED
}

// bearerToken finds the token of a bearer's Authorization, which may be empty.
// One space or more comes between (RFC 9110 section 11.4), and a tab counts as
// one: what others would take for a bearer must not pass as something else.
func bearerToken(authorization []byte) []byte {
	const scheme = "bearer"
	if len(authorization) <= len(scheme) || !bytes.EqualFold(authorization[:len(scheme)], []byte(scheme)) {
		return nil
	}
	rest := authorization[len(scheme):]
	if rest[0] != ' ' && rest[0] != '\t' {
		return nil // of a longer name
	}
	return bytes.TrimLeft(rest, " \t")
}

// namesToken reports whether a query parameter's name says token once its
// escapes are resolved.
func namesToken(name []byte) bool {
	const want = "token"
	for i := range len(want) {
		if len(name) == 0 {
			return false
		}
		c, width := name[0], 1
		if c == '%' && len(name) > 2 {
			c, width = unhex(name[1])<<4|unhex(name[2]), 3
		}
		if c != want[i] {
			return false
		}
		name = name[width:]
	}
	return len(name) == 0
}

// unhex is the value of a hexadecimal digit. What is none gives no letter of
// token in either half.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0
}

// carriers finds the one token of a request, in its one carrier: a view into
// the request, and whether that was the URL. chosen is the subprotocol that will
// be answered. A reason other than 0 refuses. An Authorization of any kind is a
// carrier of its own beside another.
func (r *route) carriers(req *wsconn.Request, chosen string) (text []byte, inURL bool, reason pb.Reason) {
	tokens, offered := 0, false
	for p := range req.Subprotocols() {
		if rest, ok := bytes.CutPrefix(p, []byte(tokenPrefix)); ok {
			text = rest
			tokens++
			continue
		}
		offered = true
		if schema.TunnelSubprotocol(p) {
			return nil, false, pb.Reason_REASON_TUNNEL
		}
	}
	inSubprotocol := tokens > 0
	inQuery := 0
	for param := range bytes.SplitSeq(req.Query, []byte("&")) {
		if name, value, _ := bytes.Cut(param, []byte("=")); namesToken(name) {
			text = value
			inQuery++
		}
	}
	if tokens+inQuery > 1 || tokens+inQuery == 1 && req.HasAuthorization {
		return nil, false, pb.Reason_REASON_TOKEN_REPEATED
	}
	if b := bearerToken(req.Authorization); len(b) > 0 {
		text = b
		tokens++
	}
	switch {
	case inQuery > 0 && !r.QueryToken:
		return nil, false, pb.Reason_REASON_TOKEN_CARRIER
	case tokens+inQuery == 0 && req.HasCookie && len(req.Authorization) == 0:
		return nil, false, pb.Reason_REASON_COOKIE_ONLY
	case tokens+inQuery == 0:
		return nil, false, pb.Reason_REASON_TOKEN_MISSING
	}
	if chosen == "" && (inSubprotocol || offered) {
		return nil, false, pb.Reason_REASON_SUBPROTOCOL // a browser would fail the connection
	}
	return text, inQuery > 0, 0
}

// choose is the best subprotocol that was offered.
func (r *route) choose(req *wsconn.Request) string {
	offers := func(name string) bool {
		for p := range req.Subprotocols() {
			if string(p) == name {
				return true
			}
		}
		return false
	}
	if i := slices.IndexFunc(r.Subprotocols, offers); i >= 0 {
		return r.Subprotocols[i]
	}
	if offers(Subprotocol) {
		return Subprotocol
	}
	return ""
}
