package limit

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
)

var (
	testNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	home    = netip.MustParseAddr("198.51.100.7")
	other   = netip.MustParseAddr("198.51.100.8")
)

// roomy has every limit far away; tests tighten the one that they are about.
func roomy() Config {
	c := Default()
	for _, l := range []*Ceiling{&c.Sockets, &c.Unauthenticated, &c.UnauthenticatedPerAddress, &c.AuthenticatedPerAddress} {
		l.Max = 1_000_000
	}
	c.NewPerAddress.Max = 1_000_000
	return c
}

func config(edit func(*Config)) Config {
	c := roomy()
	edit(&c)
	return c
}

// open accepts n sockets that must all be allowed, and lets them in if asked.
func open(t *testing.T, a *Addresses, addr netip.Addr, n int, authenticated bool) {
	t.Helper()
	for i := range n {
		if d := a.Accept(addr, testNow); !d.Allow {
			t.Fatalf("socket %d of %d refused: %+v", i+1, n, d)
		}
		if authenticated {
			if d := a.Reserve(addr); !d.Allow {
				t.Fatalf("socket %d of %d has no place: %+v", i+1, n, d)
			}
			a.Confirm(addr)
		}
	}
}

func TestCeilings(t *testing.T) {
	for _, test := range []struct {
		rule     string
		cfg      Config
		before   func(t *testing.T, a *Addresses)
		decide   func(a *Addresses) Decision
		want     Rule
		opposite func(a *Addresses) Decision // the neighbour that must still pass
	}{
		{
			rule:   "the node's sockets count whether authenticated or not",
			cfg:    config(func(c *Config) { c.Sockets.Max = 4 }),
			before: func(t *testing.T, a *Addresses) { open(t, a, home, 2, true); open(t, a, other, 2, false) },
			decide: func(a *Addresses) Decision { return a.Accept(home, testNow) },
			want:   Sockets,
		}, {
			rule:   "unauthenticated sockets are bounded in all, over different addresses",
			cfg:    config(func(c *Config) { c.Unauthenticated.Max = 3 }),
			before: func(t *testing.T, a *Addresses) { open(t, a, home, 2, false); open(t, a, other, 1, false) },
			decide: func(a *Addresses) Decision { return a.Accept(netip.MustParseAddr("2001:db8::1"), testNow) },
			want:   Unauthenticated,
		}, {
			rule:     "unauthenticated sockets are bounded by address",
			cfg:      config(func(c *Config) { c.UnauthenticatedPerAddress.Max = 3 }),
			before:   func(t *testing.T, a *Addresses) { open(t, a, home, 9, true); open(t, a, home, 3, false) },
			decide:   func(a *Addresses) Decision { return a.Accept(home, testNow) },
			want:     UnauthenticatedPerAddress,
			opposite: func(a *Addresses) Decision { return a.Accept(other, testNow) },
		}, {
			rule: "authenticated sockets are bounded by address",
			cfg:  config(func(c *Config) { c.AuthenticatedPerAddress.Max = 2 }),
			before: func(t *testing.T, a *Addresses) {
				open(t, a, home, 2, true)
				open(t, a, home, 1, false)
				open(t, a, other, 1, false)
			},
			decide:   func(a *Addresses) Decision { return a.Reserve(home) },
			want:     AuthenticatedPerAddress,
			opposite: func(a *Addresses) Decision { return a.Reserve(other) },
		}, {
			rule: "places that are reserved count as authenticated sockets",
			cfg:  config(func(c *Config) { c.AuthenticatedPerAddress.Max = 2 }),
			before: func(t *testing.T, a *Addresses) {
				open(t, a, home, 1, true)
				open(t, a, home, 3, false)
				a.Reserve(home)
			},
			decide:   func(a *Addresses) Decision { return a.Reserve(home) },
			want:     AuthenticatedPerAddress,
			opposite: func(a *Addresses) Decision { a.Cancel(home); return a.Reserve(home) },
		}, {
			rule:     "new sockets of an address are bounded in a window",
			cfg:      config(func(c *Config) { c.NewPerAddress.Max = 5 }),
			before:   func(t *testing.T, a *Addresses) { open(t, a, home, 5, true) },
			decide:   func(a *Addresses) Decision { return a.Accept(home, testNow) },
			want:     NewPerAddress,
			opposite: func(a *Addresses) Decision { return a.Accept(other, testNow) },
		},
	} {
		t.Run(test.rule, func(t *testing.T) {
			a := NewAddresses(test.cfg)
			test.before(t, a)
			counts := a.Counts()
			d := test.decide(a)
			if d.Allow || d.Rule != test.want || d.Action != Reject || d.Dry != 0 {
				t.Errorf("%+v, want refused by %v with reject", d, test.want)
			}
			if a.Counts() != counts {
				t.Errorf("a refused socket changed the counts from %+v to %+v", counts, a.Counts())
			}
			if test.opposite != nil {
				if d := test.opposite(a); !d.Allow {
					t.Errorf("the neighbour is refused too: %+v", d)
				}
			}
		})
	}
}

func TestDryRunRefusesNothing(t *testing.T) {
	dry := config(func(c *Config) {
		c.Sockets = Ceiling{Max: 1, Action: Drop, DryRun: true}
		c.Unauthenticated = Ceiling{Max: 1, Action: Drop, DryRun: true}
		c.UnauthenticatedPerAddress = Ceiling{Max: 1, Action: Drop, DryRun: true}
		c.AuthenticatedPerAddress = Ceiling{Max: 1, Action: Drop, DryRun: true}
		c.NewPerAddress.Max, c.NewPerAddress.DryRun = 1, true
	})
	a := NewAddresses(dry)
	if d := a.Accept(home, testNow); !d.Allow || d.Dry != 0 {
		t.Fatalf("the first socket breaks no rule: %+v", d)
	}
	d := a.Accept(home, testNow)
	if !d.Allow || d.Rule != NoRule || d.RetryAfter != 0 {
		t.Errorf("%+v, want allowed", d)
	}
	for _, r := range []Rule{Sockets, Unauthenticated, UnauthenticatedPerAddress, NewPerAddress} {
		if !d.Dry.Has(r) {
			t.Errorf("the decision does not say that %v would have refused", r)
		}
	}
	a.Reserve(home)
	if d := a.Reserve(home); !d.Allow || !d.Dry.Has(AuthenticatedPerAddress) {
		t.Errorf("%+v, want allowed, and refused by authenticated_per_address but for dry_run", d)
	}
	a.Confirm(home)
	a.Confirm(home)
	if got, want := a.Counts(), (Counts{Sockets: 2, Addresses: 1}); got != want {
		t.Errorf("counts %+v, want %+v: they follow the sockets, refused or not", got, want)
	}
	a.Gone(home, true)
	a.Gone(home, true)
	if c := a.Counts(); c.Sockets != 0 || c.Unauthenticated != 0 {
		t.Errorf("counts %+v after all are gone", c)
	}
	// What dry_run would have refused must not use up the window: otherwise its
	// report would differ from the real thing.
	if d := a.Accept(home, testNow.Add(10*time.Second)); d.Dry.Has(NewPerAddress) {
		t.Errorf("after a quiet window: %+v", d)
	}
}

func TestDryRunOfOneRuleLeavesTheOthers(t *testing.T) {
	a := NewAddresses(config(func(c *Config) {
		c.Unauthenticated = Ceiling{Max: 1, Action: Drop, DryRun: true}
		c.UnauthenticatedPerAddress = Ceiling{Max: 1, Action: Drop}
	}))
	open(t, a, home, 1, false)
	d := a.Accept(home, testNow)
	if d.Allow || d.Rule != UnauthenticatedPerAddress || d.Action != Drop || !d.Dry.Has(Unauthenticated) || d.Dry.Has(UnauthenticatedPerAddress) {
		t.Errorf("%+v", d)
	}
}

// A connection-rate limit elsewhere refilled one a second whatever was set.
func TestWindowRefillsAsSet(t *testing.T) {
	for _, w := range []Window{
		{Max: 60, Length: 10 * time.Second},
		{Max: 1, Length: 10 * time.Second},
		{Max: 1, Length: 100 * time.Millisecond},
		{Max: 3, Length: 10 * time.Second}, // does not divide
		{Max: 7, Length: time.Second},
		{Max: 1000, Length: time.Second},
		{Max: 5, Length: time.Hour},
	} {
		t.Run(fmt.Sprintf("%d per %v", w.Max, w.Length), func(t *testing.T) {
			w.Action = Drop
			a := NewAddresses(config(func(c *Config) { c.NewPerAddress = w }))
			open(t, a, home, w.Max, true) // a whole window's at once
			now := testNow
			for i := range 3 * w.Max {
				d := a.Accept(home, now)
				if d.Allow || d.Rule != NewPerAddress || d.Action != Drop {
					t.Fatalf("socket %d beyond the window: %+v", i+1, d)
				}
				now = now.Add(d.RetryAfter)
				if d := a.Accept(home, now.Add(-1)); d.Allow || d.RetryAfter != 1 {
					t.Fatalf("socket %d, a nanosecond early: %+v", i+1, d)
				}
				if d := a.Accept(home, now); !d.Allow {
					t.Fatalf("socket %d, after RetryAfter: %+v", i+1, d)
				}
			}
			took, want := now.Sub(testNow), 3*w.Length
			if took > want || took < want-time.Duration(3*w.Max) {
				t.Errorf("%d sockets took %v, want %v", 3*w.Max, took, want)
			}
			// A quiet window fills the bucket, and no more than fills it.
			now = now.Add(100 * w.Length)
			n := 0
			for a.Accept(home, now).Allow {
				n++
			}
			if n != w.Max {
				t.Errorf("%d at once after a long pause, want %d", n, w.Max)
			}
		})
	}
}

func TestRefusedSocketsUseNothingUp(t *testing.T) {
	a := NewAddresses(config(func(c *Config) { c.NewPerAddress = Window{Max: 2, Length: time.Second, Action: Drop} }))
	open(t, a, home, 2, true)
	for i := range 1000 {
		if a.Accept(home, testNow.Add(time.Duration(i)*400*time.Microsecond)).Allow {
			t.Fatal("allowed before half a second was over")
		}
	}
	if d := a.Accept(home, testNow.Add(500*time.Millisecond)); !d.Allow {
		t.Errorf("knocking postponed the next free place: %+v", d)
	}
}

func TestClockGoingBack(t *testing.T) {
	a := NewAddresses(config(func(c *Config) { c.NewPerAddress = Window{Max: 2, Length: time.Second, Action: Drop} }))
	for range 2 {
		a.Accept(home, testNow)
	}
	back := testNow.Add(-time.Hour)
	d := a.Accept(home, back)
	if d.Allow || d.RetryAfter > 500*time.Millisecond {
		t.Fatalf("an hour back: %+v, want to wait no longer than before", d)
	}
	if d := a.Accept(home, back.Add(d.RetryAfter)); !d.Allow {
		t.Errorf("%+v after the wait", d)
	}
	if d := a.Accept(home, time.Unix(-1, 0)); d.RetryAfter > time.Second {
		t.Errorf("a clock before 1970: %+v", d)
	}
}

func TestAddressKeys(t *testing.T) {
	same := [][2]string{
		{"192.0.2.1", "::ffff:192.0.2.1"},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"},
		{"fe80::1%eth0", "fe80::1%eth1"},
	}
	for _, p := range same {
		if keyOf(netip.MustParseAddr(p[0])) != keyOf(netip.MustParseAddr(p[1])) {
			t.Errorf("%s and %s count apart", p[0], p[1])
		}
	}
	apart := []string{"192.0.2.1", "192.0.2.2", "0.0.0.0", "0.0.0.1", "::", "::1:0:0:0:0", "2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8::c000:201"}
	for i, p := range apart {
		for _, q := range apart[:i] {
			if keyOf(netip.MustParseAddr(p)) == keyOf(netip.MustParseAddr(q)) {
				t.Errorf("%s and %s count together", p, q)
			}
		}
	}
	if keyOf(netip.Addr{}) != 0 {
		t.Error("invalid addresses do not count as one")
	}
}

func address(i uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], i)
	return netip.AddrFrom4(b)
}

func TestFullTable(t *testing.T) {
	small := func() *Addresses {
		return newAddresses(config(func(c *Config) {
			c.Addresses = 4
			c.NewPerAddress = Window{Max: 2, Length: time.Second, Action: Drop}
		}), 1)
	}
	t.Run("addresses with sockets stay, a stranger is refused", func(t *testing.T) {
		a := small()
		for i := range uint32(4) {
			open(t, a, address(i), 1, i%2 == 0)
		}
		for _, later := range []time.Duration{0, time.Second, time.Hour} {
			d := a.Accept(address(9), testNow.Add(later))
			if d.Allow || d.Rule != TableFull || d.Action != Drop {
				t.Errorf("after %v: %+v", later, d)
			}
		}
		if d := a.Accept(address(0), testNow.Add(time.Hour)); !d.Allow {
			t.Errorf("an address that is in the table: %+v", d)
		}
	})
	t.Run("an address without sockets stays until its window is over", func(t *testing.T) {
		a := small()
		for i := range uint32(4) {
			open(t, a, address(i), 1, true)
		}
		open(t, a, address(0), 1, true)
		a.Gone(address(0), true)
		a.Gone(address(0), true)
		if d := a.Accept(address(9), testNow.Add(999*time.Millisecond)); d.Rule != TableFull {
			t.Errorf("a window that is not over was forgotten: %+v", d)
		}
		if d := a.Accept(address(9), testNow.Add(time.Second)); !d.Allow {
			t.Errorf("there is room: %+v", d)
		}
	})
	t.Run("a clock that went back does not keep it full", func(t *testing.T) {
		a := small()
		for i := range uint32(4) {
			open(t, a, address(i), 1, true)
			a.Gone(address(i), true)
		}
		if d := a.Accept(address(9), testNow); d.Rule != TableFull { // and remembers until when
			t.Errorf("before: %+v", d)
		}
		if d := a.Accept(address(9), testNow.Add(-time.Hour)); !d.Allow {
			t.Errorf("after: %+v", d)
		}
	})
	t.Run("a flood of addresses takes no more memory", func(t *testing.T) {
		cfg := config(func(c *Config) { c.Addresses = minAddresses })
		a := NewAddresses(cfg)
		now, refused := testNow, 0
		var i uint32
		allocs := testing.AllocsPerRun(100_000, func() {
			i++
			addr := address(i)
			if d := a.Accept(addr, now); !d.Allow {
				if d.Rule != TableFull {
					t.Fatalf("%+v", d)
				}
				refused++
				return
			}
			if i%2 == 0 {
				a.Gone(addr, false)
			}
		})
		if allocs != 0 {
			t.Errorf("%v allocations for an address, want 0", allocs)
		}
		if c := a.Counts(); c.Addresses != minAddresses {
			t.Errorf("%d addresses remembered, want %d", c.Addresses, minAddresses)
		}
		if refused == 0 {
			t.Error("the table was never full")
		}
	})
}

func TestGonePanicsOnStrangers(t *testing.T) {
	for name, f := range map[string]func(a *Addresses){
		"gone, never seen":               func(a *Addresses) { a.Gone(other, false) },
		"gone as authenticated, was not": func(a *Addresses) { a.Gone(home, true) },
		"gone twice":                     func(a *Addresses) { a.Gone(home, false); a.Gone(home, false) },
		"gone with its place":            func(a *Addresses) { a.Reserve(home); a.Gone(home, false) },
		"reserved, never seen":           func(a *Addresses) { a.Reserve(other) },
		"reserved twice":                 func(a *Addresses) { a.Reserve(home); a.Reserve(home) },
		"confirmed, never reserved":      func(a *Addresses) { a.Confirm(home) },
		"confirmed twice":                func(a *Addresses) { a.Reserve(home); a.Confirm(home); a.Confirm(home) },
		"cancelled, never seen":          func(a *Addresses) { a.Cancel(other) },
		"cancelled twice":                func(a *Addresses) { a.Reserve(home); a.Cancel(home); a.Cancel(home) },
	} {
		t.Run(name, func(t *testing.T) {
			a := NewAddresses(roomy())
			open(t, a, home, 1, false)
			defer func() {
				if recover() == nil {
					t.Error("the counts are wrong from now on, and nobody was told")
				}
				a.Counts() // the shard must not stay locked
			}()
			f(a)
		})
	}
}

// Between Accept's first look and its count, others may have taken the last
// place.
func TestAdmitLooksAgain(t *testing.T) {
	for want, cfg := range map[Rule]Config{
		Sockets:         config(func(c *Config) { c.Sockets.Max = 1 }),
		Unauthenticated: config(func(c *Config) { c.Unauthenticated.Max = 1 }),
	} {
		a := NewAddresses(cfg)
		open(t, a, other, 1, false)
		var d Decision
		if a.admit(a.rules.Load(), &d) || d.Rule != want {
			t.Errorf("%+v, want refused by %v", d, want)
		}
	}
}

// Ceilings hold at every instant, and counts end at zero, when many goroutines
// use one table.
func TestConcurrentSockets(t *testing.T) {
	const most, mostUnauthenticated = 40, 15
	a := NewAddresses(config(func(c *Config) {
		c.Sockets.Max, c.Unauthenticated.Max, c.UnauthenticatedPerAddress.Max = most, mostUnauthenticated, 4
	}))
	stop := make(chan struct{})
	var watcher, users sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c := a.Counts(); c.Sockets > most || c.Unauthenticated > mostUnauthenticated {
				t.Errorf("%+v is above a ceiling", c)
				return
			}
		}
	})
	for g := range 8 {
		users.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			var mine []netip.Addr
			for range 5000 {
				addr := address(r.Uint32N(12))
				switch {
				case r.IntN(2) == 0 && len(mine) > 0:
					a.Gone(mine[len(mine)-1], true)
					mine = mine[:len(mine)-1]
				case a.Accept(addr, testNow).Allow:
					place := r.IntN(3) > 0 && a.Reserve(addr).Allow
					switch {
					case place && r.IntN(3) > 0:
						a.Confirm(addr)
						mine = append(mine, addr)
						continue
					case place:
						a.Cancel(addr)
					}
					a.Gone(addr, false)
				}
			}
			for _, addr := range mine {
				a.Gone(addr, true)
			}
		})
	}
	users.Wait()
	close(stop)
	watcher.Wait()
	if c := a.Counts(); c.Sockets != 0 || c.Unauthenticated != 0 {
		t.Errorf("%+v after all sockets are gone", c)
	}
}

// Other limits are for sockets that come from then on; what an address has used
// up of its window counts on, as far as the new window reaches.
func TestSetConfig(t *testing.T) {
	cfg := config(func(c *Config) { c.Sockets.Max = 3 })
	cfg.NewPerAddress = Window{Max: 3, Length: time.Hour, Action: Reject}
	a := NewAddresses(cfg)
	open(t, a, home, 3, true)
	if d := a.Accept(home, testNow); d.Rule != Sockets {
		t.Fatalf("%+v, want %v", d, Sockets)
	}
	cfg.Sockets.Max = 1
	a.SetConfig(cfg)
	if c := a.Counts(); c.Sockets != 3 {
		t.Errorf("%+v: sockets that were let in are gone", c)
	}
	cfg.Sockets.Max = 100
	a.SetConfig(cfg)
	if d := a.Accept(home, testNow); d.Rule != NewPerAddress || d.RetryAfter != 20*time.Minute {
		t.Errorf("%+v, want %v for 20 minutes", d, NewPerAddress)
	}
	cfg.NewPerAddress.Length = time.Minute
	a.SetConfig(cfg)
	if d := a.Accept(home, testNow); d.Rule != NewPerAddress || d.RetryAfter != 20*time.Second {
		t.Errorf("%+v, want %v for 20 s", d, NewPerAddress)
	}
	if d := a.Accept(home, testNow.Add(20*time.Second)); !d.Allow {
		t.Errorf("%+v, want one allowed after that", d)
	}
	cfg.NewPerAddress.Max = 60
	a.SetConfig(cfg)
	if d := a.Accept(home, testNow.Add(21*time.Second)); !d.Allow {
		t.Errorf("%+v, want one allowed each second", d)
	}
}

func TestAddressesAllocs(t *testing.T) {
	a := NewAddresses(Default())
	now := testNow
	got := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Second)
		if !a.Accept(home, now).Allow || !a.Reserve(home).Allow {
			t.Fatal("refused")
		}
		a.Confirm(home)
		a.Gone(home, true)
	})
	if got != 0 {
		t.Errorf("%v allocations for a socket's life, want 0", got)
	}
}

func BenchmarkAddresses(b *testing.B) {
	b.Run("life of a socket", func(b *testing.B) {
		a := NewAddresses(roomy())
		b.ReportAllocs()
		var i uint32
		for b.Loop() {
			i++
			addr := address(i % 50_000)
			a.Accept(addr, testNow)
			a.Reserve(addr)
			a.Confirm(addr)
			a.Gone(addr, true)
		}
	})
	b.Run("refused by its address's ceiling", func(b *testing.B) {
		a := NewAddresses(config(func(c *Config) { c.UnauthenticatedPerAddress.Max = 1 }))
		a.Accept(home, testNow)
		for b.Loop() {
			a.Accept(home, testNow)
		}
	})
	b.Run("flood of strangers, table full of sockets", func(b *testing.B) {
		a := NewAddresses(roomy())
		var i uint32
		for a.Counts().Addresses < 1<<17-64*256 { // fills most shards
			for range 1 << 14 {
				i++
				a.Accept(address(i), testNow)
			}
		}
		for range 1 << 20 {
			i++
			a.Accept(address(i), testNow)
		}
		for b.Loop() {
			i++
			a.Accept(address(i), testNow)
		}
	})
	b.Run("flood of strangers, each forgets one", func(b *testing.B) {
		// The worst that forgetting can cost: a search of a whole shard each time.
		a := newAddresses(config(func(c *Config) {
			c.Addresses = 2048
			c.NewPerAddress = Window{Max: 1, Length: 2048 * time.Millisecond, Action: Drop}
		}), 1)
		now := testNow
		var i uint32
		for b.Loop() {
			i++
			now = now.Add(time.Millisecond)
			if !a.Accept(address(i), now).Allow {
				b.Fatal("refused")
			}
			a.Gone(address(i), false)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		a := NewAddresses(roomy())
		b.RunParallel(func(pb *testing.PB) {
			i := rand.Uint32()
			for pb.Next() {
				i++
				if addr := address(i % 50_000); a.Accept(addr, testNow).Allow {
					a.Gone(addr, false)
				}
			}
		})
	})
}
