package sim

import (
	"bytes"
	"encoding/json"
	"sync"
	"time"

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
	if r.known == nil || time.Now().Before(r.may) || !c.chance(20) {
		return "hello"
	}
	text := r.w.issue(r.w.ctx, c, r.known.issuer, &pb.IssueTokenRequest{
		Tenant: r.known.tenant, Subject: r.known.subject, Audience: "chat", ClientIp: r.known.ip.String(),
	})
	var t token.Token
	if text == "" || token.Parse([]byte(text), &t) != nil {
		return "hello"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.may, r.next = time.Now().Add(5*time.Second), t.ID
	return `{"gatehouse":"renew","token":"` + text + `"}`
}

// hear takes what the node sends.
func (r *renewer) hear(payload []byte) {
	if !bytes.HasPrefix(payload, []byte(`{"gatehouse"`)) {
		return
	}
	var told struct{ Gatehouse string }
	if err := json.Unmarshal(payload, &told); err != nil || told.Gatehouse != "renewed" && told.Gatehouse != "renew_failed" {
		r.w.fault("%s says %q", r.m, payload)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if told.Gatehouse == "renewed" {
		r.w.history.renewed(r.m, r.old, r.next)
		r.old = r.next
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
		s.token, s.id, s.accepted = next, [16]byte{}, []time.Time{time.Now()} // nobody tells the application its new id
		h.order = append(h.order, s)
		return
	}
	h.w.fault("%s renews a session of token %x that it does not have", m, old[12:])
}
