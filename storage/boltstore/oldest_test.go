package boltstore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Sessions that end for others take the room of their entries, not some pages
// each: a store with room enough is not full, whether they end in one call or in
// many of one group.
func TestRoomForReplaced(t *testing.T) {
	const users = 1000
	redemptions := func(t *testing.T, s *Store, first int) (batch []storage.Redemption) {
		var tokens []*storage.Token
		for i := range users {
			x := testToken(first + i)
			x.Subject = fmt.Sprint("user ", i)
			tokens = append(tokens, x)
			batch = append(batch, storage.Redemption{Token: x, Session: testSession(first + i), SubjectSessions: 1, CloseOldest: true, KeepReplaced: time.Hour})
		}
		_, err := s.Insert(t.Context(), tokens)
		must(t, err)
		return batch
	}
	redeemed := func(t *testing.T, s *Store, batch []storage.Redemption, replaced int) {
		got, err := s.Redeem(t.Context(), batch)
		if err != nil {
			t.Error(err)
		}
		for _, r := range got {
			if r.Err != nil || len(r.Replaced) != replaced {
				t.Errorf("%d replaced, %v; want %d", len(r.Replaced), r.Err, replaced)
			}
		}
	}
	for _, c := range []struct {
		name  string
		calls int
	}{{"one call", 1}, {"many calls", 200}} {
		t.Run(c.name, func(t *testing.T) {
			g := &gate{}
			opts := Options{MapBytes: 64 << 20, AheadBytes: 1, commit: g.commit}
			opts.grow = func(f *os.File, at int64) error {
				if at >= 7<<20 {
					return &fs.PathError{Op: "write", Err: syscall.ENOSPC}
				}
				_, err := f.WriteAt(make([]byte, growBytes), at)
				return err
			}
			s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), opts)
			must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
			redeemed(t, s, redemptions(t, s, 0), 0)
			batch := redemptions(t, s, users)

			release := g.hold(s)
			n := users / c.calls
			var wg sync.WaitGroup
			for i := range c.calls {
				wg.Go(func() { redeemed(t, s, batch[i*n:(i+1)*n], 1) })
			}
			for len(s.queue) < c.calls {
				time.Sleep(time.Millisecond)
			}
			release()
			wg.Wait()
			if n := s.Stats().Entries; n != users {
				t.Errorf("%d entries, want %d", n, users)
			}
			check(t, s)
		})
	}
}
