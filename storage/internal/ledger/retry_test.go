package ledger

import (
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// counted counts what a ledger asks of its records.
type counted struct {
	kept
	asked [][]storage.SessionKey
}

func (c *counted) Sessions(keys []storage.SessionKey) ([]*storage.Session, error) {
	c.asked = append(c.asked, keys)
	return c.kept.Sessions(keys)
}

// A node that asks again for a whole batch costs one look into the file, and new
// redemptions none: both are decided while all others wait.
func TestRetriesAreLookedUpTogether(t *testing.T) {
	const n = 64
	node := storage.InstanceID{1}
	l, rec := New(1), &counted{kept: kept{sessions: map[storage.SessionID]*storage.Session{}}}
	l.PutInstance(node)
	l.Commit(nil)
	var batch []storage.Redemption
	for i := range byte(n) {
		x := &storage.Token{ID: storage.TokenID{0, 0, 0, 0, 1, 0, i}, MaxUses: 1, IssuedRevision: storage.Revision{Epoch: 1}}
		batch = append(batch, storage.Redemption{Token: x, Session: &storage.Session{ID: storage.SessionID{i}, Instance: node, ExpiresAt: time.UnixMilli(1000)}})
	}
	redeem := func(retried bool) {
		t.Helper()
		sessions, observations := Prepare(batch)
		results := make([]storage.Redeemed, len(batch))
		if err := l.Redeem(batch, sessions, observations, results, rec); err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if r.Err != nil || r.Retried != retried || r.Session.ID != batch[i].Session.ID {
				t.Fatalf("redemption %d: %+v, want retried %v", i, r, retried)
			}
			rec.sessions[r.Session.ID] = r.Session
		}
	}
	redeem(false)
	redeem(true) // of the group under way
	if len(rec.asked) != 0 {
		t.Fatalf("asked %d times for what is not stored", len(rec.asked))
	}
	l.Commit(nil)
	redeem(true)
	if len(rec.asked) != 1 || len(rec.asked[0]) != n {
		t.Fatalf("asked %d times", len(rec.asked))
	}
}
