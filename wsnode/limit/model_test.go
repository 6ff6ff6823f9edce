package limit

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model says the same as Addresses, slowly: maps, and a bucket per address that
// is drained and refilled step by step.
type model struct {
	cfg             Config
	now             time.Time
	unauthenticated map[netip.Addr]int
	reserved        map[netip.Addr]int // of the unauthenticated
	authenticated   map[netip.Addr]int
	unknown         int                          // unauthenticated, of no address
	missing         map[netip.Addr]time.Duration // of the window's bucket
}

func (m *model) advance(d time.Duration) {
	m.now = m.now.Add(d)
	for addr, missing := range m.missing {
		if missing -= d; missing > 0 {
			m.missing[addr] = missing
		} else {
			delete(m.missing, addr)
		}
	}
}

func sum(of map[netip.Addr]int) (n int) {
	for _, v := range of {
		n += v
	}
	return n
}

// known reports whether forgetting the address would lose something.
func (m *model) known(addr netip.Addr) bool {
	return m.unauthenticated[addr] > 0 || m.authenticated[addr] > 0 || m.missing[addr] > 0
}

// check is a rule, and whether a socket would break it.
type check struct {
	rule   Rule
	broken bool
	action Action
	dry    bool
}

// first is the decision of the first check that refuses.
func first(checks []check) Decision {
	d := Decision{Allow: true}
	for _, c := range checks {
		switch {
		case c.broken && c.dry:
			d.Dry |= 1 << c.rule
		case c.broken:
			return Decision{Dry: d.Dry, Rule: c.rule, Action: c.action}
		}
	}
	return d
}

// ofNode are the checks that know no address.
func (m *model) ofNode() []check {
	c, waiting := &m.cfg, sum(m.unauthenticated)+m.unknown
	return []check{
		{Sockets, waiting+sum(m.authenticated) >= c.Sockets.Max, c.Sockets.Action, c.Sockets.DryRun},
		{Unauthenticated, waiting >= c.Unauthenticated.Max, c.Unauthenticated.Action, c.Unauthenticated.DryRun},
	}
}

// decide decides by these checks and those of an address, which gets the socket
// if it is allowed.
func (m *model) decide(checks []check, addr netip.Addr) Decision {
	c := &m.cfg
	known := 0
	for i := range uint32(modelAddresses) {
		if m.known(address(i)) {
			known++
		}
	}
	interval := c.NewPerAddress.Length / time.Duration(c.NewPerAddress.Max)
	window := m.missing[addr] + interval - interval*time.Duration(c.NewPerAddress.Max)
	d := first(append(checks,
		check{TableFull, !m.known(addr) && known >= c.Addresses, c.NewPerAddress.Action, false},
		check{UnauthenticatedPerAddress, m.unauthenticated[addr] >= c.UnauthenticatedPerAddress.Max, c.UnauthenticatedPerAddress.Action, c.UnauthenticatedPerAddress.DryRun},
		check{NewPerAddress, window > 0, c.NewPerAddress.Action, c.NewPerAddress.DryRun},
	))
	switch {
	case d.Rule == NewPerAddress:
		d.RetryAfter = window
	case d.Allow:
		if window <= 0 {
			m.missing[addr] += interval
		}
		m.unauthenticated[addr]++
	}
	return d
}

func (m *model) reserve(addr netip.Addr) Decision {
	c := &m.cfg.AuthenticatedPerAddress
	d := Decision{Allow: true}
	if m.authenticated[addr]+m.reserved[addr] >= c.Max {
		if !c.DryRun {
			return Decision{Rule: AuthenticatedPerAddress, Action: c.Action}
		}
		d.Dry = 1 << AuthenticatedPerAddress
	}
	m.reserved[addr]++
	return d
}

const modelAddresses = 7

// againstModel takes a table of four addresses through a random life and
// compares each decision and count.
func againstModel(t *rapid.T) {
	ceiling := func(name string, most int) Ceiling {
		return Ceiling{
			Max:    rapid.IntRange(1, most).Draw(t, name),
			Action: rapid.SampledFrom([]Action{Drop, Reject}).Draw(t, name+" action"),
			DryRun: rapid.IntRange(0, 3).Draw(t, name+" dry") == 0,
		}
	}
	window := ceiling("new per address", 5)
	cfg := Config{
		Sockets:                   ceiling("sockets", 16),
		Unauthenticated:           ceiling("unauthenticated", 10),
		UnauthenticatedPerAddress: ceiling("unauthenticated per address", 5),
		AuthenticatedPerAddress:   ceiling("authenticated per address", 5),
		NewPerAddress: Window{
			Max: window.Max, Action: window.Action, DryRun: window.DryRun,
			Length: time.Duration(rapid.IntRange(100, 10_000).Draw(t, "window")) * time.Millisecond,
		},
		Addresses: 4,
	}
	a := newAddresses(cfg, 1)
	m := &model{
		cfg: cfg, now: testNow,
		unauthenticated: map[netip.Addr]int{}, reserved: map[netip.Addr]int{}, authenticated: map[netip.Addr]int{}, missing: map[netip.Addr]time.Duration{},
	}
	same := func(what string, addr netip.Addr, got, want Decision) {
		if got != want {
			t.Fatalf("%s %v: %+v, the model says %+v", what, addr, got, want)
		}
	}
	for range rapid.IntRange(1, 200).Draw(t, "steps") {
		addr := address(rapid.Uint32Range(0, modelAddresses-1).Draw(t, "address"))
		switch rapid.IntRange(0, 11).Draw(t, "step") {
		case 0, 1, 2:
			same("accept", addr, a.Accept(addr, m.now), m.decide(m.ofNode(), addr))
		case 8:
			want := first(m.ofNode())
			same("accept unknown", netip.Addr{}, a.AcceptUnknown(), want)
			if want.Allow {
				m.unknown++
			}
		case 9:
			if m.unknown > 0 {
				want := m.decide(nil, addr)
				same("know", addr, a.Know(addr, m.now), want)
				if want.Allow {
					m.unknown--
				}
			}
		case 11: // other ceilings; the window is TestSetConfig's
			cfg.Sockets, cfg.Unauthenticated = ceiling("sockets", 16), ceiling("unauthenticated", 10)
			cfg.UnauthenticatedPerAddress, cfg.AuthenticatedPerAddress = ceiling("unauthenticated per address", 5), ceiling("authenticated per address", 5)
			a.SetConfig(cfg)
			m.cfg = cfg
		case 10:
			if m.unknown > 0 {
				a.GoneUnknown()
				m.unknown--
			}
		case 3:
			if m.unauthenticated[addr] > m.reserved[addr] {
				same("reserve", addr, a.Reserve(addr), m.reserve(addr))
			}
		case 4:
			if m.reserved[addr] > 0 {
				a.Confirm(addr)
				m.reserved[addr]--
				m.unauthenticated[addr]--
				m.authenticated[addr]++
			}
		case 5:
			if m.reserved[addr] > 0 {
				a.Cancel(addr)
				m.reserved[addr]--
			}
		case 6:
			switch {
			case m.authenticated[addr] > 0 && (m.unauthenticated[addr] == m.reserved[addr] || rapid.Bool().Draw(t, "which")):
				a.Gone(addr, true)
				m.authenticated[addr]--
			case m.unauthenticated[addr] > m.reserved[addr]:
				a.Gone(addr, false)
				m.unauthenticated[addr]--
			}
		case 7:
			m.advance(time.Duration(rapid.Int64Range(1, int64(cfg.NewPerAddress.Length)).Draw(t, "later")))
		}
		got := a.Counts()
		waiting := sum(m.unauthenticated) + m.unknown
		if got.Sockets != waiting+sum(m.authenticated) || got.Unauthenticated != waiting || got.Addresses > 4 {
			t.Fatalf("%+v, the model has %d and %d", got, waiting+sum(m.authenticated), waiting)
		}
	}
	for range m.unknown {
		a.GoneUnknown()
	}
	for addr, n := range m.reserved {
		for range n {
			a.Cancel(addr)
		}
	}
	for of, authenticated := range map[*map[netip.Addr]int]bool{&m.unauthenticated: false, &m.authenticated: true} {
		for addr, n := range *of {
			for range n {
				a.Gone(addr, authenticated)
			}
		}
	}
	if c := a.Counts(); c.Sockets != 0 || c.Unauthenticated != 0 {
		t.Fatalf("%+v after all sockets are gone", c)
	}
}

func TestAddressesAgainstModel(t *testing.T) { rapid.Check(t, againstModel) }

func FuzzAddresses(f *testing.F) { f.Fuzz(rapid.MakeFuzz(againstModel)) }

// FuzzRate proves, for any pattern of asking, that no stretch of time sees more
// than the burst and what it refills, and that a refusal was deserved.
func FuzzRate(f *testing.F) {
	f.Add(uint32(50), uint32(100), []byte{0, 0, 1, 255, 3, 200})
	f.Add(uint32(1), uint32(1), []byte{255, 255, 0, 0, 0, 0, 128, 1})
	f.Add(uint32(maxPerSecond), uint32(1<<32-1), []byte{1, 1, 1, 1})
	f.Add(uint32(1), uint32(1<<32-1), []byte{0, 255})
	f.Fuzz(func(t *testing.T, perSecond, burst uint32, steps []byte) {
		perSecond = max(perSecond%(1<<20), 1)
		burst = max(burst%(1<<24), 1)
		r := NewRate(perSecond, burst)
		now := testNow
		// The bucket in units, as a float: the error stays far below one unit.
		level, taken := float64(burst), 0.0
		for i := 0; i+1 < len(steps); i += 2 {
			later := time.Duration(steps[i]) * time.Duration(steps[i]) * 10 * time.Microsecond
			n := int(steps[i+1]) * int(burst) / 200
			now = now.Add(later)
			level = min(float64(burst), level+later.Seconds()*float64(perSecond))
			got := r.Allow(now, n)
			slack := 1e-3 * (1 + float64(i)) // a nanosecond a call, at most 2^20 units a second
			switch {
			case got && float64(n) > level+slack:
				t.Fatalf("step %d: %d allowed, %f were there", i/2, n, level)
			case !got && float64(n) < level-slack:
				t.Fatalf("step %d: %d refused, %f were there", i/2, n, level)
			}
			if got {
				level -= float64(n)
				taken += float64(n)
			}
		}
		if most := float64(burst) + now.Sub(testNow).Seconds()*float64(perSecond); taken > most*(1+1e-6)+1 {
			t.Fatalf("%f taken, at most %f may be", taken, most)
		}
	})
}
