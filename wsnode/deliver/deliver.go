// Package deliver is where messages go that have passed every check, and how an
// application answers them.
package deliver

import (
	"errors"
	"net/netip"
	"time"
	"unicode/utf8"
)

// Handler is an application inside the node's process. The node calls it from
// the goroutines that read sockets.
//
// For one session the calls come one after another and in order: Opened,
// messages, Closed. Those of different sessions may run at the same time, so
// what sessions share needs a lock of the handler's own.
//
// A handler must not block: while it runs, every socket of the same loop waits.
// What takes longer than some microseconds belongs on a goroutine or a queue of
// its own, which must be bounded.
type Handler interface {
	// Opened tells of a session that has passed its opening handshake.
	Opened(s Session)

	// Message hands over one message. payload is borrowed until Message returns;
	// what is kept must be copied. That of a Text message is valid UTF-8.
	//
	// An error closes the session with 1011 and is logged.
	Message(s Session, op Op, payload []byte) error

	// Closed tells that a session has ended, once for each Opened and never from
	// within another call. code is the status code of RFC 6455 section 7.1.5: 1006
	// where no close frame ended it. reason is the node's name for the cause.
	Closed(s Session, code uint16, reason string)
}

// Errors of a session's methods.
var (
	// ErrClosed says that the session has ended or is ending.
	ErrClosed = errors.New("session is closed")
	// ErrSlowReader says that the peer reads too slowly: with this message more
	// bytes would wait for it than may. The node closes the session with 1013.
	ErrSlowReader = errors.New("peer reads too slowly")
	// ErrMessageTooBig says that this message alone is more than may wait. The
	// session stays open.
	ErrMessageTooBig = errors.New("message is too big to send")
	// ErrNotAllowed says that the route's schemas for messages of the application do
	// not allow this one. It is not sent, and the session goes on or is closed, as
	// the route has it.
	ErrNotAllowed = errors.New("message is not allowed by its schema")
	// ErrBusy says that so many broadcasts are under way that this one would wait. It
	// is sent to nobody.
	ErrBusy = errors.New("too many broadcasts are under way: wait a little before the next")
	// ErrNobody says that a broadcast selects nobody.
	ErrNobody = errors.New("broadcast selects nobody: say a route, a tenant or a subject, or all")
	// ErrNoTenant says that a broadcast is to a subject of any tenant.
	ErrNoTenant = errors.New("broadcast to a subject without its tenant")
	// ErrCloseCode says that a close code is not an application's to send.
	ErrCloseCode = errors.New("close code is neither 1000 nor between 3000 and 4999")
	// ErrCloseReason says that a close reason is longer than 123 bytes or not
	// valid UTF-8.
	ErrCloseReason = errors.New("close reason is longer than 123 bytes or not UTF-8")
)

// Op is a message's opcode (RFC 6455 section 5.2).
type Op byte

// The opcodes of messages.
const (
	Text   Op = 1
	Binary Op = 2
)

// Identity is who a session is, as the authority has said at the opening
// handshake. Its Scopes and Attributes are shared and must not be changed. A
// renewal changes neither it nor its Session: tenant, subject and route stay
// true, while the authority then knows the session by another id, token, scopes
// and end.
type Identity struct {
	Session [16]byte // random, drawn by the node
	Token   [16]byte // the token's id, a ULID

	Tenant     string
	Subject    string
	Route      string            // the audience that the token was issued for
	Scopes     []string          // message types it may send; none means all
	Attributes map[string]string // what the application attached to the token

	ClientAddr netip.Addr
	OpenedAt   time.Time // to a hundredth of a second, within the first 497 days of the node
	ExpiresAt  time.Time // by the node's clock; a renewal moves the end, but not this
}

// Session is what a handler may do with a socket. It is a value: copy it, keep
// it, compare it, use it as the key of a map. One that outlives its socket is
// harmless: its methods then return ErrClosed. Safe for concurrent use.
//
// It is no interface and no pointer of its own, so that a node which keeps its
// sockets in tables can make one for each call without allocating.
type Session struct {
	// Set by the node: the loop that owns the socket, and the socket's number
	// there.
	Sockets Sockets
	Ref     Ref
}

// Identity is who the session is, also after its end. It is put together by each
// call, since a node keeps of a session no more than it must: a handler that
// needs it often for long is cheaper off with a copy of what it needs.
func (s Session) Identity() Identity { return s.Sockets.Identity(s.Ref) }

// Ref is how a loop names one of its sockets. It is not given to another socket
// later.
type Ref uint64

// Sockets is a loop of the node, as sessions use it. All methods are safe for
// concurrent use, also from within a Handler's call, and must not block. For a
// Ref whose socket is gone they return ErrClosed.
type Sockets interface {
	// Identity is that of the session, also of one that has ended.
	Identity(ref Ref) Identity
	// Send queues one message and keeps nothing of payload. It returns nil,
	// ErrClosed, ErrSlowReader, ErrMessageTooBig or ErrNotAllowed.
	Send(ref Ref, op Op, payload []byte) error
	// Close begins the closing handshake, after what Send has queued before.
	Close(ref Ref, code uint16, reason string) error
}

// Send queues a text message, which the caller knows to be UTF-8: a peer ends
// the connection over one that is not (RFC 6455 section 8.1). payload is the
// caller's again when Send returns. nil means queued, not received. Otherwise it
// is ErrClosed, ErrSlowReader, ErrMessageTooBig or ErrNotAllowed.
func (s Session) Send(payload []byte) error { return s.Sockets.Send(s.Ref, Text, payload) }

// SendBinary queues a binary message, as Send does a text.
func (s Session) SendBinary(payload []byte) error { return s.Sockets.Send(s.Ref, Binary, payload) }

// Close ends the session after what was sent before. code is 1000, or between
// 3000 and 4999 (RFC 6455 section 7.4.2; peers may come back after 4000 to 4499,
// never after 4500 to 4999); reason is at most 123 bytes of UTF-8. It returns
// nil, ErrClosed, ErrCloseCode or ErrCloseReason. Closed follows.
func (s Session) Close(code uint16, reason string) error {
	if code != 1000 && (code < 3000 || code > 4999) {
		return ErrCloseCode
	}
	if len(reason) > 123 || !utf8.ValidString(reason) {
		return ErrCloseReason
	}
	return s.Sockets.Close(s.Ref, code, reason)
}

// To says which sessions a broadcast is to: those that have all that is set.
type To struct {
	Route   string // as Identity has it: the audience of their tokens
	Tenant  string
	Subject string // of Tenant, which must be set then
	All     bool   // everybody, where nothing else is set
}

// Validate returns nil, ErrNobody or ErrNoTenant.
func (t To) Validate() error {
	switch {
	case t == To{}:
		return ErrNobody
	case t.Subject != "" && t.Tenant == "":
		return ErrNoTenant
	}
	return nil
}
