package boltstore

import (
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// What is done at length beside commits lets others run in between, also what waits
// for a clock or the network, where there is one processor.
func TestGivesWay(t *testing.T) {
	const tokens = 20_480
	s := open(t, t.TempDir()+"/gatehouse.db", Options{MapBytes: 64 << 20, AheadBytes: 1, noSync: true})
	defer s.Close()
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: benchNode, Node: "node-1"}))
	ids := benchIDs(tokens, 1000) // a third of a minute
	for i := 0; i < tokens; i += 2048 {
		must(t, insertIDs(t.Context(), s, ids[i:i+2048]))
	}
	for part := range slices.Chunk(ids, 1000) {
		must(t, redeemIDs(t.Context(), s, part, benchStart.Add(30*time.Second)))
	}
	first, last := ids[0].Expiry().UnixMilli(), ids[tokens-1].Expiry().UnixMilli()
	at := []slot{slotOf(minuteOf(ids[0]), oneMinute, 0)}
	chunks := int(s.fresh.newest - s.fresh.oldest + 1)

	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, c := range []struct {
		name string
		long func() error
		want int // how often others run, at least
	}{
		{"count what is swept", func() error { _, err := s.countSwept(first-1, last); return err }, tokens / 1024},
		{"look through tokens", func() error {
			_, err := s.countTokens(t.Context(), storage.Selector{Tenant: "acme"}, benchStart)
			return err
		}, tokens / 1024},
		{"read the pages of slots", func() error { return s.touchSlots(t.Context(), at) }, tokens / 1024},
		{"read uses", func() error { _, _, err := s.overUses(t.Context(), math.MaxInt64); return err }, tokens / 1024},
		{"forget fresh records", func() error { s.fresh.sweep(last); return nil }, chunks},
	} {
		var others atomic.Int64
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() { // ends by stop
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					time.Sleep(time.Microsecond)
					others.Add(1)
				}
			}
		}()
		must(t, c.long())
		ran := int(others.Load())
		close(stop)
		<-stopped
		if ran < c.want/2 || c.want < 4 {
			t.Errorf("%s: others ran %d times, want %d or so", c.name, ran, c.want)
		}
	}
	if id := []storage.TokenID{ids[0]}; s.fresh.find(id, 0, make([][]byte, 1)) {
		t.Error("a swept token is still among the fresh ones")
	}
}
