package limit

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// Addresses counts the sockets of a node, in all and by address, and decides
// about new ones. IPv4 counts by address, also where it is mapped into IPv6;
// IPv6 by /64; every invalid address counts as the same one.
//
// The counts follow the sockets themselves: whoever was allowed by Accept or Know
// must be handed to Gone once, when the socket is closed. Safe for concurrent use; no
// method allocates.
type Addresses struct {
	rules  atomic.Pointer[rules]
	seed   maphash.Seed
	shards []shard
	live   atomic.Uint64 // sockets << 32 | the unauthenticated of them
}

// rules are the limits in force, which are not changed but replaced.
type rules struct {
	Config
	interval int64 // nanoseconds in which NewPerAddress frees one socket
	whole    int64 // and the whole window's
}

// Counts tells how many sockets there are, for metrics.
type Counts struct {
	Sockets         int
	Unauthenticated int
	Addresses       int // remembered, also those that have no socket any more
}

const (
	shardCount = 64 // enough that two loops rarely meet

	oneSocket          = 1 << 32
	oneUnauthenticated = 1
)

// NewAddresses makes the table of a valid configuration. It takes all the
// memory that it will ever use.
func NewAddresses(cfg Config) *Addresses { return newAddresses(cfg, shardCount) }

func newAddresses(cfg Config, shards int) *Addresses {
	a := &Addresses{seed: maphash.MakeSeed(), shards: make([]shard, shards)}
	a.SetConfig(cfg)
	for i := range a.shards {
		a.shards[i].init((cfg.Addresses + shards - 1) / shards)
	}
	return a
}

// SetConfig puts the limits of another valid configuration into force, for
// sockets that come from now on: whoever was allowed stays allowed. The table
// keeps its size.
func (a *Addresses) SetConfig(cfg Config) {
	r := &rules{Config: cfg, interval: int64(cfg.NewPerAddress.Length) / int64(cfg.NewPerAddress.Max)}
	r.whole = r.interval * int64(cfg.NewPerAddress.Max)
	a.rules.Store(r)
}

// Accept decides about a socket that was just accepted. If it is allowed it
// counts from now on, as unauthenticated; a refused one changes nothing, and uses
// up nothing of its address's window.
//
// An address that the table has no room for is refused with TableFull. Room is
// made by forgetting addresses without a socket whose window has passed: to
// forget those loses nothing.
func (a *Addresses) Accept(addr netip.Addr, now time.Time) Decision {
	var d Decision
	r := a.rules.Load()
	if r.full(&d, a.live.Load()) { // touches no shard
		return d
	}
	a.assign(r, &d, addr, now, true)
	return d
}

// AcceptUnknown is Accept for a socket whose client's address is yet to be
// learnt: it counts for the node alone, until Know has allowed it or GoneUnknown
// takes it back.
func (a *Addresses) AcceptUnknown() Decision {
	var d Decision
	d.Allow = a.admit(a.rules.Load(), &d)
	return d
}

// Know decides about a socket that AcceptUnknown allowed, by the limits of its
// client's address. If it is allowed it counts as if Accept had allowed it; else
// it goes on counting for the node alone.
func (a *Addresses) Know(addr netip.Addr, now time.Time) Decision {
	var d Decision
	a.assign(a.rules.Load(), &d, addr, now, false)
	return d
}

// assign decides by the limits of an address whether it has one more
// unauthenticated socket, which the node counts too if it is a newcomer.
func (a *Addresses) assign(r *rules, d *Decision, addr netip.Addr, now time.Time, newcomer bool) {
	key, at := keyOf(addr), nanosOf(now)
	s, hash := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()

	var have uint32
	var missing int64
	e := s.find(hash, key)
	switch {
	case e != nil:
		have, missing = e.unauthenticated, missingAt(&e.fullAt, at, r.whole)
	case !s.makeRoom(at, r.whole):
		d.Rule, d.Action = TableFull, r.NewPerAddress.Action
		return
	}
	if d.over(&r.UnauthenticatedPerAddress, UnauthenticatedPerAddress, have) {
		return
	}
	if wait := missing + r.interval - r.whole; wait > 0 {
		if d.exceeded(NewPerAddress, r.NewPerAddress.Action, r.NewPerAddress.DryRun) {
			d.RetryAfter = time.Duration(wait)
			return
		}
	} else {
		missing += r.interval
	}
	if newcomer && !a.admit(r, d) {
		return
	}
	if e == nil {
		e = s.add(hash, key)
	}
	e.unauthenticated++
	e.fullAt = at + missing
	d.Allow = true
}

// full reports whether the node has as many sockets as it may.
func (r *rules) full(d *Decision, live uint64) bool {
	return d.over(&r.Sockets, Sockets, sockets(live)) ||
		d.over(&r.Unauthenticated, Unauthenticated, unauthenticated(live))
}

// admit counts one more unauthenticated socket of the node, unless there are as
// many as may be, as other goroutines may have seen to since Accept looked.
func (a *Addresses) admit(r *rules, d *Decision) bool {
	for {
		live := a.live.Load()
		if r.full(d, live) {
			return false
		}
		if a.live.CompareAndSwap(live, live+oneSocket+oneUnauthenticated) {
			return true
		}
	}
}

// Reserve decides whether a socket that Accept allowed may be authenticated. If
// so it has a place among its address's authenticated ones, which Confirm takes
// and Cancel gives back, and counts as unauthenticated until then. A refused one
// may ask again.
func (a *Addresses) Reserve(addr netip.Addr) Decision {
	var d Decision
	key := keyOf(addr)
	s, hash := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(hash, key)
	if e == nil || e.unauthenticated == e.reserved {
		panic("limit: Reserve for a socket that was not accepted, or has a place")
	}
	if d.over(&a.rules.Load().AuthenticatedPerAddress, AuthenticatedPerAddress, e.authenticated+e.reserved) {
		return d
	}
	e.reserved++
	d.Allow = true
	return d
}

// Confirm counts a socket that has a place as authenticated.
func (a *Addresses) Confirm(addr netip.Addr) { a.settle(addr, true) }

// Cancel gives a socket's place back.
func (a *Addresses) Cancel(addr netip.Addr) { a.settle(addr, false) }

// settle ends a reservation.
func (a *Addresses) settle(addr netip.Addr, confirmed bool) {
	key := keyOf(addr)
	s, hash := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(hash, key)
	if e == nil || e.reserved == 0 {
		panic("limit: Confirm or Cancel of a place that was not reserved")
	}
	e.reserved--
	if confirmed {
		e.unauthenticated--
		e.authenticated++
		a.live.Add(^uint64(oneUnauthenticated - 1))
	}
}

// Gone takes back a socket that Accept allowed; authenticated says whether
// Confirm was called for it. A place must be given back before. It panics if no
// such socket is counted: from then on every count would be wrong.
func (a *Addresses) Gone(addr netip.Addr, authenticated bool) {
	key := keyOf(addr)
	s, hash := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(hash, key)
	switch {
	case e != nil && authenticated && e.authenticated > 0:
		e.authenticated--
		a.live.Add(^uint64(oneSocket - 1))
	case e != nil && !authenticated && e.unauthenticated > e.reserved:
		e.unauthenticated--
		a.live.Add(^uint64(oneSocket + oneUnauthenticated - 1))
	default:
		panic("limit: Gone for a socket that is not counted")
	}
	if e.unauthenticated == 0 && e.authenticated == 0 {
		s.fullUntil = min(s.fullUntil, e.fullAt)
	}
}

// GoneUnknown takes back a socket that AcceptUnknown allowed and Know did not.
func (a *Addresses) GoneUnknown() {
	if live := a.live.Load(); unauthenticated(live) == 0 {
		panic("limit: GoneUnknown for a socket that is not counted")
	}
	a.live.Add(^uint64(oneSocket + oneUnauthenticated - 1))
}

// Counts tells the numbers of this moment.
func (a *Addresses) Counts() Counts {
	live := a.live.Load()
	c := Counts{Sockets: int(sockets(live)), Unauthenticated: int(unauthenticated(live))}
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		c.Addresses += s.used
		s.mu.Unlock()
	}
	return c
}

func sockets(live uint64) uint32         { return uint32(live >> 32) }
func unauthenticated(live uint64) uint32 { return uint32(live & math.MaxUint32) }

func (a *Addresses) hash(key uint64) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], key)
	return maphash.Bytes(a.seed, b[:])
}

func (a *Addresses) shard(key uint64) (*shard, uint64) {
	hash := a.hash(key)
	return &a.shards[hash%uint64(len(a.shards))], hash / uint64(len(a.shards))
}

// keyOf is the /64 of an IPv6 address. An IPv4 address takes the place of a /64
// within ::/8, which is reserved (RFC 4291 section 2.4).
func keyOf(addr netip.Addr) uint64 {
	switch {
	case !addr.IsValid():
		return 0
	case addr.Is4(), addr.Is4In6():
		b := addr.As4()
		return 1<<32 | uint64(binary.BigEndian.Uint32(b[:]))
	default:
		b := addr.As16()
		return binary.BigEndian.Uint64(b[:])
	}
}
