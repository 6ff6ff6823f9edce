package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// wire is a loop that writes down what is asked of it.
type wire struct {
	said []string
	buf  []byte // of the last message
	err  error
}

func (w *wire) Identity(ref Ref) Identity {
	w.note("identity", ref)
	return Identity{Subject: "u42"}
}

func (w *wire) Send(ref Ref, op Op, payload []byte) error {
	w.buf = append(w.buf[:0], payload...)
	w.note("send", ref, op)
	return w.err
}

func (w *wire) Close(ref Ref, code uint16, reason string) error {
	w.note("close", ref, code, reason)
	return w.err
}

func (w *wire) note(what ...any) {
	if w.said != nil {
		w.said = append(w.said, strings.TrimSpace(fmt.Sprintln(what...)))
	}
}

func recording() *wire { return &wire{said: []string{}} }

func TestSessionNamesItsSocket(t *testing.T) {
	w := recording()
	s := Session{Sockets: w, Ref: 7}
	if got := s.Identity().Subject; got != "u42" {
		t.Errorf("subject %q", got)
	}
	for _, err := range []error{s.Send([]byte("a")), s.SendBinary([]byte("b")), s.Close(4100, "later")} {
		if err != nil {
			t.Error(err)
		}
	}
	if want := []string{"identity 7", "send 7 1", "send 7 2", "close 7 4100 later"}; !slices.Equal(w.said, want) {
		t.Errorf("%q, want %q", w.said, want)
	}
}

func TestSessionReturnsTheLoopsErrors(t *testing.T) {
	for _, want := range []error{ErrClosed, ErrSlowReader, ErrMessageTooBig} {
		s := Session{Sockets: &wire{err: want}}
		for _, err := range []error{s.Send(nil), s.SendBinary(nil), s.Close(1000, "")} {
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
	}
}

func TestCloseOfAnApplication(t *testing.T) {
	for _, test := range []struct {
		rule   string
		code   uint16
		reason string
		want   error
	}{
		{"7.4.1 1000 is a normal end", 1000, "", nil},
		{"7.4.1 1001 is for the node's own end", 1001, "", ErrCloseCode},
		{"7.4.1 1005 is never sent", 1005, "", ErrCloseCode},
		{"7.4.1 1006 is never sent", 1006, "", ErrCloseCode},
		{"7.4.1 1015 is never sent", 1015, "", ErrCloseCode},
		{"7.4.2 below 1000 is not used", 0, "", ErrCloseCode},
		{"7.4.2 2999 is reserved", 2999, "", ErrCloseCode},
		{"7.4.2 3000 is for libraries", 3000, "", nil},
		{"7.4.2 4999 is for applications", 4999, "", nil},
		{"7.4.2 5000 is no close code", 5000, "", ErrCloseCode},
		{"5.5 a reason has at most 123 bytes", 4000, strings.Repeat("r", 123), nil},
		{"5.5 124 bytes do not fit a control frame", 4000, strings.Repeat("r", 124), ErrCloseReason},
		{"5.5.1 a reason is UTF-8", 4000, "\xff", ErrCloseReason},
	} {
		t.Run(test.rule, func(t *testing.T) {
			w := recording()
			err := Session{Sockets: w}.Close(test.code, test.reason)
			if !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if got := len(w.said) == 1; got != (test.want == nil) {
				t.Errorf("the loop was asked for %q", w.said)
			}
		})
	}
}

// A broadcast to everybody must be said, and a subject is one of a tenant.
func TestBroadcastTo(t *testing.T) {
	for to, want := range map[To]error{
		{}: ErrNobody, {All: true}: nil, {Route: "chat"}: nil, {Tenant: "t"}: nil, {Route: "chat", Tenant: "t", Subject: "u42"}: nil,
		{Tenant: "t", Subject: "u42"}: nil, {Subject: "u42"}: ErrNoTenant, {Route: "chat", Subject: "u42"}: ErrNoTenant, {All: true, Subject: "u42"}: ErrNoTenant,
	} {
		if err := to.Validate(); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", to, err, want)
		}
	}
}

func TestSessionIsAValue(t *testing.T) {
	a, b := &wire{}, &wire{}
	room := map[Session]bool{{Sockets: a, Ref: 1}: true}
	if !room[Session{Sockets: a, Ref: 1}] {
		t.Error("a session made again for a later call is not the same key")
	}
	for _, other := range []Session{{Sockets: a, Ref: 2}, {Sockets: b, Ref: 1}} {
		if room[other] {
			t.Errorf("%+v is taken for another session", other)
		}
	}
}

func TestEcho(t *testing.T) {
	var h Handler = Echo{}
	for _, test := range []struct {
		op      Op
		payload string
	}{{Text, `{"type":"chat","text":"grüß dich"}`}, {Text, ""}, {Binary, "\x00\xff"}, {Binary, ""}} {
		w := recording()
		s := Session{Sockets: w, Ref: 3}
		h.Opened(s)
		payload := []byte(test.payload)
		if err := h.Message(s, test.op, payload); err != nil {
			t.Error(err)
		}
		h.Closed(s, 1000, "peer closed")
		if want := fmt.Sprint("send 3 ", byte(test.op)); len(w.said) != 1 || w.said[0] != want {
			t.Errorf("%q, want %q alone", w.said, want)
		}
		if !bytes.Equal(w.buf, payload) || string(payload) != test.payload {
			t.Errorf("%q came back as %q", test.payload, w.buf)
		}
	}
}

// The node closes a session that Send gave up; an error of the handler would
// close it with the wrong reason. A message that cannot be sent at all is lost
// unless the handler says so.
func TestEchoLeavesEndsToTheNode(t *testing.T) {
	for err, want := range map[error]error{ErrClosed: nil, ErrSlowReader: nil, ErrMessageTooBig: ErrMessageTooBig} {
		for _, op := range []Op{Text, Binary} {
			if got := (Echo{}).Message(Session{Sockets: &wire{err: err}}, op, nil); !errors.Is(got, want) {
				t.Errorf("%v became %v, want %v", err, got, want)
			}
		}
	}
}

func TestDeliveryAllocs(t *testing.T) {
	var h Handler = Echo{}
	w := &wire{buf: make([]byte, 0, 64)}
	payload := []byte(`{"type":"chat"}`)
	var ref Ref
	if got := testing.AllocsPerRun(1000, func() {
		ref++ // a session is made for each call, as a node does
		if err := h.Message(Session{Sockets: w, Ref: ref}, Text, payload); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations per message, want 0", got)
	}
}

func BenchmarkEcho(b *testing.B) {
	var h Handler = Echo{}
	w := &wire{buf: make([]byte, 0, 256)}
	payload := make([]byte, 128)
	b.ReportAllocs()
	for b.Loop() {
		h.Message(Session{Sockets: w, Ref: 1}, Text, payload)
	}
}
