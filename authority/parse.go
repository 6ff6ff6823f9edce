package authority

import (
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// Bounds of request fields, in bytes where they are lengths.
const (
	maxSubject    = 256
	maxTenant     = 128
	maxAudience   = 128
	maxUserAgent  = 512
	maxOrigin     = 512
	maxAttributes = 32
	maxAttrName   = 64
	maxAttrBytes  = 4096
	maxScopes     = 64
	maxScope      = 128
	maxWhy        = 512
	maxBatch      = 256
	maxPage       = 1000
	defaultPage   = 100
	maxPageBytes  = 3 << 20 // of a page: callers take messages of at most 4 MiB
)

// DefaultTenant is the tenant of those who name none.
const DefaultTenant = "default"

// text checks a text field: its length, and that it is printable. Tokens don't
// belong in any.
func text(field, v string, low, high int) error {
	switch {
	case len(v) < low && v == "":
		return invalid(field, "required, 1 to %d bytes", high)
	case len(v) > high:
		return invalid(field, "%d bytes are above %d", len(v), high)
	case !utf8.ValidString(v):
		return invalid(field, "not UTF-8")
	case strings.ContainsFunc(v, unicode.IsControl):
		return invalid(field, "has control characters")
	case strings.Contains(v, "_") && strings.Contains(strings.ToLower(v), token.Prefix):
		return invalid(field, "holds a token's text, which must be kept nowhere")
	}
	return nil
}

// observed makes what a client has sent fit to be kept and shown: without
// tokens, and no longer for that. It returns b itself where there is none.
func observed(b []byte) []byte {
	s := token.Scrub(b)
	return s[:min(len(s), len(b))]
}

func optionalDuration(field string, d *durationpb.Duration, fallback time.Duration) (time.Duration, error) {
	if d == nil {
		return fallback, nil
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() <= 0 {
		return 0, invalid(field, "must be a duration above zero")
	}
	return d.AsDuration(), nil
}

func optionalTime(field string, t *timestamppb.Timestamp, fallback time.Time) (time.Time, error) {
	if t == nil {
		return fallback, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, invalid(field, "must be a time of the years 1 to 9999")
	}
	return t.AsTime(), nil
}

func tokenID(field, v string) (storage.TokenID, error) {
	id, err := token.ParseID(v)
	if err != nil {
		return storage.TokenID{}, invalid(field, "%v", err)
	}
	if id.IsZero() { // it would select nothing, or everything
		return storage.TokenID{}, invalid(field, "is all zeros")
	}
	return storage.TokenID(id), nil
}

// id16 reads a 16-byte id in hex.
func id16(field, v string) (id [16]byte, err error) {
	if n, err := hex.Decode(id[:], []byte(v[:min(len(v), 32)])); err != nil || n != 16 || len(v) != 32 {
		return id, invalid(field, "want 32 hexadecimal digits")
	}
	if id == ([16]byte{}) {
		return id, invalid(field, "is all zeros")
	}
	return id, nil
}

// bytes16 reads a 16-byte id as it comes from nodes.
func bytes16(field string, v []byte) (id [16]byte, err error) {
	if len(v) != 16 {
		return id, invalid(field, "%d bytes, want 16", len(v))
	}
	if id = [16]byte(v); id == ([16]byte{}) {
		return id, invalid(field, "is all zeros")
	}
	return id, nil
}

func addr(field, v string) (netip.Addr, error) {
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, invalid(field, "want an IPv4 or IPv6 address such as 203.0.113.7")
	}
	return a.Unmap(), nil
}

// prefix reads a CIDR prefix or a single address.
func prefix(field, v string) (netip.Prefix, error) {
	if !strings.Contains(v, "/") {
		a, err := addr(field, v)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(v)
	if err != nil {
		return netip.Prefix{}, invalid(field, "want a CIDR prefix such as 203.0.113.0/24 or 2001:db8::/32")
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, invalid(field, "write IPv4 prefixes as IPv4, such as 203.0.113.0/24")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p.Bits() == 0 {
		return netip.Prefix{}, invalid(field, "%s is every address: name smaller prefixes, a tenant or an issuer", v)
	}
	return p.Masked(), nil
}

// origin checks that v is an Origin as browsers write it (RFC 6454 section
// 6.2): scheme, host in ASCII and a port that is not the scheme's own.
func origin(field, v string) error {
	if err := text(field, v, 1, maxOrigin); err != nil {
		return err
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme+"://"+u.Host != v || u.Hostname() == "" || strings.ToLower(v) != v ||
		strings.HasSuffix(u.Hostname(), ".") || strings.Contains(v, "*") {
		return invalid(field, "want scheme://host[:port] in lower case, without path or trailing dot, such as https://app.example.com")
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return invalid(field, "write the host as browsers send it, as in https://xn--bcher-kva.example")
	}
	if u.Port() == "" && !strings.HasSuffix(u.Host, ":") {
		return nil
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != u.Port() {
		return invalid(field, "want a port of 1 to 65535")
	}
	if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
		return invalid(field, "leave out the port %s, which browsers do not send", u.Port())
	}
	return nil
}

func pageSize(n int32) (int, error) {
	switch {
	case n == 0:
		return defaultPage, nil
	case n < 0 || n > maxPage:
		return 0, invalid("page_size", "%d is outside 1 to %d", n, maxPage)
	}
	return int(n), nil
}

// Page tokens are a cursor's bytes, opaque to callers.
func pageToken(cursor []byte) string { return base64.RawURLEncoding.EncodeToString(cursor) }

func parsePageToken(v string, size int) ([]byte, error) {
	if v == "" {
		return make([]byte, size), nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(v)
	if err != nil || len(b) != size || pageToken(b) != v { // the decoder skips line breaks
		return nil, invalid("page_token", "is not a next_page_token of this method")
	}
	return b, nil
}

// parseNameToken is parsePageToken for a cursor that is a name.
func parseNameToken(v string, most int) (string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(v)
	if err != nil || len(b) > most || pageToken(b) != v {
		return "", invalid("page_token", "is not a next_page_token of this method")
	}
	return string(b), nil
}

// why checks a reason that people give.
func why(v string, required bool) error {
	low := 0
	if required {
		low = 1
	}
	return text("reason", v, low, maxWhy)
}

func requestID(v string) error {
	if v != "" && len(v) < 16 {
		return invalid("request_id", "%d bytes are below 16: draw 16 random ones, so that no two requests share it", len(v))
	}
	return text("request_id", v, 0, 64)
}

// selector reads what a revocation hits, and tells whether that may be many
// users' tokens.
func selector(in *pb.Selector, c *caller) (out storage.Selector, wide bool, err error) {
	switch by := in.GetBy().(type) {
	case *pb.Selector_TokenId:
		out.Token, err = tokenID("selector.token_id", by.TokenId)
	case *pb.Selector_SessionId:
		out.Session, err = id16("selector.session_id", by.SessionId)
	case *pb.Selector_Subject:
		out.Tenant, out.Subject, err = subject(by.Subject, c)
	case *pb.Selector_Tenant:
		out.Tenant, wide = by.Tenant, true
		err = tenant("selector.tenant", by.Tenant, c)
	case *pb.Selector_IpPrefix:
		wide = true
		out.Prefix, err = prefix("selector.ip_prefix", by.IpPrefix)
	case *pb.Selector_Issuer:
		out.Issuer, wide = by.Issuer, true
		err = text("selector.issuer", by.Issuer, 1, maxName)
	case *pb.Selector_AllSubjects:
		out.AllSubjects, wide = by.AllSubjects, true
		if !by.AllSubjects {
			err = invalid("selector.all_subjects", "false says nothing of what to hit")
		}
	default:
		err = invalid("selector", "required: one of token_id, session_id, subject, tenant, ip_prefix, issuer, all_subjects")
	}
	if err == nil && wide && out.Tenant == "" && c.Role == issuer {
		err = denied("an issuer may not revoke by address or issuer, nor all subjects, which reach beyond its tenants")
	}
	return out, wide, err
}

func lockSelector(in *pb.LockSelector, c *caller) (out storage.Selector, err error) {
	switch by := in.GetBy().(type) {
	case *pb.LockSelector_Subject:
		out.Tenant, out.Subject, err = subject(by.Subject, c)
		return out, err
	case *pb.LockSelector_Tenant:
		out.Tenant = by.Tenant
		err = tenant("selector.tenant", by.Tenant, c)
	case *pb.LockSelector_IpPrefix:
		out.Prefix, err = prefix("selector.ip_prefix", by.IpPrefix)
	case *pb.LockSelector_Issuer:
		out.Issuer = by.Issuer
		err = text("selector.issuer", by.Issuer, 1, maxName)
	default:
		err = invalid("selector", "required: one of subject, tenant, ip_prefix, issuer")
	}
	if err == nil && c.Role == issuer {
		err = denied("an issuer may lock subjects only")
	}
	return out, err
}

func subject(in *pb.Subject, c *caller) (tenantName, subjectName string, err error) {
	tenantName = in.GetTenant()
	if tenantName == "" {
		tenantName = DefaultTenant
		if t := c.onlyTenant(); t != "" {
			tenantName = t
		}
	}
	if err := tenant("selector.subject.tenant", tenantName, c); err != nil {
		return "", "", err
	}
	return tenantName, in.GetSubject(), text("selector.subject.subject", in.GetSubject(), 1, maxSubject)
}

func tenant(field, v string, c *caller) error {
	if err := text(field, v, 1, maxTenant); err != nil {
		return err
	}
	if !c.mayTenant(v) {
		return denied("%s: credential %s may not act in tenant %q, only in %q", field, c.Name, v, c.Tenants)
	}
	return nil
}
