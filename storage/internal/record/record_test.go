package record

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/gatehouse-ws/gatehouse/proto/gatehouse/storage/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

var testTime = time.Date(2026, 11, 23, 12, 0, 0, 7e6, time.UTC)

func testToken() *storage.Token {
	return &storage.Token{
		ID:               storage.TokenID{1, 2, 3},
		SecretHash:       [32]byte{4, 5, 6},
		Tenant:           "acme",
		Subject:          "ada",
		Audience:         "chat",
		ClientIP:         netip.MustParseAddr("192.0.2.7"),
		IPBinding:        storage.IPStrict,
		UserAgent:        []byte("Mozilla/5.0 \xff"),
		Browser:          "Firefox",
		OS:               "Linux",
		UserAgentBinding: storage.UserAgentClass,
		Origin:           "https://app.example.com",
		Attributes:       map[string]string{"b": "2", "a": "", "c": "3"},
		Scopes:           []string{"chat.send", "", "chat.read"},
		Limits:           storage.SessionLimits{MessageBytes: 1, MessagesPerSecond: 2, SessionsPerSubject: 3},
		MaxUses:          4,
		IssuedAt:         testTime,
		NotBefore:        testTime.Add(time.Second),
		SessionTTL:       time.Hour,
		Issuer:           "login",
		Certificate:      "\x00\xff",
		IssuedRevision:   storage.Revision{Epoch: 1<<64 - 1, Sequence: 9},
	}
}

func encodeToken(t *storage.Token) []byte {
	return AppendIssued(AppendToken(nil, t), t.IssuedRevision)
}

func testSession() *storage.Session {
	return &storage.Session{
		ID:             storage.SessionID{7, 8},
		Token:          storage.TokenID{1, 2, 3},
		Tenant:         "acme",
		Subject:        "ada",
		Audience:       "chat",
		Issuer:         "login",
		TokenIP:        netip.MustParseAddr("2001:db8::1"),
		IssuedRevision: storage.Revision{Epoch: 5, Sequence: 6},
		Node:           "node-1",
		Instance:       storage.InstanceID{9},
		ClientIP:       netip.MustParseAddr("::ffff:192.0.2.7"),
		UserAgent:      []byte("curl"),
		Origin:         []byte("null"),
		Certificate:    []byte("\xff\x00"),
		StartedAt:      testTime,
		ExpiresAt:      testTime.Add(time.Hour),
		AsOf:           storage.Revision{Epoch: 5, Sequence: 1<<64 - 1},
	}
}

func encodeSessions(sessions ...storage.Session) []byte {
	return AppendAsOf(AppendSessions(nil, sessions), sessions[0].AsOf)
}

func decodeSessions(b []byte) (out []storage.Session, err error) {
	err = Sessions(b, func(s *storage.Session) bool {
		out = append(out, *s)
		return true
	})
	return out, err
}

// encodeSession writes a session as stores of format 1 did.
func encodeSession(s *storage.Session) []byte {
	b, err := marshal(&storagev1.Session{
		TokenId: s.Token[:], Tenant: s.Tenant, Subject: s.Subject, Audience: s.Audience, Issuer: s.Issuer,
		TokenIp: s.TokenIP.AsSlice(), IssuedEpoch: s.IssuedRevision.Epoch, IssuedSequence: s.IssuedRevision.Sequence,
		Node: s.Node, InstanceId: s.Instance[:], ClientIp: s.ClientIP.AsSlice(), UserAgent: s.UserAgent, Origin: s.Origin, ClientCertificate: s.Certificate,
		StartedAt: millis(s.StartedAt), ExpiresAt: millis(s.ExpiresAt), AsOfEpoch: s.AsOf.Epoch, AsOfSequence: s.AsOf.Sequence,
	})
	if err != nil {
		panic(err)
	}
	return b
}

func TestTokenRoundTrip(t *testing.T) {
	for name, want := range map[string]*storage.Token{"full": testToken(), "empty": {}} {
		var got storage.Token
		if err := Token(want.ID, encodeToken(want), &got); err != nil {
			t.Fatal(name, err)
		}
		if len(got.UserAgent) == 0 {
			got.UserAgent = nil
		}
		if !reflect.DeepEqual(&got, want) {
			t.Fatalf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

func TestTokensShareNothingTheyShouldNot(t *testing.T) {
	a, b := testToken(), testToken()
	b.ID[0], b.UserAgent, b.Subject = 99, []byte("other"), "bob"
	ids := []storage.TokenID{a.ID, {}, b.ID}
	records := [][]byte{encodeToken(a), nil, encodeToken(b)}
	out := make([]*storage.Token, 3)
	if err := Tokens(ids, records, out); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		clear(r)
	}
	if !reflect.DeepEqual(out[0], a) || out[1] != nil || !reflect.DeepEqual(out[2], b) {
		t.Fatalf("got %+v", out)
	}
	_ = append(out[0].UserAgent, "overflow"...)
	if string(out[2].UserAgent) != "other" {
		t.Fatal("one token's User-Agent runs into the next")
	}
}

func TestSessionRoundTrip(t *testing.T) {
	for name, want := range map[string]*storage.Session{"full": testSession(), "empty": {}} {
		got, err := Session(want.ID, encodeSession(want))
		if err != nil {
			t.Fatal(name, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

// Sessions that differ in one thing from the one before, to and from nothing,
// come back as they were.
func TestSessionsRoundTrip(t *testing.T) {
	base := *testSession()
	want := []storage.Session{base}
	for i, edit := range []func(s *storage.Session){
		func(s *storage.Session) { s.Token[0]++ },
		func(s *storage.Session) { s.Tenant = "" },
		func(s *storage.Session) { s.Subject = "bob" },
		func(s *storage.Session) { s.Audience = "" },
		func(s *storage.Session) { s.Issuer = "other" },
		func(s *storage.Session) { s.TokenIP = netip.Addr{} },
		func(s *storage.Session) { s.IssuedRevision = storage.Revision{} },
		func(s *storage.Session) { s.Node = "" },
		func(s *storage.Session) { s.Instance = storage.InstanceID{} },
		func(s *storage.Session) { s.ClientIP = netip.Addr{} },
		func(s *storage.Session) { s.UserAgent = []byte{} },
		func(s *storage.Session) { s.UserAgent = bytes.Repeat([]byte{0xff}, 20_000) }, // of a length that takes three bytes
		func(s *storage.Session) { s.UserAgent = base.UserAgent },
		func(s *storage.Session) { s.UserAgent = []byte{} },
		func(s *storage.Session) { s.Origin = []byte{} },
		func(s *storage.Session) { s.Certificate = []byte{} },
		func(s *storage.Session) { s.StartedAt = time.Time{} },
		func(s *storage.Session) { s.ExpiresAt = time.Time{} },
		func(s *storage.Session) { s.Tenant, s.Node, s.TokenIP = "acme", "node-1", base.TokenIP },
		func(s *storage.Session) { s.Certificate = base.Certificate },
	} {
		next := want[i]
		next.ID[15]++
		edit(&next)
		want = append(want, next)
	}
	b := encodeSessions(want...)
	got, err := decodeSessions(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d sessions, want %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("session %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
	clear(b)
	if got[0].Subject != "ada" || string(got[0].Origin) != "null" {
		t.Error("sessions alias the record")
	}
	if n := bytes.Count(encodeSessions(want...), base.UserAgent); n != 1 {
		t.Errorf("the User-Agent is written %d times", n)
	}
}

// What is encoded by hand is what the generated code encodes, to the byte.
func TestHandMatchesGenerated(t *testing.T) {
	x, s := testToken(), testSession()
	other := *s
	other.ID, other.UserAgent = storage.SessionID{1}, []byte("wget")
	for name, c := range map[string]struct {
		hand []byte
		msg  proto.Message
	}{
		"token": {encodeToken(x), &storagev1.Token{
			SecretHash: x.SecretHash[:], Tenant: x.Tenant, Subject: x.Subject, Audience: x.Audience,
			ClientIp: x.ClientIP.AsSlice(), UserAgent: x.UserAgent, Browser: x.Browser, Os: x.OS, Origin: x.Origin,
			IpBinding: uint32(x.IPBinding), UserAgentBinding: uint32(x.UserAgentBinding),
			Attributes: []string{"a", "", "b", "2", "c", "3"}, Scopes: x.Scopes,
			MessageBytes: 1, MessagesPerSecond: 2, SessionsPerSubject: 3, MaxUses: 4,
			IssuedAt: x.IssuedAt.UnixMilli(), NotBefore: x.NotBefore.UnixMilli(), SessionTtl: x.SessionTTL.Milliseconds(),
			Issuer: x.Issuer, ClientCertificate: []byte(x.Certificate),
		}},
		"sessions": {encodeSessions(*s, other, *s), &storagev1.Sessions{
			Sessions: []*storagev1.Session{
				{
					TokenId: s.Token[:], Tenant: s.Tenant, Subject: s.Subject, Audience: s.Audience, Issuer: s.Issuer,
					TokenIp: s.TokenIP.AsSlice(), IssuedEpoch: 5, IssuedSequence: 6, Node: s.Node, InstanceId: s.Instance[:],
					ClientIp: s.ClientIP.AsSlice(), UserAgent: s.UserAgent, Origin: s.Origin, ClientCertificate: s.Certificate,
					StartedAt: s.StartedAt.UnixMilli(), ExpiresAt: s.ExpiresAt.UnixMilli(), SessionId: s.ID[:],
				},
				{TokenId: s.Token[:], UserAgent: other.UserAgent, SessionId: other.ID[:]},
				{TokenId: s.Token[:], UserAgentOf: 1, SessionId: s.ID[:]},
			},
			AsOfEpoch: 5, AsOfSequence: 1<<64 - 1,
		}},
		"redemptions": {AppendRedemptions(nil, []Redemption{{Token: x.ID, Session: s.ID, Observation: 77, Minute: 9}, {}}), &storagev1.Redemptions{
			Redemptions: []*storagev1.Redemption{
				{TokenId: x.ID[:], SessionId: s.ID[:], Observation: 77},
				{TokenId: make([]byte, 16), SessionId: make([]byte, 16)},
			},
		}},
		"ended": {AppendEnded(nil, []Ended{{storage.SessionKey{ExpiresAt: testTime, ID: s.ID}, x.ID}}), &storagev1.EndedSessions{
			Sessions: []*storagev1.Ended{{ExpiresAt: testTime.UnixMilli(), SessionId: s.ID[:], TokenId: x.ID[:]}},
		}},
	} {
		want, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{version}, c.msg)
		if err != nil {
			t.Fatal(err)
		}
		if name == "token" { // what only the commit knows comes last
			issued := &storagev1.Token{IssuedEpoch: x.IssuedRevision.Epoch, IssuedSequence: x.IssuedRevision.Sequence}
			if want, err = (proto.MarshalOptions{}).MarshalAppend(want, issued); err != nil {
				t.Fatal(err)
			}
		}
		if name == "redemptions" { // a use always has its observation, be it zero
			want = append(want[:len(want):len(want)], 0x19, 0, 0, 0, 0, 0, 0, 0, 0)
			want[len(want)-46] += 9
		}
		if !bytes.Equal(c.hand, want) {
			t.Errorf("%s:\n got %x\nwant %x", name, c.hand, want)
		}
	}
}

func TestRestRoundTrips(t *testing.T) {
	id := storage.LockID{1}
	entry := storage.Entry{
		Revision: storage.Revision{Epoch: 3, Sequence: 4}, Kind: storage.LiftLock, Lock: id, Reason: "r", Actor: "a",
		CommittedAt: testTime, KeepUntil: testTime.Add(time.Hour), RequestID: "q", Grace: 30 * time.Second,
	}
	for _, sel := range []storage.Selector{
		{Token: storage.TokenID{1}}, {Session: storage.SessionID{2}}, {Tenant: "t", Subject: "s"}, {Tenant: "t"},
		{Prefix: netip.MustParsePrefix("192.0.2.1/24")}, {Prefix: netip.MustParsePrefix("2001:db8::/32")}, {Issuer: "i"}, {AllSubjects: true},
	} {
		want := entry
		want.Selector = sel
		b, err := EncodeEntry(&want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Entry(want.Revision, b); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
		}
		lock := storage.Lock{ID: id, Selector: sel, Reason: "r", Actor: "a", CommittedAt: testTime, Revision: want.Revision}
		if b, err = EncodeLock(&lock); err != nil {
			t.Fatal(err)
		}
		if got, err := Lock(3, id, b); err != nil || !reflect.DeepEqual(got, lock) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, lock)
		}
	}
}

func TestReceiptRoundTrips(t *testing.T) {
	progress := storage.Progress{Through: 1<<64 - 1, Pending: []uint64{1, 9, 1<<64 - 1}}
	b, err := EncodeProgress(&progress)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Progress(b); err != nil || !got.Equal(&progress) {
		t.Fatalf("progress %+v, %v", got, err)
	}
	for _, pending := range [][]uint64{{8}, {2, 1}, {2, 2}} {
		b, err := EncodeProgress(&storage.Progress{Through: 7, Pending: pending})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Progress(b); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("pending %d of 7: %v", pending, err)
		}
	}
	departed := storage.Departed{ID: storage.InstanceID{1}, Node: "node-1", Registered: 2, Head: 9, RemovedAt: testTime, Cause: "goodbye", Acknowledged: storage.Progress{Through: 7, Pending: []uint64{3}}}
	if b, err = EncodeDeparted(&departed); err != nil {
		t.Fatal(err)
	}
	if got, err := Departed(9, departed.ID, b); err != nil || !reflect.DeepEqual(got, departed) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, departed)
	}
	closed := storage.Closed{Sequence: 4, Closed: 1<<32 - 1, Lingering: 1, After: 1234 * time.Microsecond}
	if b, err = EncodeClosed(&closed); err != nil {
		t.Fatal(err)
	}
	if got, err := Closed(4, b); err != nil || got != closed {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, closed)
	}
	for _, b := range [][]byte{{version, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, {version, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 127}} {
		if _, err := Closed(4, b); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("a duration of %x: %v", b, err)
		}
	}
}

func TestUnknownVersionIsNewer(t *testing.T) {
	kinds := map[string]func([]byte) error{
		"token": func(b []byte) error { return Token(storage.TokenID{}, b, new(storage.Token)) },
		"session": func(b []byte) error {
			_, err := Session(storage.SessionID{}, b)
			return errors.Join(err, Sessions(b, func(*storage.Session) bool { return true }))
		},
		"redemption":        func(b []byte) error { return Redemptions(b, func(Redemption) {}) },
		"ended session":     func(b []byte) error { return EndedSessions(b, func(Ended) {}) },
		"log entry":         func(b []byte) error { _, err := Entry(storage.Revision{}, b); return err },
		"lock":              func(b []byte) error { _, err := Lock(1, storage.LockID{}, b); return err },
		"node instance":     func(b []byte) error { _, err := Instance(storage.InstanceID{}, b); return err },
		"acknowledgement":   func(b []byte) error { _, err := Progress(b); return err },
		"departed instance": func(b []byte) error { _, err := Departed(1, storage.InstanceID{}, b); return err },
		"count":             func(b []byte) error { _, err := Closed(1, b); return err },
		"credential":        func(b []byte) error { _, err := Credential("", b); return err },
		"edge key":          func(b []byte) error { _, err := EdgeKey(1, b); return err },
	}
	for kind, decode := range kinds {
		if err := decode([]byte{version + 1}); !errors.Is(err, storage.ErrNewer) || !bytes.Contains([]byte(err.Error()), []byte(kind)) {
			t.Errorf("%s of a newer version: %v", kind, err)
		}
		for name, b := range map[string][]byte{"empty": {}, "without version": {0}, "cut": {version, 0x0a, 9, 1}, "overlong": {version, 0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2}} {
			if err := decode(b); !errors.Is(err, storage.ErrCorrupt) || !bytes.Contains([]byte(err.Error()), []byte(kind)) {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
		}
	}
}

func TestTextThatIsNotUTF8IsRefused(t *testing.T) {
	if _, err := EncodeEntry(&storage.Entry{Reason: "\xff"}); err == nil {
		t.Error("an entry was encoded")
	}
	if _, err := EncodeCredential(&storage.Credential{Tenants: []string{"\xff"}}); err == nil {
		t.Error("a credential was encoded")
	}
}

func TestObservationTellsApart(t *testing.T) {
	sum := Observation(testSession())
	if Observation(testSession()) != sum {
		t.Fatal("the same observation has two sums")
	}
	for i, edit := range []func(*storage.Session){
		func(s *storage.Session) { s.Instance[15]++ },
		func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("192.0.2.7") },
		func(s *storage.Session) { s.ClientIP = netip.Addr{} },
		func(s *storage.Session) { s.UserAgent = []byte("curm") },
		func(s *storage.Session) { s.UserAgent = nil },
		func(s *storage.Session) { s.Origin = nil },
		func(s *storage.Session) { s.UserAgent, s.Origin = s.Origin, s.UserAgent },
		func(s *storage.Session) { s.Certificate = []byte("\xff\x01") },
		func(s *storage.Session) { s.Certificate = nil },
	} {
		s := testSession()
		edit(s)
		if Observation(s) == sum {
			t.Errorf("edit %d leaves the sum as it was", i)
		}
	}
	s := testSession()
	s.ExpiresAt, s.StartedAt, s.Node = testTime, testTime, "other"
	if Observation(s) != sum {
		t.Error("times or names count")
	}
}

// The path of a handshake allocates a small constant for each item.
func TestAllocs(t *testing.T) {
	x, s := testToken(), testSession()
	x.Attributes, x.Scopes = nil, nil
	two := []storage.Session{*s, *s}
	b, buf := encodeToken(x), make([]byte, 0, 1024)
	for name, c := range map[string]struct {
		most float64
		fn   func()
	}{
		"encode token":       {0, func() { buf = AppendIssued(AppendToken(buf[:0], x), x.IssuedRevision) }},
		"encode sessions":    {0, func() { buf = AppendAsOf(AppendSessions(buf[:0], two), s.AsOf) }},
		"encode redemptions": {0, func() { buf = AppendRedemptions(buf[:0], []Redemption{{Token: x.ID, Session: s.ID, Observation: 1}}) }},
		"observation":        {0, func() { Observation(s) }},
		"decode token":       {2, func() { var t storage.Token; _ = Token(x.ID, b, &t) }},
	} {
		if got := testing.AllocsPerRun(100, c.fn); got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, c.most)
		}
	}
	ids := make([]storage.TokenID, 64)
	records := make([][]byte, 64)
	for i := range records {
		records[i] = b
	}
	out := make([]*storage.Token, 64)
	if got := testing.AllocsPerRun(100, func() { _ = Tokens(ids, records, out) }); got > 3 {
		t.Errorf("decode 64 tokens: %v allocations, want 3", got)
	}
}

func BenchmarkDecodeToken(b *testing.B) {
	x := testToken()
	rec := encodeToken(x)
	ids := make([]storage.TokenID, 64)
	records := make([][]byte, 64)
	for i := range records {
		records[i] = rec
	}
	out := make([]*storage.Token, 64)
	b.ReportAllocs()
	for b.Loop() {
		if err := Tokens(ids, records, out); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/token")
}
