package wsnode

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// renewEvery is how often a socket may ask for a renewal.
const renewEvery = 5 * time.Second

// nodeMember is the name that makes a message the node's own, where it is the
// first of a JSON object.
const nodeMember = `"gatehouse"`

// forNode reports whether a text is for the node and not for the application. It
// looks at the first bytes alone, and allocates nothing.
func forNode(payload []byte) bool {
	rest, ok := cutJSON(payload, "{")
	if ok {
		_, ok = cutJSON(rest, nodeMember)
	}
	return ok
}

// cutJSON cuts white space and then want off the front of b.
func cutJSON(b []byte, want string) (rest []byte, found bool) {
	return bytes.CutPrefix(cutSpace(b), []byte(want))
}

// cutSpace cuts JSON's white space off the front of b.
func cutSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	return b
}

// parseRenewal finds the token in a renewal, {"gatehouse":"renew","token":"..."}
// with these members in this order and no other. text is a view into b. What it
// takes is JSON if b is UTF-8.
func parseRenewal(b []byte) (text []byte, ok bool) {
	for _, want := range []string{"{", nodeMember, ":", `"renew"`, ",", `"token"`, ":", `"`} {
		if b, ok = cutJSON(b, want); !ok {
			return nil, false
		}
	}
	end := bytes.IndexFunc(b, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' })
	if end < 0 || b[end] != '"' {
		return nil, false
	}
	rest, ok := cutJSON(b[end+1:], "}")
	return b[:end], ok && len(cutSpace(rest)) == 0
}

// renew takes a message that is for the node. An error ends the session.
func (p *peer) renew(payload []byte) error {
	text, ok := parseRenewal(payload)
	if !ok {
		return errNodeMessage
	}
	m := p.needMore()
	if m.renewal != nil || p.n.instant(p.now) < m.mayRenew {
		return errRenewalRate
	}
	m.mayRenew = p.n.instant(p.now.Add(renewEvery))
	var t token.Token
	if reason := p.n.checkToken(text, &t, p.now); reason != 0 {
		return renewalRefused(reason)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	attempt := p.attemptWith(&t, p.n.sessions.idFor(id, t.ID))
	a := &attempt
	a.UserAgent, a.Origin = []byte(p.party.userAgent), []byte(p.party.origin)
	if m.certificate != "" {
		a.Certificate = []byte(m.certificate)
	}
	a.Renews = p.session
	a.Done = func(o verify.Outcome) { p.renewed(a, o) }
	m.renewal = a
	p.n.verify.Redeem(a)
	return nil
}

// renewed takes the authority's answer to the connection's next turn.
func (p *peer) renewed(a *verify.Attempt, o verify.Outcome) {
	if !p.post(func(now time.Time, out []byte) []byte {
		p.now = now
		return p.concludeRenewal(a, o, out)
	}) {
		p.n.giveBack(o, a.Session, time.Now())
	}
}

// concludeRenewal puts a new session in the place of the socket's old one, or
// tells the peer why there is none.
func (p *peer) concludeRenewal(a *verify.Attempt, o verify.Outcome, out []byte) []byte {
	if p.conn.State() != wsconn.StateOpen || p.ending() != nil {
		p.n.giveBack(o, a.Session, p.now)
		return out
	}
	g, old, party := o.Grant, p.bearer(), p.party
	if g == nil {
		return p.notRenewed(o.Reason, o.RetryAfter, out)
	}
	if g.Identity.Tenant != old.Tenant || g.Identity.Subject != old.Subject { // an authority that knows no renewals
		p.n.verify.Ended(a.Session, pb.Reason_REASON_RENEWAL_MISMATCH, p.now)
		return p.notRenewed(pb.Reason_REASON_RENEWAL_MISMATCH, 0, out)
	}
	g.Identity.Renewed = old.Renewing()
	if p.n.verify.InGrace(&g.Identity) { // by an older name of the session, which the authority was not told
		p.n.verify.Ended(a.Session, pb.Reason_REASON_TOKEN_REVOKED, p.now)
		return p.notRenewed(pb.Reason_REASON_TOKEN_REVOKED, 0, out)
	}
	switch reason, again := p.settle(p.holderOf(g, a.UserAgent, a.Origin), a, g); {
	case again:
		return out
	case reason != 0:
		return p.notRenewed(reason, 0, out)
	}
	p.leaveParty(party)
	p.needMore().renewal = nil
	p.bind(g)
	p.n.verify.Ended(old.Session, pb.Reason_REASON_RENEWED, p.now)
	p.n.metrics.closed[pb.Reason_REASON_RENEWED].Inc()
	p.n.log.Info("session renewed", "session_id", hex.EncodeToString(g.Identity.Session[:]), "token_id", g.Identity.Token.String(),
		"renewed_session_id", hex.EncodeToString(old.Session[:]), "renewed_token_id", old.Token.String(),
		"tenant", g.Identity.Tenant, "subject", g.Identity.Subject, "client_ip", p.addr.String())
	return p.tell(out, `{"gatehouse":"renewed","expires_at":%q}`, g.ExpiresAt.UTC().Format(time.RFC3339))
}

// notRenewed tells the peer that its renewal was refused. For good, and then its
// socket closes; or for now, as where the authority can't be reached, and then
// the session goes on as it was.
func (p *peer) notRenewed(reason pb.Reason, retryAfter time.Duration, out []byte) []byte {
	retryAfter = p.retryAfter(reason, retryAfter)
	m, who, cause := p.needMore(), p.bearer(), renewalRefused(reason)
	m.renewal = nil
	// Within a grace the token may be from before it; one from after would do.
	again := reason == pb.Reason_REASON_TOKEN_REVOKED && p.n.verify.InGrace(&who)
	if closeFor(cause).err == cause && !again {
		return p.close(cause, out)
	}
	p.n.metrics.postpone(reason)
	p.n.log.Info("renewal postponed", "session_id", hex.EncodeToString(who.Session[:]), "token_id", who.Token.String(),
		"reason", reason.Label(), "tenant", who.Tenant, "subject", who.Subject, "client_ip", p.addr.String())
	wait := max(retryAfter, defaultRetry, p.n.time(m.mayRenew).Sub(p.now))
	return p.tell(out, `{"gatehouse":"renew_failed","retry_after":%d}`, wholeSeconds(wait))
}

// warn has a turn tell the peer until when to renew. It may do so at once.
func (p *peer) warn(e *verify.Entry) {
	p.post(func(now time.Time, out []byte) []byte {
		p.now = now
		if !p.admitted || p.conn.State() != wsconn.StateOpen || p.ending() != nil || !p.hitBy(e) {
			return out
		}
		p.needMore().mayRenew = p.n.instant(now)
		return p.tell(out, `{"gatehouse":"renew_by","at":%q}`, e.GraceUntil.UTC().Format(time.RFC3339))
	})
}

// tell appends a message of the node's own.
func (p *peer) tell(out []byte, format string, args ...any) []byte {
	return wsconn.AppendFrame(out, ws.OpText, fmt.Appendf(nil, format, args...))
}
