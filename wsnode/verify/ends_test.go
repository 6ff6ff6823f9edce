package verify

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func sessionNumber(i int) [16]byte { return [16]byte{1, byte(i >> 16), byte(i >> 8), byte(i)} }

// Reports outlive an authority that is away: each end is told once, in its
// order.
func TestEndsSurviveTheAuthority(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.at(time.Second)
		l.a.Down(errBroken)
		const n = 3 * maxReport
		for i := range n {
			l.Ended(sessionNumber(i), pb.Reason_REASON_PEER_CLOSED, time.Now())
		}
		l.at(30 * time.Second)
		if got := len(l.a.Seen().Ended); got != 0 {
			t.Fatalf("%d reports reached an authority that is away", got)
		}
		l.a.Down(nil)
		l.at(40 * time.Second)
		ended := l.a.Seen().Ended
		if len(ended) != n {
			t.Fatalf("%d ends were reported, want %d", len(ended), n)
		}
		for i, e := range ended {
			if [16]byte(e.GetSessionId()) != sessionNumber(i) || e.GetReason() != pb.Reason_REASON_PEER_CLOSED || !e.GetEndedAt().AsTime().Equal(l.begin.Add(time.Second)) {
				t.Fatalf("report %d is %v", i, e)
			}
		}
	})
}

// Sessions that end shortly after another share a report.
func TestEndsShareReports(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.at(time.Second)
		for i := range 10 {
			l.Ended(sessionNumber(i), pb.Reason_REASON_PEER_CLOSED, time.Now())
			synctest.Wait()
			if got := len(l.a.Seen().Ended); got != 1 {
				t.Errorf("%d ends are reported after %d, want the first", got, i+1)
			}
		}
		l.at(time.Second + between)
		synctest.Wait()
		if got := len(l.a.Seen().Ended); got != 10 {
			t.Errorf("%d ends are reported, want all", got)
		}
	})
}

// What an entry of the log has ended is gathered before it is reported, so that
// the acknowledgement comes first; other ends are not held up, and take with them
// what waits.
func TestRevokedEndsAreGathered(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.at(time.Second)
		wantReported := func(n int) {
			t.Helper()
			synctest.Wait()
			if got := len(l.a.Seen().Ended); got != n {
				t.Errorf("at %v: %d ends are reported, want %d", time.Since(l.begin), got, n)
			}
		}
		end := func(i int, reason pb.Reason) { l.Ended(sessionNumber(i), reason, time.Now()) }
		end(0, pb.Reason_REASON_TOKEN_REVOKED)
		l.at(time.Second + unhurried - time.Millisecond)
		end(1, pb.Reason_REASON_LOCKED)
		wantReported(0)
		l.at(time.Second + unhurried)
		wantReported(2)

		l.at(time.Second + unhurried + between)
		end(2, pb.Reason_REASON_TOKEN_REVOKED)
		wantReported(2)
		end(3, pb.Reason_REASON_PEER_CLOSED)
		wantReported(4)

		end(4, pb.Reason_REASON_TOKEN_REVOKED)
		began := time.Now()
		if err := l.Goodbye(context.Background()); err != nil || time.Since(began) >= unhurried {
			t.Errorf("goodbye took %v, %v", time.Since(began), err)
		}
		wantReported(5)
	})
}

func TestEndsAreBounded(t *testing.T) {
	var now time.Duration
	var logs bytes.Buffer
	c := &Client{clock: func() time.Duration { return now }, log: slog.New(slog.NewTextHandler(&logs, nil))}
	c.ends.init()
	wantLines := func(lines int, last string) {
		t.Helper()
		if text := logs.String(); strings.Count(text, "\n") != lines || !strings.HasSuffix(text, last) {
			t.Errorf("logged %q, want %d lines, the last with %q", text, lines, last)
		}
	}
	for i := range maxEnds + 10 {
		if i == maxEnds {
			wantLines(0, "")
		}
		c.Ended(sessionNumber(i), pb.Reason_REASON_PEER_CLOSED, time.Unix(0, 0))
	}
	wantLines(1, "dropped_so_far=1\n")
	if n := len(c.ends.waiting); n != maxEnds {
		t.Errorf("%d ends wait, want %d", n, maxEnds)
	}
	if first := c.ends.waiting[0]; [16]byte(first.GetSessionId()) != sessionNumber(10) {
		t.Errorf("the oldest that waits is %x, want the tenth", first.GetSessionId())
	}
	now = droppedEvery
	for range 5 {
		c.Ended(sessionNumber(0), pb.Reason_REASON_PEER_CLOSED, time.Unix(0, 0))
	}
	wantLines(2, "dropped_so_far=11\n")
}

// picky refuses reports of one session.
type picky struct {
	pb.NodeServiceClient
	code  codes.Code
	mu    sync.Mutex
	calls int
}

func (p *picky) ReportSessions(ctx context.Context, in *pb.ReportSessionsRequest, opts ...grpc.CallOption) (*pb.ReportSessionsResponse, error) {
	p.mu.Lock()
	p.calls++
	p.mu.Unlock()
	for _, e := range in.GetEnded() {
		if [16]byte(e.GetSessionId()) == sessionNumber(1) {
			return nil, status.Error(p.code, "what is this")
		}
	}
	return p.NodeServiceClient.ReportSessions(ctx, in, opts...)
}

// A report that the authority will never take does not keep others from it.
func TestUnwantedReport(t *testing.T) {
	for _, code := range []codes.Code{codes.InvalidArgument, codes.PermissionDenied} {
		t.Run(code.String(), func(t *testing.T) {
			api := &picky{code: code}
			inLab(t, func(l *lab) { api.NodeServiceClient = l.a.Client(); l.api = api }, func(l *lab) {
				l.Ended(sessionNumber(1), pb.Reason_REASON_PEER_CLOSED, time.Now())
				l.at(time.Second)
				l.Ended(sessionNumber(2), pb.Reason_REASON_PEER_CLOSED, time.Now())
				l.at(2 * time.Second)
				if ended := l.a.Seen().Ended; len(ended) != 1 || [16]byte(ended[0].GetSessionId()) != sessionNumber(2) {
					t.Errorf("reported %v, want the second alone", ended)
				}
				if api.calls != 2 {
					t.Errorf("%d calls, want 2", api.calls)
				}
			})
		})
	}
}

// A node whose credential is disabled keeps its reports until it is let in
// again.
func TestReportsOutliveADisabledCredential(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.a.Down(status.Error(codes.PermissionDenied, "credential disabled"))
		l.at(time.Second)
		l.Ended(sessionNumber(1), pb.Reason_REASON_PEER_CLOSED, time.Now())
		l.at(20 * time.Second)
		l.a.Down(nil)
		l.at(30 * time.Second)
		if n := len(l.a.Seen().Ended); n != 1 {
			t.Errorf("%d ends were reported, want 1", n)
		}
	})
}

func (l *lab) goodbye(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return l.Goodbye(ctx)
}

func TestGoodbye(t *testing.T) {
	t.Run("comes after every end was reported", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Reports, true) }, func(l *lab) {
			l.Ended(sessionNumber(1), pb.Reason_REASON_DRAINING, time.Now())
			time.AfterFunc(time.Second, func() {
				if n := l.a.Seen().Goodbyes; n != 0 {
					t.Error("goodbye before the report")
				}
				l.a.Hold(wstest.Reports, false)
			})
			if err := l.goodbye(2 * time.Second); err != nil {
				t.Fatal(err)
			}
			if seen := l.a.Seen(); len(seen.Ended) != 1 || seen.Goodbyes != 1 {
				t.Errorf("%d ends, %d goodbyes, want one each", len(seen.Ended), seen.Goodbyes)
			}
			l.at(20 * time.Second)
			if n := len(l.a.Seen().Hellos); n != 1 {
				t.Errorf("%d hellos: the node has come back", n)
			}
		})
	})
	t.Run("waits for answers under way and gives back what they grant", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
			a := l.try(l.a.Issue(wstest.Token{}))
			done := a.Done
			a.Done = func(o Outcome) { // as a node does whose socket is gone
				if o.Grant != nil {
					l.Ended(a.Session, pb.Reason_REASON_CONNECTION_LOST, time.Now())
				}
				done(o)
			}
			l.Redeem(a.Attempt)
			l.at(0)
			time.AfterFunc(time.Second, func() { l.a.Hold(wstest.Redemptions, false) })
			if err := l.goodbye(2 * time.Second); err != nil {
				t.Fatal(err)
			}
			l.want(a, 0)
			l.wantEnds(1, a)
		})
	})
	t.Run("refuses what waits, and what is under way if the stream breaks", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
			var tries []*try
			for range window + 1 {
				tries = append(tries, l.grantNow())
			}
			time.AfterFunc(time.Second, func() {
				l.want(tries[window], pb.Reason_REASON_STOPPING)
				l.a.Break(errBroken)
			})
			if err := l.goodbye(3 * time.Second); err != nil {
				t.Fatal(err)
			}
			for _, a := range tries {
				l.want(a, pb.Reason_REASON_STOPPING)
			}
			l.wantEnds(1, tries[:window]...)
			l.wantEnds(0, tries[window])
		})
	})
	t.Run("is said when the authority is back", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			l.a.Down(errBroken)
			time.AfterFunc(2*time.Second, func() { l.a.Down(nil) })
			if err := l.goodbye(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("gives up in time", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			l.a.Down(errBroken)
			if err := l.goodbye(2 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want its deadline", err)
			}
		})
	})
	t.Run("a stream that the authority ends is no goodbye", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			l.a.Break(nil) // EOF
			l.at(2 * time.Second)
			if n := len(l.a.Seen().Hellos); n != 2 {
				t.Errorf("%d hellos, want the node to come back", n)
			}
		})
	})
	t.Run("is none for who never attached", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Welcomes, true) }, func(l *lab) {
			begin := time.Now()
			if err := l.goodbye(2 * time.Second); err != nil || time.Since(begin) != 0 {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
		})
	})
}

// A client that never ran leaves nothing behind.
func TestCloseWithoutRun(t *testing.T) {
	_, clientTLS := wstest.TLS(t)
	cfg := DefaultConfig()
	cfg.Address = "127.0.0.1:1"
	c, err := New(cfg, credentials.NewTLS(clientTLS), nil, &sockets{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
