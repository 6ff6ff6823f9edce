package sim

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// renewer renews the token of one socket from time to time. A token that opens
// several sockets is left alone: history could not tell whose it was.
type renewer struct {
	w     *world
	m     *machine
	may   time.Time // when the node takes the next renewal
	known *issued   // what the socket's token says; nil for one that is left alone

	mu        sync.Mutex
	old, next [16]byte // tokens: the socket's, and the one that is being shown
	asking    bool     // with that
	urged     bool     // the node has told it to renew
}

func (w *world) newRenewer(m *machine, text string) *renewer {
	r := &renewer{w: w, m: m, may: time.Now().Add(time.Second)}
	var t token.Token
	if err := token.Parse([]byte(text), &t); err != nil {
		w.t.Error(err)
		return r
	}
	h := &w.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.tokens[t.ID]; known != nil && known.uses == 1 {
		r.known, r.old = known, t.ID
	}
	return r
}

// message is what the client sends next: mostly something for the application.
func (r *renewer) message(c *chances) string {
	if r.known == nil {
		return "hello"
	}
	r.mu.Lock()
	asking, urged := r.asking, r.urged
	r.mu.Unlock()
	switch {
	case urged && !asking && c.chance(50): // some do as they are told, soon
	case time.Now().Before(r.may) || !c.chance(20):
		return "hello"
	}
	return r.renewal(c)
}

// renewal issues a token and asks to go on by it.
func (r *renewer) renewal(c *chances) string {
	text := r.w.issue(r.w.ctx, c, r.known.issuer, &pb.IssueTokenRequest{
		Tenant: r.known.tenant, Subject: r.known.subject, Audience: "chat", ClientIp: r.known.ip.String(),
	})
	var t token.Token
	if text == "" || token.Parse([]byte(text), &t) != nil {
		return "hello"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.may, r.next, r.asking, r.urged = time.Now().Add(5*time.Second), t.ID, true, false
	return `{"gatehouse":"renew","token":"` + text + `"}`
}

// hear takes what the node sends.
func (r *renewer) hear(payload []byte) {
	if !bytes.HasPrefix(payload, []byte(`{"gatehouse"`)) {
		return
	}
	var told struct{ Gatehouse string }
	if err := json.Unmarshal(payload, &told); err != nil || !slices.Contains([]string{"renewed", "renew_failed", "renew_by"}, told.Gatehouse) {
		r.w.fault("%s says %q", r.m, payload)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch told.Gatehouse {
	case "renewed":
		r.w.history.renewed(r.m, r.old, r.next)
		r.old, r.asking = r.next, false
	case "renew_failed":
		r.asking = false
	case "renew_by":
		r.urged = true
	}
}

// renewed ends the session of one token and begins that of another on the same
// socket: what the node accepts from now on, it accepts by the other.
func (h *history) renewed(m *machine, old, next [16]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.tokens[next]; t.opened > 0 {
		h.w.fault("token %x renews a session though it was used", next[12:])
	} else {
		t.opened++
	}
	for i, s := range h.order {
		if s.m != m || s.token != old || s.was {
			continue
		}
		h.w.event("%s renews session %s of token %x with token %x", m, short(s.id), old[12:], next[12:])
		before := *s
		before.was, before.code = true, 0 // what closed the socket, if anything has by now, ended the other
		h.order[i] = &before
		s.renewals++
		s.token, s.id, s.accepted = next, [16]byte{}, []time.Time{time.Now()} // nobody tells the application its new id
		h.order = append(h.order, s)
		return
	}
	h.w.fault("%s renews a session of token %x that it does not have", m, old[12:])
}

// renewals are races of a renewal in place with a revocation.
var renewals = []race{
	{
		// The old session is in the node's table, and the new one is not.
		name: "a grant in flight of a renewal is checked against what was revoked since",
		off:  rules{tap: grantsAreNew},
		schedule: func(w *world, _ bool) {
			w.patience = 10 * time.Second
			m := w.begin("node-0")
			ada := w.talker(m, "ada")
			m.link.close(isAnswer)
			at := w.revokeBy(byToken(ada.renew()))
			time.Sleep(1500 * time.Millisecond)
			w.expectRow(at, 0, 0) // the old session goes on
			m.link.close(nil)
			time.Sleep(time.Second)
		},
		broken: "complete at",
	},
	{
		// The entry was committed before the sessions were exchanged, and comes
		// after.
		name: "a socket that is renewed is hit by what its new token was issued before",
		off: rules{tap: func(_ *link, m proto.Message) {
			for _, r := range asRedeem(m).GetResults() {
				if g := r.GetGrant(); g != nil {
					g.IssuedRevision.Sequence = 1 << 62
				}
			}
		}},
		schedule: func(w *world, off bool) {
			w.patience = 10 * time.Second
			m := w.begin("node-0")
			ada := w.talker(m, "ada")
			m.link.close(isAnswer)
			next := ada.renew()
			m.link.stick(isEntries)
			at := w.revokeUser("ada")
			time.Sleep(time.Second)
			m.link.close(nil) // the answer comes, as of before the entry
			time.Sleep(time.Second)
			if ada.shown() != next {
				w.fault("the session is not renewed")
			}
			m.link.stick(nil)
			time.Sleep(time.Second)
			if !off {
				w.expectRow(at, 1, 0)
			}
			time.Sleep(time.Second)
		},
		broken: "complete at",
	},
	renewalOfRevoked("token", func(_ *world, ada *talker) *pb.Selector { return byToken(ada.shown()) }),
	renewalOfRevoked("session", func(w *world, _ *talker) *pb.Selector {
		id := w.history.any(w.chances).id
		return &pb.Selector{By: &pb.Selector_SessionId{SessionId: hex.EncodeToString(id[:])}}
	}),
	renewalOfRevoked("subject", func(*world, *talker) *pb.Selector { return bySubject("ada") }),
}

// renewalOfRevoked is a race of the revocation of a session with its renewal:
// the answer, which was decided before, comes when the session has ended.
func renewalOfRevoked(what string, sel func(w *world, ada *talker) *pb.Selector) race {
	return race{
		name: "a renewal under way does not save a socket whose " + what + " is revoked",
		off:  rules{tap: nothingIsApplied},
		schedule: func(w *world, off bool) {
			w.patience = 10 * time.Second
			m := w.begin("node-0")
			ada := w.talker(m, "ada")
			m.link.close(isAnswer)
			next := ada.renew()
			at := w.revokeBy(sel(w, ada))
			time.Sleep(1500 * time.Millisecond)
			if !off {
				w.expectRow(at, 1, 0)
			}
			m.link.close(nil)
			time.Sleep(time.Second)
			if !off && ada.shown() == next {
				w.fault("the session is renewed after all")
			}
		},
		broken: "complete at",
	}
}
