// Package wstest is what tests of a node need: a fake authority that does as it
// is told, over gRPC or in memory; the client's side of a socket, byte for byte;
// and a listener in memory.
package wstest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// Gate is a kind of message that a fake authority can hold back.
type Gate int

// The gates.
const (
	Welcomes Gate = iota // of Attach streams
	Heartbeats
	Entries
	RedeemHellos
	Redemptions
	Reports
	gateCount
)

// Authority is a fake authority. It grants a session for each token that it
// issued, as often as that allows, keeps a log of revocations and locks and
// sends it to those that attach, and writes down what nodes tell it. Safe for
// concurrent use; fields are set before the first call.
type Authority struct {
	pb.UnimplementedNodeServiceServer

	HeartbeatInterval time.Duration
	AdmissionFence    time.Duration
	SessionFence      time.Duration
	SocketLife        time.Duration
	RetryAfter        time.Duration
	// Features are what its hello to Attach offers. With pb.FeatureAcknowledged
	// the answers to heartbeats tell what Keep has set.
	Features []string

	ring *token.Ring
	key  token.EdgeKey

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change
	held     [gateCount]bool
	decide   func(*pb.RedeemItem) *pb.RedeemResult
	down     error // for new calls
	breaks   int   // how often all streams were ended
	broken   error // the error they ended with
	epoch    uint64
	log      []*pb.Entry
	dropped  uint64   // of log, the oldest that no node is sent any more
	kept     uint64   // through where acknowledgements are said to be on disk
	pending  []uint64 // but for these
	locks    map[string]*pb.LockEntry
	tokens   map[token.ID]*issued
	sessions map[[16]byte]*Session
	pushed   []*pb.AttachResponse
	seen     Seen
}

// Seen is what nodes have told, in the order in which it came.
type Seen struct {
	Hellos           []*pb.AttachHello
	Redeems          []*pb.RedeemItem // all items of all requests
	Requests         int              // requests that they came in
	Heartbeats       []*pb.Heartbeat
	Acknowledgements []*pb.Acknowledgement
	Ended            []*pb.SessionEnd
	Goodbyes         int
}

// Forget forgets all tokens and sessions, and what was seen: for who measures
// what a node keeps.
func (a *Authority) Forget() {
	a.locked(func() {
		a.tokens, a.sessions, a.seen = map[token.ID]*issued{}, map[[16]byte]*Session{}, Seen{}
	})
}

// Session is one that was granted.
type Session struct {
	ID      [16]byte
	Token   token.ID
	Renews  [16]byte    // another session; zero for none
	Grants  int         // how often: once, and for each retry
	Reports []pb.Reason // of its end

	tenant, subject, audience string
}

// Token is what to issue. Zero fields get defaults.
type Token struct {
	Tenant, Subject, Issuer string
	Audience                string // any, if empty
	Scopes                  []string
	Attributes              map[string]string
	Limits                  *pb.SessionLimits
	TTL, SessionTTL         time.Duration // a minute and an hour
	Uses                    int           // 1
	Certificate             []byte        // SHA-256 of the client's that it is bound to; empty for none
}

type issued struct {
	Token
	text     string
	digest   token.Digest
	revision *pb.Revision
	used     int
}

// Issued names a token that was issued.
type Issued struct {
	Text string
	ID   token.ID
}

// NewAuthority makes an authority with an edge key and an empty log.
func NewAuthority() *Authority {
	a := &Authority{
		HeartbeatInterval: 20 * time.Millisecond, AdmissionFence: 10 * time.Second, SessionFence: time.Hour,
		changed: make(chan struct{}), epoch: 1, locks: map[string]*pb.LockEntry{},
		tokens: map[token.ID]*issued{}, sessions: map[[16]byte]*Session{},
		key: token.EdgeKey{ID: 7},
	}
	_, _ = rand.Read(a.key.Key[:]) // it never fails
	a.ring = token.NewRing([]token.EdgeKey{a.key})
	return a
}

// locked runs f and tells all who wait that something has changed.
func (a *Authority) locked(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Await waits until cond holds, which is looked at after each change.
func (a *Authority) Await(tb testing.TB, what string, cond func(*Seen) bool) {
	tb.Helper()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for {
		a.mu.Lock()
		ok, changed := cond(&a.seen), a.changed
		a.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			tb.Fatalf("waited too long for %s", what)
		}
	}
}

// Seen copies what was told so far.
func (a *Authority) Seen() Seen {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.seen
	s.Hellos, s.Redeems, s.Heartbeats = slices.Clone(s.Hellos), slices.Clone(s.Redeems), slices.Clone(s.Heartbeats)
	s.Acknowledgements, s.Ended = slices.Clone(s.Acknowledgements), slices.Clone(s.Ended)
	return s
}

// Sessions copies the sessions that were granted.
func (a *Authority) Sessions() []Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []Session
	for _, s := range a.sessions {
		c := *s
		c.Reports = slices.Clone(s.Reports)
		out = append(out, c)
	}
	return out
}

// Hold keeps a kind of message back, or lets it go again.
func (a *Authority) Hold(g Gate, held bool) { a.locked(func() { a.held[g] = held }) }

// OnRedeem has f decide instead of the authority; where it returns nil, the
// authority does. f must not call the authority.
func (a *Authority) OnRedeem(f func(*pb.RedeemItem) *pb.RedeemResult) {
	a.locked(func() { a.decide = f })
}

// Break ends all streams with err, or in good order if it is nil.
func (a *Authority) Break(err error) {
	if err == nil {
		err = io.EOF
	}
	a.locked(func() { a.breaks, a.broken = a.breaks+1, err })
}

// Down ends all streams, and fails all new calls with err until that is nil.
func (a *Authority) Down(err error) {
	a.locked(func() {
		a.down = err
		if err != nil {
			a.breaks, a.broken = a.breaks+1, err
		}
	})
}

// Restore goes back to an empty log in a new epoch, and ends all streams. Tokens
// issued before are not known any more.
func (a *Authority) Restore() {
	a.locked(func() {
		a.epoch++
		a.log, a.dropped, a.locks = nil, 0, map[string]*pb.LockEntry{}
		clear(a.tokens)
		clear(a.sessions)
		a.breaks, a.broken = a.breaks+1, status.Error(codes.Unavailable, "restored")
	})
}

// Drop drops all entries of the log, as an authority does with old ones that can
// hit nothing any more, and ends all streams. Who lacks some gets a snapshot.
func (a *Authority) Drop() {
	a.locked(func() {
		a.dropped = uint64(len(a.log))
		a.breaks, a.broken = a.breaks+1, status.Error(codes.Unavailable, "restarted")
	})
}

// Keep says from now on that acknowledgements are on disk through a sequence, but
// for what is pending.
func (a *Authority) Keep(through uint64, pending ...uint64) {
	a.locked(func() { a.kept, a.pending = through, pending })
}

// acknowledged is nil where the hello did not offer to tell it; mu is locked.
func (a *Authority) acknowledged() *pb.Revision {
	if !slices.Contains(a.Features, pb.FeatureAcknowledged) {
		return nil
	}
	return &pb.Revision{Epoch: a.epoch, Sequence: a.kept}
}

// Push sends m to whoever is attached, whatever it is.
func (a *Authority) Push(m *pb.AttachResponse) {
	a.locked(func() { a.pushed = append(a.pushed, m) })
}

func (a *Authority) head() *pb.Revision {
	return &pb.Revision{Epoch: a.epoch, Sequence: uint64(len(a.log))}
}

// Head is the newest revision.
func (a *Authority) Head() *pb.Revision {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.head()
}

// Issue makes a token.
func (a *Authority) Issue(t Token) Issued {
	for field, value := range map[*string]string{&t.Tenant: "default", &t.Subject: "u42", &t.Issuer: "login"} {
		if *field == "" {
			*field = value
		}
	}
	t.TTL, t.SessionTTL, t.Uses = max(t.TTL, 0), max(t.SessionTTL, 0), max(t.Uses, 1)
	if t.TTL == 0 {
		t.TTL = time.Minute
	}
	if t.SessionTTL == 0 {
		t.SessionTTL = time.Hour
	}
	minted, err := a.ring.Mint(a.key.ID, time.Now().Add(t.TTL), rand.Reader)
	if err != nil {
		panic(err) // the ring has the key
	}
	text := string(minted.AppendText(nil))
	a.locked(func() {
		a.tokens[minted.ID] = &issued{Token: t, text: text, digest: minted.Secret.Digest(), revision: a.head()}
	})
	return Issued{text, minted.ID}
}

// Revoke appends a revocation to the log.
func (a *Authority) Revoke(s *pb.Selector) *pb.Revision {
	return a.append(func(e *pb.Entry) { e.Event = &pb.Entry_Revoked{Revoked: s} })
}

// RevokeWithin appends a revocation with a grace.
func (a *Authority) RevokeWithin(s *pb.Selector, grace time.Duration) *pb.Revision {
	return a.RevokeUntil(s, time.Now().Add(grace), grace)
}

// RevokeUntil is RevokeWithin by a clock that may be another.
func (a *Authority) RevokeUntil(s *pb.Selector, until time.Time, grace time.Duration) *pb.Revision {
	return a.append(func(e *pb.Entry) {
		e.Event, e.GraceUntil = &pb.Entry_Revoked{Revoked: s}, timestamppb.New(until)
		e.Grace = durationpb.New(grace)
	})
}

// Replace appends that newer sessions took the place of one.
func (a *Authority) Replace(session [16]byte) *pb.Revision {
	return a.append(func(e *pb.Entry) {
		e.Event, e.Replaced = &pb.Entry_Revoked{Revoked: BySession(session)}, true
	})
}

// Lock appends a lock to the log.
func (a *Authority) Lock(s *pb.LockSelector) (id string, at *pb.Revision) {
	at = a.append(func(e *pb.Entry) {
		id = fmt.Sprintf("%032x", e.GetRevision().GetSequence())
		l := &pb.LockEntry{LockId: id, Selector: s, Revision: e.GetRevision()}
		e.Event = &pb.Entry_Locked{Locked: l}
		a.locks[id] = l
	})
	return id, at
}

// Unlock appends the end of a lock to the log.
func (a *Authority) Unlock(id string) *pb.Revision {
	return a.append(func(e *pb.Entry) {
		e.Event = &pb.Entry_Unlocked{Unlocked: id}
		delete(a.locks, id)
	})
}

func (a *Authority) append(set func(*pb.Entry)) (at *pb.Revision) {
	a.locked(func() {
		e := &pb.Entry{Revision: a.head()}
		e.Revision.Sequence++
		set(e)
		a.log = append(a.log, e)
		at = proto.CloneOf(e.GetRevision())
	})
	return at
}

// BySubject, ByToken and BySession select what to revoke.
func BySubject(tenant, subject string) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: tenant, Subject: subject}}}
}

// ByToken selects a token and its sessions.
func ByToken(id token.ID) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_TokenId{TokenId: id.String()}}
}

// BySession selects one session.
func BySession(id [16]byte) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_SessionId{SessionId: hex.EncodeToString(id[:])}}
}

// check refuses what no node may ask, as the real authority does: it fails the
// stream.
func check(item *pb.RedeemItem) error {
	o := item.GetObserved()
	switch {
	case len(item.GetTokenId()) != 16:
		return errors.New("token_id: want 16 bytes")
	case len(item.GetDigest()) != len(token.Digest{}):
		return errors.New("digest: want 32 bytes")
	case len(item.GetSessionId()) != 16:
		return errors.New("session_id: want 16 bytes")
	case len(o.GetIp()) != 4 && len(o.GetIp()) != 16:
		return errors.New("observed.ip: want 4 or 16 bytes")
	case len(o.GetUserAgent()) > 512 || len(o.GetOrigin()) > 512:
		return errors.New("observed: a field is above 512 bytes")
	case len(o.GetClientCertificateSha256()) != 0 && len(o.GetClientCertificateSha256()) != sha256.Size:
		return errors.New("observed.client_certificate_sha256: want 32 bytes, or none")
	case len(item.GetRenewsSessionId()) != 0 && len(item.GetRenewsSessionId()) != 16:
		return errors.New("renews_session_id: want 16 bytes")
	case item.GetAudience() == "" || len(item.GetAudience()) > 128:
		return errors.New("audience: want 1 to 128 bytes")
	}
	return nil
}

// redeem decides one item; the lock is held.
func (a *Authority) redeem(item *pb.RedeemItem) *pb.RedeemResult {
	if a.decide != nil {
		if r := a.decide(item); r != nil {
			if r.GetGrant() != nil {
				a.granted(item)
			}
			return r
		}
	}
	t := a.tokens[token.ID(item.GetTokenId())]
	sid := [16]byte(item.GetSessionId())
	switch s := a.sessions[sid]; {
	case t == nil:
		return RefusalOf(pb.Reason_REASON_TOKEN_UNKNOWN)
	case token.Digest(item.GetDigest()) != t.digest:
		return RefusalOf(pb.Reason_REASON_TOKEN_SECRET_WRONG)
	case item.GetSingleUseOnly() && t.Uses > 1:
		return RefusalOf(pb.Reason_REASON_TOKEN_CARRIER)
	case t.Audience != "" && t.Audience != item.GetAudience():
		return RefusalOf(pb.Reason_REASON_AUDIENCE_MISMATCH)
	case len(t.Certificate) > 0 && !bytes.Equal(t.Certificate, item.GetObserved().GetClientCertificateSha256()):
		return RefusalOf(pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH)
	case a.revoked(item, t):
		return RefusalOf(pb.Reason_REASON_TOKEN_REVOKED)
	case s != nil && len(s.Reports) > 0:
		return RefusalOf(pb.Reason_REASON_SESSION_ENDED)
	case len(item.GetRenewsSessionId()) > 0 && a.renewalReason(item, t) != 0:
		return RefusalOf(a.renewalReason(item, t))
	case s == nil && t.used >= t.Uses:
		return RefusalOf(pb.Reason_REASON_TOKEN_USED)
	case s == nil:
		t.used++
	}
	a.granted(item)
	return a.grant(t)
}

// renewalReason is why t may not renew a session, or 0.
func (a *Authority) renewalReason(item *pb.RedeemItem, t *issued) pb.Reason {
	s := a.sessions[[16]byte(item.GetRenewsSessionId())]
	switch {
	case s == nil || len(s.Reports) > 0:
		return pb.Reason_REASON_SESSION_ENDED
	case s.tenant != t.Tenant || s.subject != t.Subject || s.audience != item.GetAudience():
		return pb.Reason_REASON_RENEWAL_MISMATCH
	}
	return 0
}

func (a *Authority) granted(item *pb.RedeemItem) {
	sid := [16]byte(item.GetSessionId())
	if a.sessions[sid] == nil {
		s := &Session{ID: sid, Token: token.ID(item.GetTokenId()), audience: item.GetAudience()}
		if t := a.tokens[s.Token]; t != nil {
			s.tenant, s.subject = t.Tenant, t.Subject
		}
		copy(s.Renews[:], item.GetRenewsSessionId())
		a.sessions[sid] = s
	}
	a.sessions[sid].Grants++
}

func (a *Authority) grant(t *issued) *pb.RedeemResult {
	return &pb.RedeemResult{Outcome: &pb.RedeemResult_Grant{Grant: &pb.Grant{
		Tenant: t.Tenant, Subject: t.Subject, Issuer: t.Issuer, Scopes: t.Scopes, Attributes: t.Attributes, Limits: t.Limits,
		SessionExpiresAt: timestamppb.New(time.Now().Add(t.SessionTTL)), IssuedRevision: t.revision, AsOf: a.head(),
	}}}
}

// GrantAt is the grant of an issued token as the authority would give it, with
// another AsOf. It may be called from OnRedeem's function.
func (a *Authority) GrantAt(item *pb.RedeemItem, asOf *pb.Revision) *pb.RedeemResult {
	r := a.grant(a.tokens[token.ID(item.GetTokenId())])
	r.GetGrant().AsOf = asOf
	return r
}

// RefusalOf is a no.
func RefusalOf(r pb.Reason) *pb.RedeemResult {
	return &pb.RedeemResult{Outcome: &pb.RedeemResult_Refusal{Refusal: &pb.Refusal{Reason: r}}}
}

// revoked reports whether an entry above the token's revision names it, its
// session, its tenant or its subject.
func (a *Authority) revoked(item *pb.RedeemItem, t *issued) bool {
	for _, e := range a.log[t.revision.GetSequence():] {
		s := e.GetRevoked()
		if s.GetTokenId() == token.ID(item.GetTokenId()).String() ||
			s.GetSessionId() == hex.EncodeToString(item.GetSessionId()) ||
			s.GetTenant() != "" && s.GetTenant() == t.Tenant ||
			s.GetSubject().GetSubject() == t.Subject && s.GetSubject().GetTenant() == t.Tenant {
			return true
		}
	}
	return false
}
