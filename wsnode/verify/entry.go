package verify

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// Revision is the place of an entry in the authority's log.
type Revision struct{ Epoch, Sequence uint64 }

// After reports whether r lies above o. An entry of another epoch lies above
// everything of this one: its store was restored, and what was issued before
// counts no more.
func (r Revision) After(o Revision) bool {
	return r.Epoch != o.Epoch || r.Sequence > o.Sequence
}

func revisionFrom(r *pb.Revision) Revision { return Revision{r.GetEpoch(), r.GetSequence()} }

func (r Revision) wire() *pb.Revision { return &pb.Revision{Epoch: r.Epoch, Sequence: r.Sequence} }

// Identity is who a session belongs to: what an entry is matched with.
type Identity struct {
	Session [16]byte
	Token   token.ID
	Tenant  string
	Subject string
	Issuer  string
	// TokenIP is the address the token is bound to, if any; ClientIP the one the
	// node sees.
	TokenIP, ClientIP netip.Addr
	// Issued is the log's head when the token was issued: entries above it hit.
	Issued Revision
	// Renewed are the sessions that it has renewed, one after the other, the newest
	// last: as many as Renewing keeps.
	Renewed [][16]byte
}

// maxRenewed is how many sessions are known that were renewed: whoever names one
// has looked a few renewals ago.
const maxRenewed = 4

// Renewing is what a session that renews that of who has renewed.
func (who *Identity) Renewing() [][16]byte {
	from := max(0, len(who.Renewed)+1-maxRenewed)
	return append(slices.Clone(who.Renewed[from:]), who.Session)
}

// Entry is one commit of the log, as far as sessions go.
type Entry struct {
	Revision Revision
	// Lock says that a lock closed the sessions, not a revocation.
	Lock bool
	// Replaced says that newer sessions took the place of the one that it ends.
	Replaced bool
	// GraceUntil is until when sessions may renew, by the authority's clock; zero
	// where they must end at once.
	GraceUntil time.Time
	Grace      time.Duration // how long that is, from the entry's commit; 0 where it is not told

	// One of these is set; tenant goes with subject or stands alone. None is for
	// an entry that ends nothing.
	session [16]byte
	token   token.ID
	tenant  string
	subject string
	prefix  netip.Prefix
	issuer  string
	all     bool // everyone
}

// Hits reports whether the entry ends the session of who.
func (e *Entry) Hits(who *Identity) bool { return e.Revision.After(who.Issued) && e.selects(who) }

func (e *Entry) selects(who *Identity) bool {
	switch {
	case e.session != [16]byte{}:
		return e.session == who.Session || !e.Replaced && slices.Contains(who.Renewed, e.session)
	case !e.token.IsZero():
		return e.token == who.Token
	case e.subject != "":
		return e.subject == who.Subject && e.tenant == who.Tenant
	case e.tenant != "":
		return e.tenant == who.Tenant
	case e.prefix.IsValid():
		return e.prefix.Contains(who.TokenIP) || e.prefix.Contains(who.ClientIP)
	case e.issuer != "":
		return e.issuer == who.Issuer
	}
	return e.all
}

// Narrow is what a one-user entry selects, so that whoever indexes sessions
// need not look at all of them. One of the results is set, or wide; none for an
// entry that ends nothing.
func (e *Entry) Narrow() (session [16]byte, id token.ID, subject string, wide bool) {
	wide = e.subject == "" && e.tenant != "" || e.prefix.IsValid() || e.issuer != "" || e.all
	return e.session, e.token, e.subject, wide
}

var errMalformedEntry = errors.New("authority sent a malformed entry")

func entryFrom(in *pb.Entry) (Entry, error) {
	e := Entry{Revision: revisionFrom(in.GetRevision())}
	var err error
	switch ev := in.GetEvent().(type) {
	case *pb.Entry_Revoked:
		if until := in.GetGraceUntil(); until != nil {
			e.GraceUntil, e.Grace = until.AsTime(), in.GetGrace().AsDuration()
		}
		e.Replaced = in.GetReplaced()
		err = e.setSelector(ev.Revoked)
	case *pb.Entry_Locked:
		e.Lock = true
		err = e.setLockSelector(ev.Locked.GetSelector())
	case *pb.Entry_Unlocked:
	default: // of a newer version, as a selector may be
		err = errMalformedEntry
	}
	if err != nil {
		return e, fmt.Errorf("entry %d: %w", e.Revision.Sequence, err)
	}
	return e, nil
}

func (e *Entry) setSelector(s *pb.Selector) (err error) {
	switch by := s.GetBy().(type) {
	case *pb.Selector_TokenId:
		e.token, err = token.ParseID(by.TokenId)
	case *pb.Selector_SessionId:
		var id []byte
		if id, err = hex.DecodeString(by.SessionId); err == nil && len(id) == len(e.session) {
			e.session = [16]byte(id)
		}
	case *pb.Selector_Subject:
		e.setSubject(by.Subject)
	case *pb.Selector_Tenant:
		e.tenant = by.Tenant
	case *pb.Selector_IpPrefix:
		err = e.setPrefix(by.IpPrefix)
	case *pb.Selector_Issuer:
		e.issuer = by.Issuer
	case *pb.Selector_AllSubjects:
		e.all = by.AllSubjects
	}
	return e.checkSelector(err)
}

func (e *Entry) setLockSelector(s *pb.LockSelector) (err error) {
	switch by := s.GetBy().(type) {
	case *pb.LockSelector_Subject:
		e.setSubject(by.Subject)
	case *pb.LockSelector_Tenant:
		e.tenant = by.Tenant
	case *pb.LockSelector_IpPrefix:
		err = e.setPrefix(by.IpPrefix)
	case *pb.LockSelector_Issuer:
		e.issuer = by.Issuer
	}
	return e.checkSelector(err)
}

// setSubject leaves a subject without name unset: by its tenant alone it would
// hit everyone there.
func (e *Entry) setSubject(s *pb.Subject) {
	if s.GetSubject() != "" {
		e.tenant, e.subject = s.GetTenant(), s.GetSubject()
	}
}

// setPrefix writes an IPv4 prefix as IPv4, as addresses of sessions are.
func (e *Entry) setPrefix(text string) error {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return err
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	e.prefix = p
	return nil
}

// checkSelector refuses a selector that was not understood: what is not
// understood is not enforced, and must not be acknowledged.
func (e *Entry) checkSelector(err error) error {
	if err != nil || e.session == [16]byte{} && e.token.IsZero() && e.subject == "" && e.tenant == "" && !e.prefix.IsValid() && e.issuer == "" && !e.all {
		return errMalformedEntry
	}
	return nil
}
