package storagetest

import (
	"fmt"
	"reflect"
	"slices"

	"pgregory.net/rapid"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// compare reads all that can be read.
func (m *model) compare(t *rapid.T) {
	ctx := m.outer.Context()
	if head, _ := m.store.Head(); head != m.revision() {
		t.Fatalf("head %v, want %v", head, m.revision())
	}
	tokens := slices.SortedFunc(slices.Values(m.tokens), func(a, b *storage.Token) int { return slices.Compare(a.ID[:], b.ID[:]) })
	var listed []*storage.Token
	for q := (storage.TokenQuery{Limit: 4}); ; {
		page, err := m.store.ListTokens(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if listed = append(listed, page.Tokens...); !page.More {
			break
		}
		q.After = page.Next
	}
	if len(listed) != len(tokens) {
		t.Fatalf("%d tokens listed, want %d", len(listed), len(tokens))
	}
	statuses, err := m.store.Statuses(ctx, listed)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range tokens {
		if !reflect.DeepEqual(normal(listed[i]), normal(x)) {
			t.Fatalf("listed\n%+v, want\n%+v", listed[i], x)
		}
		m.compareStatus(t, x, statuses[i])
	}
	m.compareSessions(t)
	m.compareReceipts(t)
	log, err := m.store.Entries(ctx, storage.Revision{}, 1000)
	if err != nil || fmt.Sprintf("%+v", log) != fmt.Sprintf("%+v", m.log) {
		t.Fatalf("log\n%+v, %v, want\n%+v", log, err, m.log)
	}
	locks, err := m.store.Locks(ctx)
	if err != nil || fmt.Sprintf("%+v", locks) != fmt.Sprintf("%+v", m.locks) {
		t.Fatalf("locks\n%+v, %v, want\n%+v", locks, err, m.locks)
	}
	live := 0
	for _, u := range m.uses {
		if u.live {
			live++
		}
	}
	if st := m.store.Stats(); st.Tokens != len(tokens) || st.Sessions != live || st.Entries != len(m.log) || st.Locks != len(m.locks) {
		t.Fatalf("stats %+v, want %d tokens, %d sessions, %d entries, %d locks", st, len(tokens), live, len(m.log), len(m.locks))
	}
	sel := storage.Selector{Tenant: "acme", Subject: "ada"}
	wantTokens, wantSessions := 0, 0
	for _, x := range tokens {
		if sel.HitsToken(x) && x.ID.Expiry().After(m.now) && !m.revoked(x, nil) {
			wantTokens++
		}
	}
	for _, u := range m.uses {
		if u.live && sel.HitsSession(u.session) {
			wantSessions++
		}
	}
	if n, s, err := m.store.Count(ctx, sel, m.now); err != nil || n != wantTokens || s != wantSessions {
		t.Fatalf("count %d, %d, %v, want %d, %d", n, s, err, wantTokens, wantSessions)
	}
}

func (m *model) compareStatus(t *rapid.T, x *storage.Token, got storage.TokenStatus) {
	var want storage.TokenStatus
	for _, u := range m.uses {
		if u.session.Token == x.ID {
			want.Uses++
			want.Sessions = append(want.Sessions, u.session.ID)
		}
	}
	if got.Uses != want.Uses || !slices.Equal(got.Sessions, want.Sessions) {
		t.Fatalf("status of %x: %+v, want %+v", x.ID, got, want)
	}
	if (got.RevokedBy != storage.Revision{}) != m.revoked(x, nil) {
		t.Fatalf("status of %x: revoked by %v, in the model: %v", x.ID, got.RevokedBy, m.revoked(x, nil))
	}
	for _, e := range m.log {
		if e.Revision == got.RevokedBy && (!e.Selector.HitsToken(x) || e.Kind == storage.LiftLock || !e.Revision.After(x.IssuedRevision)) {
			t.Fatalf("status of %x: revoked by %+v, which does not hit it", x.ID, e)
		}
	}
	if at := slices.IndexFunc(m.locks, func(l storage.Lock) bool { return l.ID == got.Lock }); (got.Lock != storage.LockID{}) != m.locked(x, nil) ||
		at >= 0 && !m.locks[at].Selector.HitsToken(x) {
		t.Fatalf("status of %x: lock %x, in the model: %v", x.ID, got.Lock, m.locked(x, nil))
	}
}

func (m *model) compareSessions(t *rapid.T) {
	ctx := m.outer.Context()
	var want []*storage.Session
	for _, u := range m.uses {
		if u.live {
			want = append(want, u.session)
		}
	}
	slices.SortFunc(want, func(a, b *storage.Session) int {
		if c := a.ExpiresAt.Compare(b.ExpiresAt); c != 0 {
			return c
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	var got []*storage.Session
	for q := (storage.SessionQuery{Limit: 3}); ; {
		page, err := m.store.ListSessions(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, page.Sessions...); !page.More {
			break
		}
		q.After = page.Next
	}
	var ids []storage.SessionID
	for n := range 13 {
		ids = append(ids, storage.SessionID{byte(n)})
	}
	found, err := m.store.Sessions(ctx, ids)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d sessions listed, want %d", len(got), len(want))
	}
	for i, x := range want {
		if !reflect.DeepEqual(normalSession(got[i]), normalSession(x)) {
			t.Fatalf("listed\n%+v, want\n%+v", got[i], x)
		}
		if f := found[x.ID[0]]; f == nil || !reflect.DeepEqual(normalSession(f), normalSession(x)) {
			t.Fatalf("found\n%+v, want\n%+v", f, x)
		}
		found[x.ID[0]] = nil
	}
	for _, f := range found {
		if f != nil {
			t.Fatalf("found %+v, which is not live", f)
		}
	}
}
