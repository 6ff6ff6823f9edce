// Package storagetest proves that a storage.Store keeps its promises. A store's
// own test calls Run; one that outlives its process calls RunReopened too.
// Model and Histories look for what no list of cases names.
package storagetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Open makes an empty store for one test. Who closes it is Run's matter.
type Open func(t *testing.T) storage.Store

// Reopen closes a store and opens what it has kept.
type Reopen func(t *testing.T, s storage.Store) storage.Store

// Run proves the promises of Store.
func Run(t *testing.T, open Open) { run(t, open, nil) }

// RunReopened does what Run does, but closes and opens the store again between
// what a case does and what it then looks at.
func RunReopened(t *testing.T, open Open, reopen Reopen) { run(t, open, reopen) }

// testCase is one promise and its proof.
type testCase struct {
	promise string
	prove   func(*fixture)
}

func run(t *testing.T, open Open, reopen Reopen) {
	groups := []struct {
		name  string
		cases []testCase
	}{
		{"tokens", tokenCases},
		{"redeem", redeemCases},
		{"oldest", oldestCases},
		{"retry", retryCases},
		{"log", logCases},
		{"sessions", sessionCases},
		{"admin", adminCases},
		{"receipts", receiptCases},
		{"sweep", sweepCases},
		{"store", storeCases},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				t.Run(c.promise, func(t *testing.T) {
					f := newFixture(t, open(t), reopen)
					defer func() {
						if err := f.Close(); err != nil {
							t.Errorf("close: %v", err)
						}
					}()
					c.prove(f)
				})
			}
		})
	}
}

// fixture is a store under test, and what cases are written with. Its ids are
// numbers, so that a failure is the same each time.
type fixture struct {
	*testing.T
	storage.Store
	ctx    context.Context
	reopen Reopen
	now    time.Time
	drawn  uint64
	node   storage.InstanceID // registered
}

// start is when the tests take place. They give stores the time.
var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newFixture(t *testing.T, s storage.Store, reopen Reopen) *fixture {
	f := &fixture{T: t, Store: s, ctx: t.Context(), reopen: reopen, now: start}
	f.node = f.register()
	return f
}

// pause lets a store that can prove that it has kept everything.
func (f *fixture) pause() {
	f.Helper()
	if f.reopen != nil {
		f.Store = f.reopen(f.T, f.Store)
	}
}

func (f *fixture) draw() (id [16]byte) {
	f.drawn++
	binary.BigEndian.PutUint64(id[8:], f.drawn)
	id[0] = 0xee // never zero
	return id
}

func (f *fixture) register() storage.InstanceID {
	f.Helper()
	id := storage.InstanceID(f.draw())
	f.ok(f.PutInstance(f.ctx, &storage.Instance{ID: id, Node: "node-1", RegisteredAt: f.now, Version: "1.0", Address: "192.0.2.1:9"}))
	return id
}

// id draws a token id that expires then.
func (f *fixture) id(expiry time.Time) storage.TokenID {
	id := storage.TokenID(f.draw())
	ms := expiry.UnixMilli()
	binary.BigEndian.PutUint16(id[0:], uint16(ms>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(ms))
	return id
}

// token makes a token with every field set; each edit changes it.
func (f *fixture) token(edits ...func(*storage.Token)) *storage.Token {
	t := &storage.Token{
		ID:               f.id(f.now.Add(time.Minute)),
		Tenant:           "acme",
		Subject:          "ada",
		Audience:         "chat",
		ClientIP:         netip.MustParseAddr("192.0.2.7"),
		IPBinding:        storage.IPLog,
		UserAgent:        []byte("Mozilla/5.0 \xff (X11)"),
		Browser:          "Firefox",
		OS:               "Linux",
		UserAgentBinding: storage.UserAgentClass,
		Origin:           "https://app.example.com",
		Certificate:      "\xff the SHA-256 of a certificate \x00",
		Attributes:       map[string]string{"plan": "pro", "empty": ""},
		Scopes:           []string{"chat.send", "chat.read"},
		Limits:           storage.SessionLimits{MessageBytes: 4096, MessagesPerSecond: 10, SessionsPerSubject: 3},
		MaxUses:          1,
		IssuedAt:         f.now,
		NotBefore:        f.now.Add(time.Second),
		SessionTTL:       12 * time.Hour,
		Issuer:           "login",
	}
	copy(t.SecretHash[:], t.ID[:])
	for _, edit := range edits {
		edit(t)
	}
	return t
}

// issue stores a token and looks it up.
func (f *fixture) issue(edits ...func(*storage.Token)) *storage.Token {
	f.Helper()
	t := f.token(edits...)
	f.ok(f.insert(t))
	return f.lookup(t.ID)
}

// issueAll is issue of n tokens, in one commit.
func (f *fixture) issueAll(n int, edit func(i int, t *storage.Token)) []*storage.Token {
	f.Helper()
	ts, ids := make([]*storage.Token, n), make([]storage.TokenID, n)
	for i := range ts {
		ts[i] = f.token(func(t *storage.Token) { edit(i, t) })
		ids[i] = ts[i].ID
	}
	results, err := f.Insert(f.ctx, ts)
	f.ok(err)
	for _, r := range results {
		f.ok(r.Err)
	}
	ts, err = f.Lookup(f.ctx, ids)
	f.ok(err)
	return ts
}

func (f *fixture) insert(t *storage.Token) error {
	f.Helper()
	r, err := f.Insert(f.ctx, []*storage.Token{t})
	f.ok(err)
	return r[0].Err
}

func (f *fixture) lookup(id storage.TokenID) *storage.Token {
	f.Helper()
	ts, err := f.Lookup(f.ctx, []storage.TokenID{id})
	f.ok(err)
	return ts[0]
}

// session makes a session to be.
func (f *fixture) session(edits ...func(*storage.Session)) *storage.Session {
	s := &storage.Session{
		ID:          storage.SessionID(f.draw()),
		Node:        "node-1",
		Instance:    f.node,
		ClientIP:    netip.MustParseAddr("198.51.100.9"),
		UserAgent:   []byte("Mozilla/5.0 \xfe"),
		Origin:      []byte("https://app.example.com"),
		Certificate: []byte("\xfe the SHA-256 of another one \x00"),
		StartedAt:   f.now,
		ExpiresAt:   f.now.Add(12 * time.Hour),
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

// redeem redeems a token as a new session.
func (f *fixture) redeem(t *storage.Token, edits ...func(*storage.Session)) storage.Redeemed {
	f.Helper()
	return f.redeemAs(t, f.session(edits...))
}

func (f *fixture) redeemAs(t *storage.Token, s *storage.Session) storage.Redeemed {
	f.Helper()
	return f.redeemAll(storage.Redemption{Token: t, Session: s})[0]
}

func (f *fixture) redeemAll(batch ...storage.Redemption) []storage.Redeemed {
	f.Helper()
	r, err := f.Redeem(f.ctx, batch)
	f.ok(err)
	if len(r) != len(batch) {
		f.Fatalf("%d results for %d redemptions", len(r), len(batch))
	}
	return r
}

func (f *fixture) append(e storage.Entry) storage.Entry {
	f.Helper()
	got, err := f.Append(f.ctx, f.entry(e))
	f.ok(err)
	return got
}

// entry completes an entry of the log.
func (f *fixture) entry(e storage.Entry) storage.Entry {
	if e.CommittedAt.IsZero() {
		e.CommittedAt = f.now
	}
	if e.KeepUntil.IsZero() {
		e.KeepUntil = f.now.Add(24 * time.Hour)
	}
	return e
}

func (f *fixture) revoke(s storage.Selector) storage.Entry {
	f.Helper()
	return f.append(storage.Entry{Kind: storage.Revoke, Selector: s, Reason: "leaked", Actor: "admin"})
}

func (f *fixture) lock(s storage.Selector) storage.Entry {
	f.Helper()
	return f.append(storage.Entry{Kind: storage.SetLock, Lock: storage.LockID(f.draw()), Selector: s, Reason: "abuse", Actor: "admin"})
}

func (f *fixture) lift(id storage.LockID) storage.Entry {
	f.Helper()
	return f.append(storage.Entry{Kind: storage.LiftLock, Lock: id, Reason: "solved", Actor: "admin"})
}

func (f *fixture) status(t *storage.Token) storage.TokenStatus {
	f.Helper()
	st, err := f.Statuses(f.ctx, []*storage.Token{t})
	f.ok(err)
	return st[0]
}

func (f *fixture) live(id storage.SessionID) *storage.Session {
	f.Helper()
	ss, err := f.Sessions(f.ctx, []storage.SessionID{id})
	f.ok(err)
	return ss[0]
}

func (f *fixture) end(ids ...storage.SessionID) int {
	f.Helper()
	n, err := f.EndSessions(f.ctx, ids)
	f.ok(err)
	return n
}

func (f *fixture) sweep(now time.Time, keep time.Duration) storage.Swept {
	f.Helper()
	n, err := f.Sweep(f.ctx, now, keep)
	f.ok(err)
	return n
}

func (f *fixture) head() storage.Revision {
	r, _ := f.Head()
	return r
}

// requested fails the test unless the committed entry with a request id is r;
// zero for none.
func (f *fixture) requested(id string, want storage.Revision) {
	f.Helper()
	r, found := f.Requested(id)
	f.equal("requested", []any{r, found}, []any{want, want != storage.Revision{}})
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) is(got, want error) {
	f.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		f.Fatalf("error %v, want %v", got, want)
	}
}

func (f *fixture) equal(what string, got, want any) {
	f.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		f.Fatalf("%s:\n got %s\nwant %s", what, g, w)
	}
}
