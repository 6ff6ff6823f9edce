package storagetest

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Model compares a store with the simplest thing that keeps its promises, over
// random calls on few ids. reopen may be nil.
func Model(t *testing.T, open Open, reopen Reopen) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt, open(t), reopen)
		defer func() {
			if err := m.store.Close(); err != nil {
				rt.Fatal(err)
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"insert": m.insert,
			"redeem": m.redeem,
			"again":  m.redeem, // twice as often
			"end":    m.end,
			"append": m.append,
			"node":   m.node,
			"acks":   m.acknowledge,
			"sweep":  m.sweep,
			"reopen": m.reopened,
			"":       m.compare,
		})
	})
}

// model holds everything in lists and looks through all of them.
type model struct {
	outer  *testing.T
	t      *rapid.T
	store  storage.Store
	reopen Reopen

	epoch     uint64
	head      uint64
	log       []storage.Entry // not yet dropped
	locks     []storage.Lock
	tokens    []*storage.Token
	uses      []modelUse
	instances map[storage.InstanceID]bool
	receipts  modelReceipts
	swept     time.Time // tokens that expire before are gone
	now       time.Time
	drawn     int // sessions, so that each begins at a time of its own
}

type modelUse struct {
	session *storage.Session
	live    bool
}

func newModel(outer *testing.T, t *rapid.T, s storage.Store, reopen Reopen) *model {
	head, _ := s.Head()
	return &model{outer: outer, t: t, store: s, reopen: reopen, epoch: head.Epoch, now: start, swept: time.UnixMilli(0),
		instances: map[storage.InstanceID]bool{}, receipts: newModelReceipts()}
}

func (m *model) revision() storage.Revision {
	return storage.Revision{Epoch: m.epoch, Sequence: m.head}
}

func (m *model) drawToken(t *rapid.T) *storage.Token {
	n := rapid.IntRange(0, 15).Draw(t, "token")
	x := &storage.Token{
		Tenant:   []string{"acme", "other"}[n%2],
		Subject:  []string{"ada", "bob", ""}[n%3],
		Issuer:   []string{"login", "batch"}[n/2%2],
		Audience: "chat",
		ClientIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
		MaxUses:  uint32(n % 4),
		IssuedAt: start.Add(-[]time.Duration{0, 3 * time.Hour, 40 * time.Hour}[n/3%3]), // a store may go by lives
	}
	if n == 7 {
		x.ClientIP = netip.Addr{}
	}
	binary.BigEndian.PutUint64(x.ID[:], uint64(start.Add(time.Duration(n)*20*time.Second).UnixMilli())<<16)
	x.ID[15] = byte(n)
	return x
}

func (m *model) drawSession(t *rapid.T) *storage.Session {
	n := rapid.IntRange(1, 12).Draw(t, "session")
	m.drawn++
	return &storage.Session{
		ID:        storage.SessionID{byte(n)},
		Node:      "node-1",
		Instance:  m.drawInstance(t),
		ClientIP:  netip.AddrFrom4([4]byte{198, 51, 100, byte(n % 4)}),
		Origin:    []byte{byte(rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "origin"))},
		StartedAt: start.Add(time.Duration(m.drawn) * time.Millisecond),
		ExpiresAt: start.Add(time.Duration(n%5) * time.Minute),
	}
}

func (m *model) drawInstance(t *rapid.T) storage.InstanceID {
	return storage.InstanceID{byte(rapid.IntRange(1, 3).Draw(t, "instance"))}
}

func (m *model) drawSelector(t *rapid.T) storage.Selector {
	switch rapid.IntRange(0, 6).Draw(t, "selector") {
	case 0:
		return storage.Selector{Token: m.drawToken(t).ID}
	case 1:
		return storage.Selector{Session: storage.SessionID{byte(rapid.IntRange(1, 12).Draw(t, "session"))}}
	case 2:
		return storage.Selector{Tenant: "acme", Subject: "ada"}
	case 3:
		return storage.Selector{Tenant: "other"}
	case 4:
		return storage.Selector{Issuer: "batch"}
	case 5:
		return storage.Selector{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, 2}), rapid.IntRange(31, 32).Draw(t, "bits"))}
	}
	return storage.Selector{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 9}), rapid.IntRange(28, 32).Draw(t, "bits"))}
}

func (m *model) stored(id storage.TokenID) *storage.Token {
	for _, t := range m.tokens {
		if t.ID == id {
			return t
		}
	}
	return nil
}

func (m *model) locked(t *storage.Token, s *storage.Session) bool {
	return slices.ContainsFunc(m.locks, func(l storage.Lock) bool {
		return l.Selector.HitsToken(t) || s != nil && l.Selector.HitsSession(s)
	})
}

func (m *model) revoked(t *storage.Token, s *storage.Session) bool {
	return slices.ContainsFunc(m.log, func(e storage.Entry) bool {
		return e.Kind != storage.LiftLock && e.Kind != storage.Replace && e.Revision.After(t.IssuedRevision) && (e.Selector.HitsToken(t) || s != nil && e.Selector.HitsSession(s))
	})
}

func (m *model) insert(t *rapid.T) {
	var batch []*storage.Token
	for range rapid.IntRange(1, 3).Draw(t, "batch") {
		batch = append(batch, m.drawToken(t))
	}
	got, err := m.store.Insert(m.outer.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range batch {
		var want error
		switch {
		case x.ID.Expiry().Before(m.swept):
			want = storage.ErrExpired
		case m.locked(x, nil):
			want = storage.ErrLocked
		case m.stored(x.ID) != nil:
			want = storage.ErrExists
		}
		if got[i].Err != want {
			t.Fatalf("insert %x: %v, want %v", x.ID, got[i].Err, want)
		}
		if want == nil {
			if got[i].IssuedRevision != m.revision() {
				t.Fatalf("insert %x: issued at %v, the head is %v", x.ID, got[i].IssuedRevision, m.revision())
			}
			kept := *x
			kept.IssuedRevision = m.revision()
			m.tokens = append(m.tokens, &kept)
		}
	}
}

func (m *model) redeem(t *rapid.T) {
	var batch []storage.Redemption
	for range rapid.IntRange(1, 3).Draw(t, "batch") {
		x := m.drawToken(t)
		found, err := m.store.Lookup(m.outer.Context(), []storage.TokenID{x.ID})
		if err != nil {
			t.Fatal(err)
		}
		if (found[0] == nil) != (m.stored(x.ID) == nil) {
			t.Fatalf("lookup %x: %v, the model has %v", x.ID, found[0], m.stored(x.ID))
		}
		if found[0] != nil {
			x = found[0]
		} else if !x.ID.Expiry().Before(m.swept) {
			continue // only a token that was stored may be redeemed
		}
		batch = append(batch, storage.Redemption{Token: x, Session: m.drawSession(t),
			SubjectSessions: uint32(rapid.IntRange(0, 3).Draw(t, "subject")), TenantSessions: uint32(rapid.IntRange(0, 4).Draw(t, "tenant")),
			CloseOldest: rapid.Bool().Draw(t, "close"), KeepReplaced: time.Duration(rapid.IntRange(0, 3).Draw(t, "keep")) * time.Minute,
			Renews: storage.SessionID{byte(rapid.IntRange(0, 12).Draw(t, "renews"))}})
	}
	got, err := m.store.Redeem(m.outer.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	asOf := m.revision()
	for i, r := range batch {
		want := m.decide(r, asOf)
		if got[i].Err != want.Err || got[i].Retried != want.Retried {
			t.Fatalf("redeem %x as %x: %+v, want %+v", r.Token.ID, r.Session.ID, got[i], want)
		}
		if want.Err == nil && !reflect.DeepEqual(normalSession(got[i].Session), normalSession(want.Session)) {
			t.Fatalf("redeem %x as %x:\n%+v, want\n%+v", r.Token.ID, r.Session.ID, got[i].Session, want.Session)
		}
		if !slices.EqualFunc(got[i].Replaced, want.Replaced, sameReplaced) {
			t.Fatalf("redeem %x as %x: replaced\n%+v, want\n%+v", r.Token.ID, r.Session.ID, got[i].Replaced, want.Replaced)
		}
	}
}

// decide is the rule of Redeem, said once more.
func (m *model) decide(r storage.Redemption, asOf storage.Revision) storage.Redeemed {
	t, s := r.Token, *r.Session
	s.Token, s.TokenIP, s.IssuedRevision, s.AsOf = t.ID, t.ClientIP, t.IssuedRevision, asOf
	s.Tenant, s.Subject, s.Audience, s.Issuer = t.Tenant, t.Subject, t.Audience, t.Issuer
	var first *modelUse
	used, subject, tenant := uint32(0), uint32(0), uint32(0)
	for i := range m.uses {
		u := &m.uses[i]
		if u.session.ID == s.ID {
			first = u
		}
		if u.session.Token == t.ID {
			used++
		}
		whose := u.session.Tenant == t.Tenant && u.session.Subject == t.Subject
		if u.live && u.session.Tenant == t.Tenant && !(whose && u.session.ID == r.Renews) {
			tenant++
			if whose {
				subject++
			}
		}
	}
	switch {
	case t.ID.Expiry().Before(m.swept):
		return storage.Redeemed{Err: storage.ErrExpired}
	case !m.instances[s.Instance]:
		return storage.Redeemed{Err: storage.ErrInstanceUnknown}
	case first != nil && first.session.Token == t.ID && first.session.Instance == s.Instance &&
		first.session.ClientIP == s.ClientIP && string(first.session.Origin) == string(s.Origin):
		switch {
		case !first.live:
			return storage.Redeemed{Err: storage.ErrSessionEnded}
		case m.revoked(t, first.session):
			return storage.Redeemed{Err: storage.ErrRevoked}
		case m.locked(t, first.session):
			return storage.Redeemed{Err: storage.ErrLocked}
		}
		return storage.Redeemed{Session: first.session, Retried: true}
	case m.revoked(t, &s), m.revoked(t, &storage.Session{ID: r.Renews}):
		return storage.Redeemed{Err: storage.ErrRevoked}
	case m.locked(t, &s):
		return storage.Redeemed{Err: storage.ErrLocked}
	case used >= t.MaxUses:
		return storage.Redeemed{Err: storage.ErrUsed}
	case first != nil:
		return storage.Redeemed{Err: storage.ErrSessionTaken}
	case r.SubjectSessions > 0 && subject+1 > r.SubjectSessions && !r.CloseOldest:
		return storage.Redeemed{Err: storage.ErrSessionLimit}
	}
	var old []*modelUse
	for i := range m.uses { // in the order of their grants
		u := &m.uses[i]
		if r.SubjectSessions > 0 && subject-uint32(len(old)) >= r.SubjectSessions && u.live && u.session.Tenant == t.Tenant && u.session.Subject == t.Subject && u.session.ID != r.Renews {
			old = append(old, u)
		}
	}
	if r.TenantSessions > 0 && tenant-uint32(len(old))+1 > r.TenantSessions {
		return storage.Redeemed{Err: storage.ErrSessionLimit}
	}
	var replaced []storage.Replaced
	for _, u := range old {
		u.live = false
		m.head++
		e := storage.Entry{
			Revision: m.revision(), Kind: storage.Replace, Selector: storage.Selector{Session: u.session.ID},
			CommittedAt: s.StartedAt, KeepUntil: s.StartedAt.Add(r.KeepReplaced),
		}
		m.log = append(m.log, e)
		replaced = append(replaced, storage.Replaced{Entry: e, Key: storage.SessionKey{ExpiresAt: u.session.ExpiresAt, ID: u.session.ID}, Token: u.session.Token})
	}
	defer m.forget()
	m.uses = append(m.uses, modelUse{session: &s, live: true})
	return storage.Redeemed{Session: &s, Replaced: replaced}
}

func sameReplaced(a, b storage.Replaced) bool {
	return reflect.DeepEqual(a.Entry, b.Entry) && a.Key.ID == b.Key.ID && a.Key.ExpiresAt.Equal(b.Key.ExpiresAt) && a.Token == b.Token
}

// forget forgets sessions that are neither live nor of a stored token.
func (m *model) forget() {
	m.uses = slices.DeleteFunc(m.uses, func(u modelUse) bool {
		return !u.live && u.session.Token.Expiry().Before(m.swept)
	})
}

func (m *model) end(t *rapid.T) {
	ids := []storage.SessionID{m.drawSession(t).ID, m.drawSession(t).ID}
	got, err := m.store.EndSessions(m.outer.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for i := range m.uses {
		if u := &m.uses[i]; u.live && slices.Contains(ids, u.session.ID) {
			u.live = false
			want++
		}
	}
	if m.forget(); got != want {
		t.Fatalf("ended %d, want %d", got, want)
	}
}

func (m *model) append(t *rapid.T) {
	e := storage.Entry{
		Kind:        storage.EntryKind(rapid.IntRange(1, 3).Draw(t, "kind")),
		Selector:    m.drawSelector(t),
		Reason:      rapid.SampledFrom([]string{"r", "r", "s"}).Draw(t, "reason"),
		CommittedAt: m.now,
		KeepUntil:   m.now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "keep")) * time.Minute),
		RequestID:   rapid.SampledFrom([]string{"", "", "p", "q"}).Draw(t, "request"),
	}
	if e.Kind != storage.Revoke {
		e.Lock = storage.LockID{byte(rapid.IntRange(1, 3).Draw(t, "lock"))}
	}
	got, err := m.store.Append(m.outer.Context(), e)
	if e.RequestID != "" {
		for _, first := range m.log {
			if first.RequestID != e.RequestID {
				continue
			}
			same := first.Kind == e.Kind && first.Reason == e.Reason &&
				(e.Kind == storage.LiftLock && first.Lock == e.Lock || e.Kind != storage.LiftLock && first.Selector == e.Selector)
			if same && (err != nil || !reflect.DeepEqual(got, first)) {
				t.Fatalf("append again: %+v, %v, want %+v", got, err, first)
			}
			if !same && err != storage.ErrRequestReused {
				t.Fatalf("append of another request: %v, want %v", err, storage.ErrRequestReused)
			}
			return
		}
	}
	at := slices.IndexFunc(m.locks, func(l storage.Lock) bool { return l.ID == e.Lock })
	switch {
	case e.Kind == storage.SetLock && at >= 0:
		if !errors.Is(err, storage.ErrExists) {
			t.Fatalf("set a lock that stands: %v", err)
		}
		return
	case e.Kind == storage.LiftLock && at < 0:
		if !errors.Is(err, storage.ErrNotFound) {
			t.Fatalf("lift a lock that does not stand: %v", err)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	m.head++
	e.Revision = m.revision()
	switch e.Kind {
	case storage.SetLock:
		m.locks = append(m.locks, storage.Lock{ID: e.Lock, Selector: e.Selector, Reason: e.Reason, CommittedAt: e.CommittedAt, Revision: e.Revision})
	case storage.LiftLock:
		e.Selector = m.locks[at].Selector
		m.locks = slices.Delete(m.locks, at, at+1)
	}
	m.log = append(m.log, e)
	if !reflect.DeepEqual(got, e) {
		t.Fatalf("appended %+v, want %+v", got, e)
	}
}

func (m *model) node(t *rapid.T) {
	id := m.drawInstance(t)
	if rapid.Bool().Draw(t, "register") {
		if err := m.store.PutInstance(m.outer.Context(), &storage.Instance{ID: id, Node: "node-1"}); err != nil {
			t.Fatal(err)
		}
		if !m.instances[id] {
			m.instances[id], m.receipts.registered[id] = true, m.head
		}
		return
	}
	if err := m.store.RemoveInstance(m.outer.Context(), id, start, "goodbye"); err != nil {
		t.Fatal(err)
	}
	delete(m.instances, id)
	m.receipts.remove(id, m.head)
	for i := range m.uses {
		if u := &m.uses[i]; u.session.Instance == id {
			u.live = false
		}
	}
	m.forget()
}

func (m *model) sweep(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
	keep := time.Duration(rapid.IntRange(0, 60).Draw(t, "keep")) * time.Second
	got, err := m.store.Sweep(m.outer.Context(), m.now, keep)
	if err != nil {
		t.Fatal(err)
	}
	var want storage.Swept
	before, latest := m.now.Add(-keep), m.swept.Add(-time.Millisecond)
	for _, t := range m.tokens {
		if at := t.ID.Expiry(); at.Before(before) && at.After(latest) {
			latest = at
		}
	}
	if end := latest.Truncate(time.Minute).Add(time.Minute); before.After(end) {
		before = end
	}
	if before.After(m.swept) && latest.UnixMilli() > 0 {
		m.swept = before
	}
	n := len(m.tokens)
	m.tokens = slices.DeleteFunc(m.tokens, func(t *storage.Token) bool { return t.ID.Expiry().Before(m.swept) })
	want.Tokens = n - len(m.tokens)
	for i := range m.uses {
		if u := &m.uses[i]; u.live && u.session.ExpiresAt.Before(m.now) {
			u.live = false
			want.Sessions++
		}
	}
	m.forget()
	for len(m.log) > 0 && !m.log[0].KeepUntil.After(m.now) {
		m.log = m.log[1:]
		want.Entries++
	}
	m.log = slices.DeleteFunc(m.log, func(e storage.Entry) bool {
		drop := e.Kind == storage.Replace && !e.KeepUntil.After(m.now)
		if drop {
			want.Entries++
		}
		return drop
	})
	through := m.head
	if len(m.log) > 0 {
		through = m.log[0].Revision.Sequence - 1
	}
	m.receipts.sweep(through)
	if got != want {
		t.Fatalf("swept %+v, want %+v", got, want)
	}
}

func (m *model) reopened(t *rapid.T) {
	if m.reopen == nil {
		t.Skip("the store does not outlive its process")
	}
	m.store = m.reopen(m.outer, m.store)
}
