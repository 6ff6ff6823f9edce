package authority

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// TestTokensGiveWay proves that a token waits while nodes enforce what was
// revoked last, and that neither a silent node nor any number of revocations
// keeps it waiting for long.
func TestTokensGiveWay(t *testing.T) {
	graced := entryAt(1)
	graced.Grace = time.Minute
	for name, c := range map[string]struct {
		nodes     int
		meanwhile func(r *receipts, ids []storage.InstanceID)
		want      time.Duration
	}{
		"nothing was revoked": {nodes: 1},
		"all have enforced it": {
			nodes: 2,
			meanwhile: func(r *receipts, ids []storage.InstanceID) {
				r.open(entryAt(1), nil)
				for _, id := range ids {
					time.Sleep(time.Millisecond)
					_ = r.enforced(id, storage.Progress{Through: 1}, nil, testStart)
				}
			},
			want: 2 * time.Millisecond,
		},
		"a node is silent": {
			nodes: 2,
			meanwhile: func(r *receipts, ids []storage.InstanceID) {
				r.open(entryAt(1), nil)
				_ = r.enforced(ids[0], storage.Progress{Through: 1}, nil, testStart)
			},
			want: maxHold,
		},
		"more and more is revoked": {
			nodes: 1,
			meanwhile: func(r *receipts, _ []storage.InstanceID) {
				for seq := range uint64(50) {
					r.open(entryAt(seq+1), nil)
					time.Sleep(time.Millisecond)
				}
			},
			want: maxHold,
		},
		"there is nobody to enforce it": {
			meanwhile: func(r *receipts, _ []storage.InstanceID) { r.open(entryAt(1), nil) },
		},
		"sockets have time to renew": {
			nodes:     1,
			meanwhile: func(r *receipts, _ []storage.InstanceID) { r.open(graced, nil) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, ids := newTestReceipts(t, c.nodes)
				if c.meanwhile != nil {
					var wg sync.WaitGroup
					defer wg.Wait()
					wg.Go(func() { c.meanwhile(r, ids) })
					synctest.Wait() // it is opened
				}
				began := time.Now()
				r.giveWay()
				if took := time.Since(began); took != c.want {
					t.Errorf("a token waits for %v, want %v", took, c.want)
				}
			})
		})
	}
}
