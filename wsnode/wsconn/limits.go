package wsconn

import (
	"errors"
	"fmt"
	"time"
)

// Limits bounds what a peer can make a connection hold, and for how long. It
// is read only once a connection uses it; many share one.
//
// WithDefaults replaces zero fields. A Conn takes a zero at its word, so that
// limits nobody filled in let nothing through.
type Limits struct {
	HeadBytes        int           // the request head, in bytes; default 16 KiB
	HeadFields       int           // the request head, in header fields; default 100
	PipelinedBytes   int           // what may follow the head before the answer, in bytes; default 4 KiB
	HandshakeTimeout time.Duration // from Reset to the end of the head; default 10 s

	MessageBytes   int           // a message over all its fragments, in bytes; default 64 KiB
	Fragments      int           // frames of one message, empty ones too; default 256
	MessageTimeout time.Duration // from a message's first byte to its last; default 30 s

	CloseTimeout time.Duration // from our close frame to the peer's; default 5 s
	ClosingBytes int           // what the peer may send after our close frame, in bytes; default 1 MiB
}

// WithDefaults returns l with its zero fields replaced.
func (l Limits) WithDefaults() Limits {
	orInt := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	orDuration := func(field *time.Duration, value time.Duration) {
		if *field == 0 {
			*field = value
		}
	}
	orInt(&l.HeadBytes, 16<<10)
	orInt(&l.HeadFields, 100)
	orInt(&l.PipelinedBytes, 4<<10)
	orDuration(&l.HandshakeTimeout, 10*time.Second)
	orInt(&l.MessageBytes, 64<<10)
	orInt(&l.Fragments, 256)
	orDuration(&l.MessageTimeout, 30*time.Second)
	orDuration(&l.CloseTimeout, 5*time.Second)
	orInt(&l.ClosingBytes, 1<<20)
	return l
}

// Validate names every field that is out of its bounds; zero is.
func (l Limits) Validate() error {
	var errs []error
	bytes := func(name string, value, low int, lowest string, high int, highest string) {
		switch {
		case value < low:
			errs = append(errs, fmt.Errorf("%s: %d is below %d, %s", name, value, low, lowest))
		case value > high:
			errs = append(errs, fmt.Errorf("%s: %d is above %d, %s", name, value, high, highest))
		}
	}
	span := func(name string, value time.Duration) {
		switch {
		case value < time.Millisecond:
			errs = append(errs, fmt.Errorf("%s: %v is below 1ms; is a unit missing?", name, value))
		case value > time.Hour:
			errs = append(errs, fmt.Errorf("%s: %v is above 1h", name, value))
		}
	}
	bytes("head_bytes", l.HeadBytes, 256, "about the smallest opening handshake", maxHeadBytes, "the most a request is indexed for")
	bytes("head_fields", l.HeadFields, 5, "the fields that RFC 6455 §4.1 requires", 1000, "more than any client sends")
	bytes("pipelined_bytes", l.PipelinedBytes, 1, "one byte", 1<<20, "1 MiB")
	span("handshake_timeout", l.HandshakeTimeout)
	bytes("message_bytes", l.MessageBytes, 125, "the largest control frame (RFC 6455 §5.5)", 1<<30, "1 GiB")
	bytes("fragments", l.Fragments, 1, "an unfragmented message", 1<<20, "about a million")
	span("message_timeout", l.MessageTimeout)
	span("close_timeout", l.CloseTimeout)
	bytes("closing_bytes", l.ClosingBytes, 131, "the largest close frame (RFC 6455 §5.5)", 1<<30, "1 GiB")
	return errors.Join(errs...)
}
