package authority

import (
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
)

// TestAttachRate proves that a node which attaches over and over is held to a
// rate, and no other node with it.
func TestAttachRate(t *testing.T) {
	cfg := DefaultConfig()
	f, err := loadFleet(t.Context(), memstore.New(), &cfg, testStart)
	if err != nil {
		t.Fatal(err)
	}
	attach := func(node string, times int, now time.Time) (allowed int) {
		for range times {
			switch err := f.mayAttach(node, now); {
			case err == nil:
				allowed++
			case !errors.Is(err, errQuota):
				t.Fatal(err)
			}
		}
		return allowed
	}
	if n := attach("hostile", 3*attachBurst, testStart); n != attachBurst {
		t.Errorf("%d at once, want %d", n, attachBurst)
	}
	if n := attach("hostile", attachBurst, testStart.Add(time.Second)); n != attachRate {
		t.Errorf("%d after a second, want %d", n, attachRate)
	}
	if n := attach("honest", 1000, testStart); n != 1000 {
		t.Errorf("%d of a fleet of 1,000", n)
	}
}

// TestUnwantedOfOthers proves that a node which reports without end makes the
// authority forget nothing but what it said itself.
func TestUnwantedOfOthers(t *testing.T) {
	u := newUnwanted()
	honest := reported{storage.InstanceID{1}, storage.SessionID{1}}
	u.add(honest, "honest", testStart)
	for n := range 2 * maxUnwanted {
		u.add(reported{storage.InstanceID{2}, storage.SessionID{byte(n), byte(n >> 8), byte(n >> 16), 1}}, "hostile", testStart)
	}
	if !u.has(honest, "honest") || u.has(honest, "hostile") {
		t.Error("the honest node's report is not what it was")
	}
	if of := u.byNode["hostile"]; len(of.since) > maxUnwanted || cap(of.order) > 4*maxUnwanted {
		t.Errorf("%d of a hostile node are kept, in a list of %d", len(of.since), cap(of.order))
	}
	u.sweep(testStart.Add(keepUnwanted + time.Second))
	if len(u.byNode) != 0 {
		t.Errorf("of %d nodes something is kept that is too old", len(u.byNode))
	}
}
