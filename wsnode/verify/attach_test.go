package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// Entries are enforced in order and acknowledged, each with what it closed.
func TestEnforceAndAcknowledge(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.at(time.Second)
		l.s.mu.Lock()
		for _, subject := range []string{"a", "b", "b", "c"} {
			l.s.live = append(l.s.live, &Identity{Tenant: "acme", Subject: subject, Issued: Revision{1, 0}})
		}
		l.s.mu.Unlock()
		l.a.Revoke(wstest.BySubject("acme", "b"))
		l.a.Revoke(wstest.BySubject("acme", "nobody"))
		l.a.Lock(lockSubject("acme", "a"))
		synctest.Wait()
		closed := map[uint64]uint32{}
		var through Revision
		for _, a := range l.a.Seen().Acknowledgements {
			if at := revisionFrom(a.GetThrough()); at.After(through) {
				through = at
			}
			for _, e := range a.GetEnforced() {
				closed[e.GetSequence()] += e.GetClosed()
				if e.GetSequence() > through.Sequence {
					t.Errorf("entry %d is counted before it is acknowledged", e.GetSequence())
				}
			}
		}
		if through != (Revision{1, 3}) || fmt.Sprint(closed) != "map[1:2 3:1]" {
			t.Errorf("acknowledged through %v with %v, want 3 with map[1:2 3:1]", through, closed)
		}
		l.at(3 * time.Second)
		beats := l.a.Seen().Heartbeats
		if last := beats[len(beats)-1]; revisionFrom(last.GetApplied()) != through {
			t.Errorf("heartbeat %v, want applied 3", last)
		}
	})
}

// An acknowledgement holds a bounded number of counts; many are told in several,
// each of which covers its own.
func TestManyCounts(t *testing.T) {
	inLab(t, func(l *lab) { l.a.Hold(wstest.Entries, true) }, func(l *lab) {
		const n = 2*maxEnforced + 5
		for i := range n {
			l.a.Revoke(wstest.BySubject("acme", fmt.Sprint(i)))
		}
		l.s.mu.Lock()
		for i := range n {
			l.s.live = append(l.s.live, &Identity{Tenant: "acme", Subject: fmt.Sprint(i), Issued: Revision{1, 0}})
		}
		l.s.mu.Unlock()
		l.a.Hold(wstest.Entries, false)
		l.at(time.Second)
		closed, through := 0, uint64(0)
		for _, a := range l.a.Seen().Acknowledgements {
			if len(a.GetEnforced()) > maxEnforced {
				t.Errorf("%d counts in one acknowledgement", len(a.GetEnforced()))
			}
			for _, e := range a.GetEnforced() {
				if e.GetSequence() > a.GetThrough().GetSequence() {
					t.Fatalf("entry %d is counted in an acknowledgement through %d", e.GetSequence(), a.GetThrough().GetSequence())
				}
				closed++
			}
			through = a.GetThrough().GetSequence()
		}
		if closed != n || through != n {
			t.Errorf("%d counts through %d, want %d", closed, through, n)
		}
	})
}

// What is enforced is acknowledged after it, not before.
func TestAcknowledgesWhatIsEnforced(t *testing.T) {
	inLab(t, func(l *lab) {
		l.s.enforce = func() {
			if n := len(l.a.Seen().Acknowledgements); n > 1 { // of the empty snapshot
				l.t.Error("acknowledged before it was enforced")
			}
			if l.recent.appliedRevision().Sequence != 0 {
				l.t.Error("applied before it was enforced")
			}
			if l.Standing(grantAt(Revision{1, 0}, "a")) != Revoked {
				l.t.Error("a grant in flight passes while an entry is being enforced")
			}
		}
	}, func(l *lab) {
		l.at(time.Second)
		l.a.Revoke(wstest.BySubject("acme", "a"))
		l.at(2 * time.Second)
		if n := len(l.a.Seen().Acknowledgements); n != 2 {
			t.Errorf("%d acknowledgements, want 2", n)
		}
	})
}

func TestWelcomes(t *testing.T) {
	good := func() *pb.AttachWelcome {
		return &pb.AttachWelcome{
			Hello: &pb.Hello{Version: pb.Version}, Head: &pb.Revision{Epoch: 1, Sequence: 5}, Snapshot: true, Time: timestamppb.Now(),
			HeartbeatInterval: durationpb.New(time.Second), AdmissionFence: durationpb.New(10 * time.Second), SessionFence: durationpb.New(time.Hour),
		}
	}
	for _, c := range []struct {
		rule string
		edit func(w *pb.AttachWelcome)
		want string // in the error; empty for none
	}{
		{"a first attach", func(*pb.AttachWelcome) {}, ""},
		{"no session fence", func(w *pb.AttachWelcome) { w.SessionFence = nil }, ""},
		{"no hello", func(w *pb.AttachWelcome) { w.Hello = nil }, "MAJOR.MINOR.PATCH"},
		{"another major version", func(w *pb.AttachWelcome) { w.Hello.Version = "99.0.0" }, "does not work"},
		{"no heartbeats", func(w *pb.AttachWelcome) { w.HeartbeatInterval = nil }, "heartbeats every 0s"},
		{"heartbeats too rare", func(w *pb.AttachWelcome) { w.HeartbeatInterval = durationpb.New(2 * time.Hour) }, "heartbeats every 2h"},
		{"no admission fence", func(w *pb.AttachWelcome) { w.AdmissionFence = nil }, "admission fence of 0s"},
		{"a session fence within the admission fence", func(w *pb.AttachWelcome) { w.SessionFence = durationpb.New(time.Second) }, "session fence of 1s"},
		{"a session fence in the past", func(w *pb.AttachWelcome) { w.SessionFence = durationpb.New(-time.Second) }, "session fence of -1s"},
		{"an endless session fence", func(w *pb.AttachWelcome) { w.SessionFence = durationpb.New(1<<63 - 1) }, "session fence of 2562047h"},
		{"a socket life in the past", func(w *pb.AttachWelcome) { w.SessionFence, w.SocketLife = nil, durationpb.New(-time.Second) }, "session fence of -1s"},
		{"an endless admission fence", func(w *pb.AttachWelcome) { w.AdmissionFence = durationpb.New(1<<63 - 1) }, "admission fence of 2562047h"},
		{"clients that come back in the past", func(w *pb.AttachWelcome) { w.RetryAfter = durationpb.New(-time.Second) }, "come back after -1s"},
		{"clients that come back tomorrow", func(w *pb.AttachWelcome) { w.RetryAfter = durationpb.New(24 * time.Hour) }, "come back after 24h"},
		{"no time", func(w *pb.AttachWelcome) { w.Time = nil }, "time"},
		{"no head", func(w *pb.AttachWelcome) { w.Head = nil }, "history"},
		{"a history that the node does not have goes on", func(w *pb.AttachWelcome) { w.Snapshot = false }, "history"},
	} {
		w := good()
		c.edit(w)
		err := checkWelcome(w, Revision{})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.rule, err, c.want)
		}
	}
	if checkWelcome(nil, Revision{}) == nil {
		t.Error("something else than a welcome is one")
	}
	w := good()
	w.Snapshot = false
	if err := checkWelcome(w, Revision{1, 3}); err != nil {
		t.Errorf("the node's own history goes on: %v", err)
	}
}

// What an authority must not send ends the stream; the node attaches anew.
func TestMessagesThatEndTheStream(t *testing.T) {
	entries := func(through *pb.Revision, sequences ...uint64) *pb.AttachResponse {
		m := &pb.Entries{Through: through}
		for _, s := range sequences {
			e := revoked(wstest.BySubject("acme", "a"))
			e.Revision.Sequence = s
			m.Entries = append(m.Entries, e)
		}
		return &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: m}}
	}
	lock := func(l *pb.LockEntry) *pb.AttachResponse {
		return &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: &pb.Entries{Through: &pb.Revision{Epoch: 1}, Locks: []*pb.LockEntry{l}}}}
	}
	at := func(sequence uint64) *pb.Revision { return &pb.Revision{Epoch: 1, Sequence: sequence} }
	foreign := entries(at(1), 1)
	foreign.GetEntries().Entries[0].Revision.Epoch = 2
	for _, c := range []struct {
		rule string
		m    *pb.AttachResponse
		ends bool
	}{
		{"entries in order", entries(at(2), 1, 2), false},
		{"entries with gaps, as of a log that was cut", entries(at(9), 3, 7), false},
		{"no entries", entries(at(0)), false},
		{"nothing", &pb.AttachResponse{}, true},
		{"a second welcome", &pb.AttachResponse{Message: &pb.AttachResponse_Welcome{Welcome: &pb.AttachWelcome{}}}, true},
		{"entries that fall", entries(at(2), 2, 1), true},
		{"an entry twice", entries(at(2), 1, 1), true},
		{"an entry above through", entries(at(1), 1, 2), true},
		{"entries without through", entries(nil, 1), true},
		{"entries through another history", entries(&pb.Revision{Epoch: 2, Sequence: 1}, 1), true},
		{"an entry of another history", foreign, true},
		{"an entry that says nothing", &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: &pb.Entries{Through: at(1), Entries: []*pb.Entry{{Revision: at(1)}}}}}, true},
		{"a lock", lock(&pb.LockEntry{LockId: "x", Revision: at(77), Selector: lockSubject("acme", "a")}), false},
		{"a lock of nothing", lock(&pb.LockEntry{LockId: "x", Revision: at(77)}), true},
		{"a lock of another history", lock(&pb.LockEntry{LockId: "x", Revision: &pb.Revision{Epoch: 2}, Selector: lockSubject("acme", "a")}), true},
		{"an answer of another history", &pb.AttachResponse{Message: &pb.AttachResponse_Heartbeat{Heartbeat: &pb.HeartbeatAnswer{Sequence: 1, Head: &pb.Revision{Epoch: 2}}}}, true},
		{"an answer to no heartbeat", &pb.AttachResponse{Message: &pb.AttachResponse_Heartbeat{Heartbeat: &pb.HeartbeatAnswer{Sequence: 1 << 40, Head: at(0)}}}, false},
		{"an answer to heartbeat 0, which there is not", &pb.AttachResponse{Message: &pb.AttachResponse_Heartbeat{Heartbeat: &pb.HeartbeatAnswer{Head: at(0)}}}, false},
		{"a key too short", &pb.AttachResponse{Message: &pb.AttachResponse_EdgeKeys{EdgeKeys: &pb.EdgeKeys{Keys: []*pb.EdgeKey{{KeyId: 1, Key: make([]byte, 31)}}}}}, true},
		{"a key id too large", &pb.AttachResponse{Message: &pb.AttachResponse_EdgeKeys{EdgeKeys: &pb.EdgeKeys{Keys: []*pb.EdgeKey{{KeyId: 1 << 16, Key: make([]byte, 32)}}}}}, true},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, nil, func(l *lab) {
				l.a.Push(c.m)
				l.at(900 * time.Millisecond)
				hellos := 1
				if c.ends {
					hellos = 2
				}
				if n := len(l.a.Seen().Hellos); n != hellos {
					t.Errorf("%d hellos, want %d", n, hellos)
				}
			})
		})
	}
}

// cutStream is an Attach stream that the authority ends once it has welcomed.
type cutStream struct {
	grpc.ClientStream
	welcome *pb.AttachResponse
	sent    int
}

func (s *cutStream) Send(*pb.AttachRequest) error {
	if s.sent++; s.sent > 1 { // than the hello
		return io.EOF
	}
	return nil
}

func (s *cutStream) Recv() (*pb.AttachResponse, error) {
	if w := s.welcome; w != nil {
		s.welcome = nil
		return w, nil
	}
	return nil, errCutOff
}

var errCutOff = status.Error(codes.Unavailable, "authority is stopping")

type cutAPI struct {
	pb.NodeServiceClient
	*cutStream
}

func (a cutAPI) Attach(context.Context, ...grpc.CallOption) (pb.NodeService_AttachClient, error) {
	return a.cutStream, nil
}

// A stream that ends while a node acknowledges anew what it has applied ends for
// the authority's reason, and not for "EOF".
func TestCutWhileAcknowledging(t *testing.T) {
	w := &pb.AttachWelcome{
		Hello: &pb.Hello{Version: pb.Version}, Head: &pb.Revision{Epoch: 1, Sequence: 3}, Time: timestamppb.Now(),
		HeartbeatInterval: durationpb.New(time.Second), AdmissionFence: durationpb.New(10 * time.Second),
	}
	api := cutAPI{cutStream: &cutStream{welcome: &pb.AttachResponse{Message: &pb.AttachResponse_Welcome{Welcome: w}}}}
	c, err := Over(api, boottime, DefaultConfig(), nil, nothing{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.recent.through(Revision{1, 3})
	if err := c.attach(t.Context()); !errors.Is(err, errCutOff) {
		t.Errorf("the stream ended for %v, want %v", err, errCutOff)
	}
}

// nothing is a node without sessions.
type nothing struct{ Enforcer }

func (nothing) Sessions() int { return 0 }

// New edge keys replace the old ones at once.
func TestEdgeKeys(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		tok := l.try(l.a.Issue(wstest.Token{}))
		known := l.Ring()
		l.a.Push(&pb.AttachResponse{Message: &pb.AttachResponse_EdgeKeys{EdgeKeys: &pb.EdgeKeys{}}})
		synctest.Wait()
		if l.Ring() == known {
			t.Error("the old keys are still known")
		}
		l.Redeem(tok.Attempt) // the tag is the node's to check, not this package's
		synctest.Wait()
		l.want(tok, 0)
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		edit func(*Config)
		want string
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Address = "" }, "authority.address: required"},
		{func(c *Config) { c.RedeemTimeout = 0 }, "authority.redeem_timeout: 0s is outside"},
		{func(c *Config) { c.RedeemTimeout = time.Hour }, "authority.redeem_timeout: 1h0m0s is outside"},
		{func(c *Config) { c.MaxPending = 0 }, "authority.max_pending: 0 is outside"},
		{func(c *Config) { *c = Config{} }, "authority.address"},
	} {
		cfg := DefaultConfig()
		cfg.Address = "localhost:1"
		c.edit(&cfg)
		if err := cfg.Validate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", cfg, err, c.want)
		}
	}
	if err := (&Config{}).Validate(); len(err.(interface{ Unwrap() []error }).Unwrap()) != 3 {
		t.Errorf("%v: want every problem", err)
	}
}

// A snapshot that is not the first ends all sessions, and the log says what it
// means. By then no grant of before it holds.
func TestSnapshots(t *testing.T) {
	for _, c := range []struct {
		rule   string
		do     func(l *lab)
		fences int
		line   string // that is logged; empty for none
	}{
		{"none: the node goes on from where it was", func(l *lab) { l.a.Break(errBroken) }, 0, ""},
		{"none: nothing was dropped that the node lacks", func(l *lab) { l.a.Drop() }, 0, ""},
		{"another history", func(l *lab) { l.a.Restore() }, 1, "authority has another history"},
		{"the same history, entries were dropped", func(l *lab) {
			l.a.Hold(wstest.Entries, true)
			l.a.Revoke(wstest.BySubject("acme", "b"))
			l.a.Drop()
			l.a.Hold(wstest.Entries, false)
		}, 1, "authority has dropped entries that this node lacks"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, func(l *lab) { l.a.Revoke(wstest.BySubject("acme", "a")) }, func(l *lab) {
				l.at(time.Second)
				before := grantAt(Revision{1, 1}, "c")
				if got := l.Standing(before); got != Holds {
					t.Fatalf("standing %v before", got)
				}
				l.s.fence = func() {
					if got := l.Standing(before); got != Unknown {
						t.Errorf("standing %v as sessions end: a grant in flight would outlive them", got)
					}
				}
				c.do(l)
				l.at(3 * time.Second)
				l.wantReady(true)
				if n := l.s.fenced(); n != c.fences {
					t.Errorf("all sessions ended %d times, want %d", n, c.fences)
				}
				l.stop()
				logs := l.logs.String()
				for _, line := range []string{"authority has another history", "authority has dropped entries", "authority has lost entries"} {
					if want := c.line != "" && strings.HasPrefix(c.line, line); strings.Contains(logs, line) != want {
						t.Errorf("%q is logged: %t, in %s", line, !want, logs)
					}
				}
			})
		})
	}
}

func TestLost(t *testing.T) {
	for applied, want := range map[Revision]string{
		{}:     "",
		{2, 9}: "authority has another history",
		{1, 9}: "authority has lost entries that this node has applied",
		{1, 4}: "authority has dropped entries that this node lacks, or had forgotten the node",
	} {
		if got := lost(applied, Revision{1, 8}); got != want {
			t.Errorf("%v: %q, want %q", applied, got, want)
		}
	}
}
