package boltstore

import (
	"bytes"
	"maps"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Sessions that all end in one millisecond are purged in steps, each of which looks
// on where the one before has stopped. Records of which none has ended stay as they
// are.
func TestPurgeOfSessionsThatEndTogether(t *testing.T) {
	opts := Options{MapBytes: 64 << 20, AheadBytes: 1, purgeMin: 1}
	s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), opts)
	defer check(t, s)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	const calls, each = 60, recordSessions // a record for each call
	var ended []storage.SessionID
	left := map[storage.SessionID]bool{}
	for c := range calls {
		var ns []int
		var batch []storage.Redemption
		for i := range each {
			n := c*each + i
			ns = append(ns, n)
			batch = append(batch, storage.Redemption{Token: testToken(n), Session: testSession(n)})
			if gone := c%3 == 0 || c%3 == 1 && i > 0; gone { // all of one, all but one of the next, none of the third
				ended = append(ended, batch[i].Session.ID)
			} else {
				left[batch[i].Session.ID] = true
			}
		}
		must(t, insert(t, s, ns...))
		found, err := s.Lookup(t.Context(), idsOf(ns))
		must(t, err)
		for i := range batch {
			batch[i].Token = found[i]
		}
		_, err = s.Redeem(t.Context(), batch)
		must(t, err)
	}
	records := func() map[string]string {
		out := map[string]string{}
		must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
			return tx.Bucket(sessionsBucket).ForEach(func(k, v []byte) error {
				out[string(k)] = string(v)
				return nil
			})
		}))
		return out
	}
	had := records()
	if len(had) != calls {
		t.Fatalf("%d records, want %d", len(had), calls)
	}
	n, err := s.EndSessions(t.Context(), ended)
	must(t, err)
	before := s.groups.Load()
	must(t, s.purgeEnded(t.Context()))
	// 15 or 16 records make a step; the last finds none.
	if steps := s.groups.Load() - before - 1; n != len(ended) || n < 2*stepPurge || steps != 3 {
		t.Errorf("%d of %d ended, purged in %d steps, want 3", n, len(ended), steps)
	}
	same := 0
	got := records()
	for k, v := range got {
		if had[k] == v {
			same++
		}
	}
	if len(got) != 2*calls/3 || same != calls/3 {
		t.Errorf("%d records are left and %d as they were, want %d and %d", len(got), same, 2*calls/3, calls/3)
	}
	live := map[storage.SessionID]bool{}
	for _, x := range listed(t, s) {
		live[x.ID] = true
	}
	if !maps.Equal(live, left) {
		t.Errorf("%d sessions are listed, want the %d left", len(live), len(left))
	}
}

func idsOf(ns []int) (ids []storage.TokenID) {
	for _, n := range ns {
		ids = append(ids, testID(n))
	}
	return ids
}

// To find that a record has nothing to purge costs its reading alone.
func TestWithoutNone(t *testing.T) {
	var sessions []storage.Session
	for n := range recordSessions {
		sessions = append(sessions, *testSession(n))
	}
	put := encodeSessions(sessions)[0]
	k := append(bytes.Clone(put.end[:]), number(1)...)
	read := testing.AllocsPerRun(100, func() {
		_, err := sessionsOf(k, put.value)
		must(t, err)
	})
	got := testing.AllocsPerRun(100, func() {
		kept, changed, err := without(k, put.value, nil)
		if must(t, err); changed || kept != nil {
			t.Fatal("something was purged")
		}
	})
	if got > read {
		t.Errorf("%v allocations, want the %v of reading it", got, read)
	}
}
