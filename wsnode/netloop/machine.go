// Package netloop drives connections: it owns the sockets, reads and writes
// them, and knows nothing of what the bytes mean. A Machine does.
//
// Driver has two ways to do that. On Linux TCP, and TLS over it, is driven by event
// loops, over epoll and raw descriptors: an idle connection has no goroutine and no
// buffer of ours. Everything else is driven by Portable, with a goroutine for each
// connection.
package netloop

import (
	"crypto/x509"
	"net/netip"
	"time"
)

// Machine is one connection as a driver sees it: bytes and the time go in,
// bytes come out. A driver calls it from one goroutine at a time, and each call
// is a turn. What a turn appends to out and returns is sent after it.
type Machine interface {
	// Feed takes what the peer sent. in is lent for the call and may be written
	// to.
	Feed(in []byte, now time.Time, out []byte) []byte

	// Deadline is when Expire wants to be called, or zero for never. It is asked
	// for after each turn.
	Deadline() time.Time

	// Expire says that Deadline has come. It may be early; the machine looks at
	// now.
	Expire(now time.Time, out []byte) []byte

	// Overflow says that the peer does not read: more than the driver's bound
	// waits to be sent, and is dropped unless it is being sent. What Overflow
	// appends is the last there is to send.
	Overflow(now time.Time, out []byte) []byte

	// Stop asks for the end: the process is about to end too.
	Stop(now time.Time, out []byte) []byte

	// Done reports whether the connection is to be ended once everything is sent.
	Done() bool

	// PeerDone reports, of a machine that is done, whether the peer has said that it
	// sends nothing more. Its socket is then closed as soon as all is sent, where else
	// the peer's end is awaited: a socket closed over unread bytes resets.
	PeerDone() bool

	// Gone is the last call: the connection has ended, with the error of the
	// transport, or nil if the machine was done.
	Gone(err error, now time.Time)
}

// Link is a machine's way to its driver: a value, so that a driver which keeps
// its connections in tables makes one without allocating.
type Link struct {
	Poster Poster
	Ref    Ref // the connection, as Poster names it
	Shared any // what Opener.Share made for Poster
}

// Ref names a connection of a Poster. It is not given to another one later.
type Ref uint64

// Post has fn run in a turn of its own, after those that are under way. It does
// not block and may be called from anywhere, in a turn of this or another
// machine too: fn never runs within the call of Post. It reports false if the
// connection has ended; then fn does not run.
func (l Link) Post(fn func(now time.Time, out []byte) []byte) bool {
	return l.Poster.Post(l.Ref, fn)
}

// Driver names what drives the connection: loops, or portable.
func (l Link) Driver() string {
	if Alone(l.Poster) {
		return "portable"
	}
	return "loops"
}

// Alone reports whether a Poster is for one connection, which has a goroutine.
func Alone(p Poster) bool {
	_, ok := p.(*conn)
	return ok
}

// Poster is what a driver does for Link.
type Poster interface {
	Post(ref Ref, fn func(now time.Time, out []byte) []byte) bool
}

// Opener decides about connections as they are accepted.
type Opener interface {
	// Share makes what the machines of one Poster share. Their turns never run at
	// the same time, so that it may hold memory that each uses in its turn. It is
	// called before there is a connection, for each event loop once. Where every
	// connection has a goroutine of its own, each has a Poster of its own too.
	Share(p Poster) any
	// Accepted reports whether a connection from this address is let in, to a
	// TLS handshake first if overTLS is set; if not it is reset. peer is invalid
	// if the connection is not TCP's.
	Accepted(peer netip.AddrPort, overTLS bool, now time.Time) (Ticket, bool)
}

// Ticket is a connection that was let in. Open or Failed is called, once.
type Ticket interface {
	// Preface takes what the peer sends before TLS, if anything. It is called
	// first with nothing, then with what is read, until it is done or fails; rest is
	// what is TLS's already, and may be of in. Where there is no TLS it is not called:
	// then all of it is the machine's.
	Preface(in []byte, now time.Time) (rest []byte, done bool, err error)
	// Shown tells of the certificate that the client has shown in its TLS handshake,
	// or in the one that this resumes, and proved to have the key of. It is called
	// just before Open, where there is one. cert is not to be changed.
	Shown(cert *x509.Certificate)
	// Open makes the machine of the connection, once its TLS handshake is done.
	Open(link Link, now time.Time) Machine
	// Failed says that there will be none: what comes before it failed, with the
	// error of Preface or of the TLS handshake, or, with ErrStopped, the driver was
	// stopped before it was done.
	Failed(err error)
}
