package authority

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/token"
)

// scripted is a stream on which a node says what a test has written for it.
type scripted[Req, Resp any] struct {
	grpc.ServerStream
	ctx  context.Context
	said []*Req
	mu   sync.Mutex
	sent []*Resp
}

func (s *scripted[Req, Resp]) Context() context.Context { return s.ctx }

func (s *scripted[Req, Resp]) Recv() (*Req, error) {
	if len(s.said) == 0 {
		return nil, io.EOF
	}
	m := s.said[0]
	s.said = s.said[1:]
	return m, nil
}

func (s *scripted[Req, Resp]) Send(m *Resp) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, m)
	return nil
}

// SendMsg takes what goes to many streams.
func (s *scripted[Req, Resp]) SendMsg(m any) error {
	return s.Send(any(m.(*forMany).AttachResponse).(*Resp))
}

// fuzzed is a service that hostile nodes talk to without a network, with one
// issued token.
type fuzzed struct {
	*Service
	log    *bytes.Buffer
	caller *caller
	text   string
}

func newFuzzed(f testing.TB) *fuzzed {
	f.Helper()
	log := &bytes.Buffer{}
	audit := NewAudit(io.Discard)
	f.Cleanup(func() { _ = audit.Close() })
	now := func() time.Time { return testStart }
	ca, err := pki.Create(filepath.Join(f.TempDir(), "ca"), now, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(context.Background(), DefaultConfig(), Parts{
		Store: memstore.New(), CA: ca, Audit: audit, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError})),
		Metrics: prometheus.NewRegistry(), Now: now, Random: rand.Reader,
	})
	if err != nil {
		f.Fatal(err)
	}
	z := &fuzzed{Service: s, log: log}
	z.caller = &caller{Credential: &storage.Credential{Name: "login", Role: storage.Issuer}}
	resp, err := s.IssueToken(z.context(), &pb.IssueTokenRequest{Subject: "ada", Audience: "chat", MaxUses: 100, Origin: "https://app.example.com"})
	if err != nil {
		f.Fatal(err)
	}
	z.text = resp.GetToken()
	z.caller = &caller{Credential: &storage.Credential{Name: "node-1", Role: storage.Node}}
	return z
}

func (z *fuzzed) context() context.Context {
	return context.WithValue(context.Background(), callKey{}, &call{caller: z.caller})
}

func marshalled(f testing.TB, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// check fails if an error is the authority's own, or anything panicked.
func (z *fuzzed) check(t *testing.T, err error) {
	t.Helper()
	if z.log.Len() > 0 {
		t.Fatal(z.log.String())
	}
	if err != nil && verdictOf(err).reason == pb.Reason_REASON_INTERNAL {
		t.Fatalf("a node can cause %v", err)
	}
}

// FuzzRedeem lets a hostile node send any bytes as a batch: it gets results or
// ends its stream, and neither panics nor breaks the authority.
func FuzzRedeem(f *testing.F) {
	z := newFuzzed(f)
	var tok token.Token
	if err := token.Parse([]byte(z.text), &tok); err != nil {
		f.Fatal(err)
	}
	digest := tok.Secret.Digest()
	good := func() *pb.RedeemItem {
		return &pb.RedeemItem{
			TokenId: tok.ID[:], Digest: digest[:], SessionId: bytes.Repeat([]byte{7}, 16), Audience: "chat",
			Observed: &pb.Observation{Ip: []byte{192, 0, 2, 7}, Origin: []byte("https://app.example.com")},
		}
	}
	f.Add(marshalled(f, &pb.RedeemRequest{Items: []*pb.RedeemItem{good(), good()}}))
	f.Add(marshalled(f, &pb.RedeemRequest{Items: []*pb.RedeemItem{{}}}))
	f.Add(marshalled(f, &pb.RedeemRequest{Hello: &pb.RedeemHello{}}))
	for _, edit := range []func(*pb.RedeemItem){
		func(it *pb.RedeemItem) { it.Observed.Origin = bytes.Repeat([]byte{0xff}, 512) },
		func(it *pb.RedeemItem) { it.Observed.UserAgent = bytes.Repeat([]byte("gh1_"), 128) },
		func(it *pb.RedeemItem) { it.Observed.Ip = make([]byte, 16) },
		func(it *pb.RedeemItem) { it.TokenId = bytes.Repeat([]byte{0xff}, 16) },
		func(it *pb.RedeemItem) { it.Observed = nil },
	} {
		it := good()
		edit(it)
		f.Add(marshalled(f, &pb.RedeemRequest{Items: []*pb.RedeemItem{it}}))
	}
	instance := storage.InstanceID{1}
	inst := storage.Instance{ID: instance, Node: "node-1"}
	if err := z.store.PutInstance(context.Background(), &inst); err != nil {
		f.Fatal(err)
	}
	z.fleet.attach(inst, time.Hour, testStart)
	hello := &pb.RedeemRequest{Hello: &pb.RedeemHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: instance[:]}}
	f.Fuzz(func(t *testing.T, b []byte) {
		var req pb.RedeemRequest
		if proto.Unmarshal(b, &req) != nil {
			return
		}
		stream := &scripted[pb.RedeemRequest, pb.RedeemResponse]{ctx: z.context(), said: []*pb.RedeemRequest{hello, &req}}
		err := z.Redeem(stream)
		z.check(t, err)
		if err == nil && len(stream.sent[1].GetResults()) != len(req.GetItems()) {
			t.Fatalf("%d results for %d items", len(stream.sent[1].GetResults()), len(req.GetItems()))
		}
		for _, resp := range stream.sent {
			if _, err := proto.Marshal(resp); err != nil {
				t.Fatalf("a response that cannot be sent: %v", err)
			}
		}
	})
}

// FuzzAttach lets a hostile node say any three things on a stream.
func FuzzAttach(f *testing.F) {
	z := newFuzzed(f)
	if _, err := z.appendEntry(z.context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "t"}, Actor: "a"}); err != nil {
		f.Fatal(err)
	}
	head, _ := z.store.Head()
	at := func(sequence uint64) *pb.Revision { return &pb.Revision{Epoch: head.Epoch, Sequence: sequence} }
	hello := marshalled(f, &pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: &pb.AttachHello{
		Hello: &pb.Hello{Version: pb.Version}, InstanceId: bytes.Repeat([]byte{3}, 16), Applied: at(1), DeadInstanceIds: [][]byte{bytes.Repeat([]byte{4}, 16)},
	}}})
	ack := func(sequence uint64, enforced ...*pb.Enforced) []byte {
		return marshalled(f, &pb.AttachRequest{Message: &pb.AttachRequest_Acknowledgement{Acknowledgement: &pb.Acknowledgement{Through: at(sequence), Enforced: enforced}}})
	}
	beat := marshalled(f, &pb.AttachRequest{Message: &pb.AttachRequest_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: 1, Applied: at(1), Sessions: 1 << 31}}})
	bye := marshalled(f, &pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}})
	f.Add(hello, beat, bye)
	f.Add(hello, ack(1, &pb.Enforced{Sequence: 1, Closed: 1 << 31, Lingering: 1 << 31}), beat)
	f.Add(hello, ack(1<<63, &pb.Enforced{Sequence: 1<<64 - 1}), hello)
	f.Add(hello, ack(0), ack(1<<64-1))
	f.Add(beat, hello, bye)
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, first, second, third []byte) {
		var said []*pb.AttachRequest
		for _, b := range [][]byte{first, second, third} {
			m := &pb.AttachRequest{}
			if proto.Unmarshal(b, m) != nil {
				return
			}
			said = append(said, m)
		}
		stream := &scripted[pb.AttachRequest, pb.AttachResponse]{ctx: z.context(), said: said}
		z.check(t, z.Attach(stream))
		if n := len(z.fleet.snapshot()); n > maxInstances {
			t.Fatalf("%d instances", n)
		}
		for _, i := range z.fleet.snapshot() {
			if err := z.removeInstance(i.Instance, func() bool { return true }, self, "test"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzParse lets callers send any text where requests are read: what is taken
// has the one form that the rest relies on.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "192.0.2.7", "::ffff:192.0.2.7", "192.0.2.0/24", "::ffff:192.0.2.0/120", "0.0.0.0/0", "::/0", "::ffff:0:0/96", "fe80::1%eth0", "2001:db8::/32",
		"https://app.example.com", "https://app.example.com:443", "https://[::1]:8443", "https://a@b", "null", "https://app.example.com.", "https://bücher.example",
		"00112233445566778899aabbccddeeff", strings.Repeat("0", 32), strings.Repeat("0", 26), "AAAAAAAAAAE", "gh1_AAAA", "GH1_", "a\x00b", "a\u009bb", "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := prefix("f", s); err == nil {
			if p != p.Masked() || p.Bits() == 0 || p.Addr().Is4In6() || p.Addr().Zone() != "" || p != storage.CanonicalPrefix(p) {
				t.Errorf("prefix %q is %v", s, p)
			}
		}
		if a, err := addr("f", s); err == nil && (a.Is4In6() || a.Zone() != "" || a != netip.MustParseAddr(a.String())) {
			t.Errorf("address %q is %v", s, a)
		}
		if origin("f", s) == nil {
			u, err := url.Parse(s)
			if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || strings.ToLower(s) != s ||
				strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > unicode.MaxASCII }) {
				t.Errorf("origin %q", s)
			}
		}
		if text("f", s, 1, 64) == nil && (s == "" || len(s) > 64 || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || !bytes.Equal(token.Scrub([]byte(s)), []byte(s))) {
			t.Errorf("text %q", s)
		}
		if id, err := id16("f", s); err == nil && (id == [16]byte{} || len(s) != 32) {
			t.Errorf("id %q is %x", s, id)
		}
		for _, size := range []int{8, 16, 24} {
			if b, err := parsePageToken(s, size); err == nil && s != "" && (pageToken(b) != s || len(b) != size) {
				t.Errorf("page token %q is %x", s, b)
			}
		}
		if b, err := parsePageToken(base64.RawURLEncoding.EncodeToString([]byte(s)), len(s)); err != nil || !bytes.Equal(b, []byte(s)) {
			t.Errorf("a cursor %x came back as %x, %v", s, b, err)
		}
		if got := observed([]byte(s)); len(got) > len(s) {
			t.Errorf("%q grew to %q", s, got)
		}
		c := &caller{Credential: &storage.Credential{Name: "admin", Role: storage.Admin}}
		for _, in := range []*pb.Selector{
			{By: &pb.Selector_TokenId{TokenId: s}}, {By: &pb.Selector_SessionId{SessionId: s}}, {By: &pb.Selector_Tenant{Tenant: s}},
			{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: s, Subject: s}}}, {By: &pb.Selector_IpPrefix{IpPrefix: s}}, {By: &pb.Selector_Issuer{Issuer: s}},
		} {
			sel, _, err := selector(in, c)
			if err != nil {
				continue
			}
			if sel == (storage.Selector{}) {
				t.Errorf("%v selects everything", in)
			}
			if back, _, err := selector(selectorOf(&sel), c); err != nil || back != sel {
				t.Errorf("%v became %+v, then %+v", in, sel, back)
			}
		}
	})
}
