package sim

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
)

// history is what happened at the edges of a world: what the issuers and the
// admin were told, and what the applications behind the nodes saw. check holds
// it against the promises.
type history struct {
	w *world

	mu       sync.Mutex
	tokens   map[[16]byte]*issued
	sessions map[[16]byte]*session
	order    []*session
	receipts map[storage.Revision]*receipt
	ended    []storage.Entry // of histories that a restore has ended
	restores []*restored
	killedAt map[*machine]time.Time
	renewing map[storage.SessionID]int // sessions, by how many redemptions renew them
	granted  map[*machine]int          // grants that were sent to a node, some again
}

type issued struct {
	tenant, subject, issuer string
	ip                      netip.Addr
	uses                    int
	revision                storage.Revision
	opened                  int
}

type session struct {
	id       [16]byte
	token    [16]byte
	m        *machine
	ip       netip.Addr
	accepted []time.Time // its opening and each of its messages
	closed   time.Time
	code     uint16
	reason   string
	was      bool // renewed: another session has its socket
	first    [16]byte
	renewals int // since that one was opened, on the same socket
}

// receipt is what the admin was told of one entry.
type receipt struct {
	last     *pb.Receipt
	rows     map[string]*pb.ReceiptRow
	complete time.Time // when it was told complete
	// inGrace is when a node instance was told of first that waits for sockets.
	inGrace map[string]time.Time
	// deadlines are the earliest that it named, by node instance.
	deadlines map[string]time.Time
}

func (h *history) init(w *world) {
	h.w = w
	h.renewing = map[storage.SessionID]int{}
	h.tokens, h.sessions = map[[16]byte]*issued{}, map[[16]byte]*session{}
	h.receipts, h.killedAt, h.granted = map[storage.Revision]*receipt{}, map[*machine]time.Time{}, map[*machine]int{}
}

func (h *history) issued(id [16]byte, t *issued) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens[id] = t
}

func (h *history) opened(m *machine, who deliver.Identity) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &session{id: who.Session, first: who.Session, token: who.Token, m: m, ip: who.ClientAddr, accepted: []time.Time{time.Now()}}
	h.w.event("%s opens session %s of token %x", m, short(s.id), s.token[12:])
	if h.sessions[s.id] != nil {
		h.w.fault("session %s is opened twice", short(s.id))
	}
	h.sessions[s.id] = s
	h.order = append(h.order, s)
	if t := h.tokens[s.token]; t == nil {
		h.w.fault("session %s has a token that nobody was given", short(s.id))
	} else if t.opened++; t.opened > t.uses {
		h.w.fault("token %x opens socket %d of %d", s.token[12:], t.opened, t.uses)
	}
}

func (h *history) message(m *machine, who deliver.Identity) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sessions[who.Session]
	s.accepted = append(s.accepted, time.Now())
}

func (h *history) closed(m *machine, who deliver.Identity, code uint16, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sessions[who.Session]
	s.closed, s.code, s.reason = time.Now(), code, reason
	h.w.event("%s closes session %s: %d %s", m, short(s.id), code, reason)
}

func (h *history) killed(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.killedAt[m] = time.Now()
}

// sent notes the grants that a node is sent. Of those an entry may end some before
// their handshake does: they are counted, and no application hears of them.
func (h *history) sent(m *machine, msg proto.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if resp, ok := msg.(*pb.RedeemResponse); ok {
		for _, r := range resp.GetResults() {
			if r.GetGrant() != nil {
				h.granted[m]++
			}
		}
	}
}

// told notes what the admin is told of a receipt.
func (h *history) told(rc *pb.Receipt) (complete bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := revisionFrom(rc.GetRevision())
	r := h.receipts[at]
	if r == nil {
		r = &receipt{rows: map[string]*pb.ReceiptRow{}, inGrace: map[string]time.Time{}, deadlines: map[string]time.Time{}}
		h.receipts[at] = r
	}
	r.last = rc
	for _, row := range rc.GetRows() {
		id := row.GetInstanceId()
		r.rows[id] = row
		if row.GetInGrace() && r.inGrace[id].IsZero() {
			r.inGrace[id] = time.Now()
		}
		if at := row.GetDeadline(); at != nil && (r.deadlines[id].IsZero() || at.AsTime().Before(r.deadlines[id])) {
			r.deadlines[id] = at.AsTime()
		}
	}
	if rc.GetComplete() && r.complete.IsZero() {
		r.complete = time.Now()
		h.w.event("receipt of %d is complete: %s", at.Sequence, rowsText(r.rows))
	}
	return rc.GetComplete()
}

func rowsText(rows map[string]*pb.ReceiptRow) (text string) {
	var out []string
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s %s closed %d lingering %d", r.GetNode(), r.GetInstanceId()[:8], r.GetClosed(), r.GetLingering()))
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

// hits reports whether an entry of the log ends a session: written anew here, as
// the promise has it. What was issued before a restore is hit by all that comes
// after it. mu is locked.
func (h *history) hits(e *storage.Entry, t *issued, s *session) bool {
	switch {
	case e.Kind == storage.LiftLock:
		return false
	case e.Revision.Epoch != t.revision.Epoch:
		if !h.isBefore(t.revision.Epoch, e.Revision.Epoch) {
			return false
		}
	case e.Revision.Sequence <= t.revision.Sequence:
		return false
	}
	sel := &e.Selector
	switch {
	case sel.Token != storage.TokenID{}:
		return sel.Token == storage.TokenID(s.token)
	case sel.Session != storage.SessionID{}: // of those on one socket only the first is known here
		return sel.Session == storage.SessionID(s.id) ||
			e.Kind != storage.Replace && sel.Session == storage.SessionID(s.first) && s.renewals <= 4
	case sel.Subject != "":
		return sel.Subject == t.subject && sel.Tenant == t.tenant
	case sel.Tenant != "":
		return sel.Tenant == t.tenant
	case sel.Prefix.IsValid():
		return sel.Prefix.Contains(t.ip) || sel.Prefix.Contains(s.ip)
	}
	return sel.AllSubjects || sel.Issuer == t.issuer
}

// releaseAfter is the deadline that a receipt names, after the commit.
const releaseAfter = sessionFence + sessionFence/1000 + time.Second

// check holds all that has happened against the promises about revocation.
func (h *history) check() {
	entries, err := h.w.store.Entries(context.Background(), storage.Revision{}, 1_000_000)
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkRestores()
	entries = append(entries, h.ended...)
	for i := range entries {
		e := &entries[i]
		r := h.receipts[e.Revision]
		for _, s := range h.order {
			t := h.tokens[s.token]
			if t == nil || !h.hits(e, t, s) {
				continue
			}
			last := s.accepted[len(s.accepted)-1]
			if r != nil && !r.complete.IsZero() && last.After(r.complete) {
				h.w.fault("entry %d, complete at %s, hits session %s, which %s accepts at %s", e.Revision.Sequence, h.w.at(r.complete), short(s.id), s.m, h.w.at(last))
			}
			h.checkGrace(e, s)
			if r != nil {
				instance := s.m.node.Instance()
				if at := r.deadlines[hex.EncodeToString(instance[:])]; !at.IsZero() && last.After(at) {
					h.w.fault("entry %d, whose receipt names %s for %s, hits session %s, which that accepts at %s", e.Revision.Sequence, h.w.at(at), s.m, short(s.id), h.w.at(last))
				}
			}
			deadline := e.CommittedAt.Add(releaseAfter)
			if end := graceEnd(e); e.Grace > 0 && end.After(deadline) {
				deadline = end
			}
			if h.w.fence > 0 && last.After(deadline) {
				h.w.fault("entry %d, with deadline %s, hits session %s, which %s accepts at %s", e.Revision.Sequence, h.w.at(deadline), short(s.id), s.m, h.w.at(last))
			}
		}
	}
}

// graceEnd is when a node that has an entry must have ended its grace: a clock that
// drifts may be late.
func graceEnd(e *storage.Entry) time.Time { return e.GraceUntil().Add(e.Grace/1000 + time.Millisecond) }

// checkGrace holds what a receipt says of a node in its grace against what that
// accepts from a session that the entry hits: nothing after its end, and nothing
// of a session that begins within it.
func (h *history) checkGrace(e *storage.Entry, s *session) {
	r := h.receipts[e.Revision]
	if r == nil {
		return
	}
	instance := s.m.node.Instance()
	told := r.inGrace[hex.EncodeToString(instance[:])]
	if told.IsZero() {
		return
	}
	if last := s.accepted[len(s.accepted)-1]; last.After(graceEnd(e)) {
		h.w.fault("entry %d, whose grace ends at %s, hits session %s, which %s accepts at %s", e.Revision.Sequence, h.w.at(graceEnd(e)), short(s.id), s.m, h.w.at(last))
	}
	if s.accepted[0].After(told) {
		h.w.fault("entry %d, in its grace on %s at %s, hits session %s, which that begins at %s", e.Revision.Sequence, s.m, h.w.at(told), short(s.id), h.w.at(s.accepted[0]))
	}
}

// checkCounts holds what receipts count against the sockets that were closed: no
// more are counted, whoever was killed, and no fewer where no row says that the
// node departed with something untold.
func (h *history) checkCounts() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.restores) > 0 {
		return // sockets are closed by no entry then, and receipts end with their history
	}
	for _, m := range h.w.nodes {
		_, partly := h.killedAt[m] // what it closed last, nobody heard
		instance := m.node.Instance()
		var counted, closed, opened int
		for _, r := range h.receipts {
			if row := r.rows[hex.EncodeToString(instance[:])]; row != nil {
				counted += int(row.GetClosed())
				partly = partly || row.GetDeparted() != ""
			}
		}
		for _, s := range h.order {
			if s.m == m {
				opened++
			}
			if s.m == m && (s.code == 4501 || s.code == 4503) { // others end by a renewal that was refused
				closed++
			}
		}
		if counted < closed && !partly || counted > closed+h.granted[m]-opened {
			h.w.fault("%s closed %d sockets by entries of the log; receipts count %d", m, closed, counted)
		}
	}
}

// fault is a broken promise.
func (w *world) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.event("FAULT: %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, text)
}

func (w *world) at(t time.Time) string { return fmt.Sprintf("%.4f", t.Sub(w.started).Seconds()) }
