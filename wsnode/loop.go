package wsnode

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// seat is what the peers of one event loop share that are on one route, or have not
// said yet where they want to.
type seat struct {
	*loop
	route *route
}

// loop is what the peers of one event loop share. Their turns never run at the
// same time, so that what only a turn needs is here, once, and not in every peer.
// Peers that have a goroutine of their own have a loop of their own.
type loop struct {
	// set at construction
	n        *Node
	poster   netloop.Poster
	messages *atomic.Uint64 // that passed every check
	entrance seat           // on no route
	alone    bool           // of one peer

	// owned by the turn
	seats    map[*route]*seat
	now      time.Time
	peerCode ws.StatusCode // of the close frame that the turn has read
	parties  map[string]*party
	key      []byte // of the last party that was looked for

	mu      sync.Mutex        // guards what follows, and what peers say that it guards
	serving *peer             // whose message the handler has: replies are to it
	before  int               // bytes of replies that are not replies
	replies []byte            // frames to be sent, behind what the turn sends before them
	outbox  map[*peer]*outbox // of those who have something waiting outside of that
	most    int               // that outbox has had
	spare   []*outbox
}

// outbox is what others than the turn want to be sent to a peer.
type outbox struct {
	p      *peer
	frames []byte
	posted bool     // a turn was asked for that takes the frames
	asked  *closing // the end that the application asked for, or nil
	flush  func(now time.Time, out []byte) []byte
}

const (
	keepOutboxes  = 64
	keepFrames    = 16 << 10
	keepPartyText = 4096
)

func newLoop(n *Node, poster netloop.Poster) *loop {
	l := &loop{n: n, poster: poster, messages: n.metrics.messages.shard(), alone: netloop.Alone(poster)}
	l.entrance.loop = l
	return l
}

func (l *loop) seatOn(r *route) *seat {
	s := l.seats[r]
	if s == nil {
		if l.seats == nil {
			l.seats = make(map[*route]*seat, 1)
		}
		s = &seat{l, r}
		l.seats[r] = s
	}
	return s
}

// outboxOf is the outbox of a peer, which may be new. mu is locked.
func (l *loop) outboxOf(p *peer) *outbox {
	if o := l.outbox[p]; o != nil {
		return o
	}
	var o *outbox
	if last := len(l.spare) - 1; last >= 0 {
		o = l.spare[last]
		l.spare = l.spare[:last]
	} else {
		o = new(outbox)
		o.flush = func(now time.Time, out []byte) []byte { return o.p.flush(now, out) }
	}
	if l.outbox == nil {
		l.outbox = map[*peer]*outbox{}
	}
	o.p = p
	l.outbox[p], p.boxed = o, true
	l.most = max(l.most, len(l.outbox))
	return o
}

// dropOutbox gives up that of a peer for which no flush is posted any more. mu is
// locked.
func (l *loop) dropOutbox(p *peer) {
	if !p.boxed {
		return
	}
	o := l.outbox[p]
	delete(l.outbox, p)
	p.boxed = false
	if len(l.outbox) == 0 && l.most > keepOutboxes {
		l.outbox, l.most = nil, 0 // a map never gets smaller
	}
	if len(l.spare) < keepOutboxes && cap(o.frames) <= keepFrames {
		o.p, o.frames, o.posted, o.asked = nil, o.frames[:0], false, nil
		l.spare = append(l.spare, o)
	}
}

// party is what a session has in common with many others of its loop.
type party struct {
	tenant, issuer    string
	userAgent, origin string         // as the authority was told
	epoch             uint64         // of the revision at which the token was issued
	issued            uint32         // upper half of its sequence
	messages          limit.Messages // as it was when the session was granted
	rate              limit.Rate     // of messages, which is not used up: see limit.Level

	key  string
	used int // owned by the turn
}

// partyOf finds or makes a party, which is used once more. What it is given is
// not kept.
func (l *loop) partyOf(who *verify.Identity, userAgent, origin []byte) *party {
	b := l.key[:0]
	for _, s := range [...]string{who.Tenant, who.Issuer} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	for _, s := range [...][]byte{userAgent, origin} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	b = binary.BigEndian.AppendUint64(b, who.Issued.Epoch)
	issued := uint32(who.Issued.Sequence >> 32)
	b = binary.BigEndian.AppendUint32(b, issued)
	m := l.n.live.Load().limits.Messages
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, m.PerSecond), m.Burst)
	if m.DryRun {
		b = append(b, 1)
	}
	if l.key = b; cap(b) > keepPartyText {
		l.key = nil
	}
	p := l.parties[string(b)]
	if p == nil {
		p = &party{tenant: who.Tenant, issuer: who.Issuer, userAgent: string(userAgent), origin: string(origin),
			epoch: who.Issued.Epoch, issued: issued, key: string(b), messages: m, rate: limit.NewRate(m.PerSecond, m.Burst)}
		if l.parties == nil {
			l.parties = map[string]*party{}
		}
		l.parties[p.key] = p
	}
	p.used++
	return p
}

// leaveParty takes back one use of a party, which may be nil.
func (l *loop) leaveParty(p *party) {
	if p == nil {
		return
	}
	if p.used--; p.used == 0 {
		delete(l.parties, p.key)
	}
}

var _ wsconn.Sink = (*peer)(nil)
