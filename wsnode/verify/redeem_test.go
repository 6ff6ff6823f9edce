package verify

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

const (
	unavailable = pb.Reason_REASON_AUTHORITY_UNAVAILABLE
	fenced      = pb.Reason_REASON_FENCED
)

func TestRedeem(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		tok := l.a.Issue(wstest.Token{
			Tenant: "acme", Subject: "u7", Issuer: "site", Scopes: []string{"chat"}, Attributes: map[string]string{"room": "1"},
			Limits: &pb.SessionLimits{MessageBytes: 100, MessagesPerSecond: 5}, SessionTTL: time.Hour,
		})
		first, second := l.try(tok), l.try(tok)
		l.Redeem(first.Attempt)
		synctest.Wait()
		g := l.want(first, 0)
		if !reflect.DeepEqual(g.Identity, Identity{
			Session: first.Session, Token: first.Token, Tenant: "acme", Subject: "u7", Issuer: "site",
			ClientIP: first.ClientIP, Issued: Revision{1, 0},
		}) || !slices.Equal(g.Scopes, []string{"chat"}) || g.Attributes["room"] != "1" || g.Limits != (Limits{100, 5}) ||
			!g.ExpiresAt.Equal(l.begin.Add(time.Hour)) || g.AsOf != (Revision{1, 0}) {
			t.Errorf("grant %+v", g)
		}
		item := l.a.Seen().Redeems[0]
		if [16]byte(item.GetTokenId()) != first.Token || [32]byte(item.GetDigest()) != first.Digest || [16]byte(item.GetSessionId()) != first.Session ||
			item.GetAudience() != "chat" || string(item.GetObserved().GetUserAgent()) != "agent" || string(item.GetObserved().GetOrigin()) != "https://app.example" ||
			!slices.Equal(item.GetObserved().GetIp(), []byte{192, 0, 2, 9}) {
			t.Errorf("asked with %v", item)
		}
		l.Redeem(second.Attempt)
		synctest.Wait()
		l.want(second, pb.Reason_REASON_TOKEN_USED)
		l.wantEnds(0, first, second)
	})
}

// What the authority answers and cannot be used is refused, and what it has
// granted with it is given back.
func TestAnswersOfNoUse(t *testing.T) {
	for name, edit := range map[string]func(r *pb.RedeemResult) (ended int){
		"nothing":                func(r *pb.RedeemResult) int { r.Outcome = nil; return 0 },
		"a refusal for nothing":  func(r *pb.RedeemResult) int { r.Outcome = wstest.RefusalOf(0).Outcome; return 0 },
		"no subject":             func(r *pb.RedeemResult) int { r.GetGrant().Subject = ""; return 1 },
		"no tenant":              func(r *pb.RedeemResult) int { r.GetGrant().Tenant = ""; return 1 },
		"no issuer":              func(r *pb.RedeemResult) int { r.GetGrant().Issuer = ""; return 1 },
		"no revision":            func(r *pb.RedeemResult) int { r.GetGrant().IssuedRevision = nil; return 1 },
		"no as_of":               func(r *pb.RedeemResult) int { r.GetGrant().AsOf = nil; return 1 },
		"no end for the session": func(r *pb.RedeemResult) int { r.GetGrant().SessionExpiresAt = nil; return 1 },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, nil, func(l *lab) {
				ended := 0
				l.a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult {
					r := l.a.GrantAt(item, &pb.Revision{Epoch: 1})
					ended = edit(r)
					return r
				})
				a := l.grantNow()
				l.want(a, pb.Reason_REASON_INTERNAL)
				l.wantEnds(ended, a)
			})
		})
	}
}

func TestRetryAfterOfARefusal(t *testing.T) {
	for _, c := range []struct{ told, want time.Duration }{{7 * time.Second, 7 * time.Second}, {-time.Second, 0}, {1<<63 - 1, maxRetry}} {
		inLab(t, nil, func(l *lab) {
			l.a.OnRedeem(func(*pb.RedeemItem) *pb.RedeemResult {
				r := wstest.RefusalOf(pb.Reason_REASON_SESSION_LIMIT)
				r.GetRefusal().RetryAfter = durationpb.New(c.told)
				return r
			})
			got, _ := l.grantNow().outcomes()
			if len(got) != 1 || got[0].RetryAfter != c.want {
				t.Errorf("told %v: outcomes %+v, want a retry after %v", c.told, got, c.want)
			}
		})
	}
}

// When clients may come back that wait for no answer is the authority's to say.
func TestRetryAfterOfTheWelcome(t *testing.T) {
	for _, c := range []struct{ told, want time.Duration }{{0, defaultRetry}, {9 * time.Second, 9 * time.Second}} {
		inLab(t, func(l *lab) {
			l.config.MaxPending, l.a.RetryAfter = 1, c.told
			l.a.Hold(wstest.Redemptions, true)
		}, func(l *lab) {
			late, full := l.grantNow(), l.grantNow()
			l.at(l.config.RedeemTimeout + 2*time.Second)
			for _, tr := range []*try{late, full} {
				got, _ := tr.outcomes()
				if len(got) != 1 || got[0].RetryAfter != c.want {
					t.Errorf("told %v: outcomes %+v, want a retry after %v", c.told, got, c.want)
				}
			}
		})
	}
}

// What waits is bounded, asked or not; what is answered makes room.
func TestQueueIsBounded(t *testing.T) {
	inLab(t, func(l *lab) { l.config.MaxPending = 3; l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
		var tries []*try
		for range 4 {
			tries = append(tries, l.grantNow())
		}
		l.want(tries[3], pb.Reason_REASON_OVERLOADED)
		l.a.Hold(wstest.Redemptions, false)
		synctest.Wait()
		for _, a := range tries[:3] {
			l.want(a, 0)
		}
		l.want(l.grantNow(), 0)
	})
}

// What comes while requests are under way rides together, up to a batch.
func TestBatches(t *testing.T) {
	inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
		for range window { // the window is full
			l.grantNow()
		}
		var tries []*try
		for range 2*maxBatch + 10 {
			tries = append(tries, l.redeemNew())
		}
		synctest.Wait()
		if n := l.a.Seen().Requests; n != window {
			t.Fatalf("%d requests under way, want %d", n, window)
		}
		l.a.Hold(wstest.Redemptions, false)
		synctest.Wait()
		if n := l.a.Seen().Requests; n != window+3 {
			t.Errorf("%d attempts took %d requests, want 3", len(tries), n-window)
		}
		for _, a := range tries {
			l.want(a, 0)
		}
	})
}

// An attempt is refused at its deadline whether it was sent or not.
func TestDeadlineOfAnAttempt(t *testing.T) {
	refusedInTime := func(l *lab, a *try) {
		l.t.Helper()
		l.want(a, unavailable)
		if _, when := a.outcomes(); when[0] < l.config.RedeemTimeout || when[0] > l.config.RedeemTimeout+50*time.Millisecond {
			l.t.Errorf("refused after %v, want %v", when[0], l.config.RedeemTimeout)
		}
	}
	t.Run("not sent: the authority is never asked", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.RedeemHellos, true) }, func(l *lab) {
			a := l.redeemNew()
			l.at(6 * time.Second)
			refusedInTime(l, a)
			l.a.Hold(wstest.RedeemHellos, false)
			l.at(8 * time.Second)
			if n := len(l.a.Seen().Redeems); n != 0 {
				t.Errorf("%d items were asked for", n)
			}
			l.wantEnds(0, a)
		})
	})
	t.Run("sent, and granted too late: the session is given back", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
			a := l.redeemNew()
			l.at(6 * time.Second)
			refusedInTime(l, a)
			l.wantEnds(0, a) // it is not known yet
			l.a.Hold(wstest.Redemptions, false)
			l.at(7 * time.Second)
			refusedInTime(l, a)
			l.wantEnds(1, a)
		})
	})
	t.Run("sent, and refused too late: there is nothing to give back", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
			a := l.redeemNew()
			l.a.OnRedeem(func(*pb.RedeemItem) *pb.RedeemResult { return wstest.RefusalOf(pb.Reason_REASON_TOKEN_USED) })
			l.at(6 * time.Second)
			l.a.Hold(wstest.Redemptions, false)
			l.at(7 * time.Second)
			refusedInTime(l, a)
			l.wantEnds(0, a)
		})
	})
	t.Run("sent, and the stream breaks: who knows, so it is given back", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
			a := l.redeemNew()
			l.at(6 * time.Second)
			l.a.Break(errBroken)
			l.at(8 * time.Second)
			refusedInTime(l, a)
			l.wantEnds(1, a)
			if n := len(l.a.Seen().Redeems); n != 1 {
				t.Errorf("asked %d times, want once", n)
			}
		})
	})
	t.Run("a stream without answers is given up, and the next one serves", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
			a := l.redeemNew()
			l.at(9 * time.Second)
			l.wantEnds(0, a)
			l.at(13 * time.Second)
			refusedInTime(l, a)
			l.wantEnds(1, a)
			l.a.Hold(wstest.Redemptions, false)
			l.at(14 * time.Second)
			l.want(l.grantNow(), 0)
		})
	})
}

// A broken stream costs its attempts nothing: they are asked again, in their
// order, and each gets one answer.
func TestBrokenStream(t *testing.T) {
	inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
		var tries []*try
		for range window { // these fill the window
			for range 10 {
				tries = append(tries, l.redeemNew())
			}
			synctest.Wait()
		}
		for range 100 {
			tries = append(tries, l.redeemNew())
		}
		asked := len(l.a.Seen().Redeems)
		if asked == 0 || asked == len(tries) {
			t.Fatalf("%d of %d items were asked for, want some to be under way and some to wait", asked, len(tries))
		}
		l.a.Break(errBroken)
		l.a.Hold(wstest.Redemptions, false)
		l.at(time.Second)
		again := l.a.Seen().Redeems[asked:]
		if len(again) != len(tries) {
			t.Fatalf("%d items were asked for, want each once: %d", len(again), len(tries))
		}
		for i, a := range tries {
			l.want(a, 0)
			if [16]byte(again[i].GetSessionId()) != a.Session {
				t.Fatalf("item %d is not the one that was queued as such", i)
			}
		}
		l.wantEnds(0, tries...)
	})
}

// lossy loses the answers to the first requests that have items: the authority
// has decided, and its stream breaks.
type lossy struct {
	pb.NodeServiceClient
	mu   sync.Mutex
	lose int
}

type lossyStream struct {
	pb.NodeService_RedeemClient
	l *lossy
}

func (l *lossy) Redeem(ctx context.Context, opts ...grpc.CallOption) (pb.NodeService_RedeemClient, error) {
	s, err := l.NodeServiceClient.Redeem(ctx, opts...)
	return lossyStream{s, l}, err
}

func (s lossyStream) Recv() (*pb.RedeemResponse, error) {
	resp, err := s.NodeService_RedeemClient.Recv()
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.l.lose > 0 && len(resp.GetResults()) > 0 {
		s.l.lose--
		return nil, errBroken
	}
	return resp, err
}

// A retry of what was granted gets the same session; whoever does not get that
// far leaves none behind.
func TestLostAnswers(t *testing.T) {
	t.Run("the retry gets the same session", func(t *testing.T) {
		inLab(t, func(l *lab) { l.api = &lossy{NodeServiceClient: l.a.Client(), lose: 2} }, func(l *lab) {
			a := l.redeemNew()
			l.at(time.Second)
			l.want(a, 0)
			if s := l.a.Sessions(); len(s) != 1 || s[0].Grants != 3 {
				t.Errorf("sessions %+v, want one that was granted and asked for twice again", s)
			}
			l.wantEnds(0, a)
		})
	})
	t.Run("the retry is refused", func(t *testing.T) {
		inLab(t, func(l *lab) { l.api = &lossy{NodeServiceClient: l.a.Client(), lose: 1} }, func(l *lab) {
			a := l.redeemNew()
			synctest.Wait()
			l.a.Revoke(wstest.BySubject("default", "u42"))
			l.at(time.Second)
			l.want(a, pb.Reason_REASON_TOKEN_REVOKED)
			l.wantEnds(1, a)
		})
	})
	t.Run("there is no retry in time", func(t *testing.T) {
		inLab(t, func(l *lab) { l.api = &lossy{NodeServiceClient: l.a.Client(), lose: 1} }, func(l *lab) {
			a := l.redeemNew()
			synctest.Wait()
			l.a.Hold(wstest.RedeemHellos, true)
			l.at(6 * time.Second)
			l.want(a, unavailable)
			l.wantEnds(1, a)
		})
	})
}

// odd answers with more or fewer results than there were items, or without a
// request.
type odd struct {
	pb.NodeServiceClient
	mu   sync.Mutex
	edit func(*pb.RedeemResponse)
}

type oddStream struct {
	pb.NodeService_RedeemClient
	o *odd
}

func (o *odd) Redeem(ctx context.Context, opts ...grpc.CallOption) (pb.NodeService_RedeemClient, error) {
	s, err := o.NodeServiceClient.Redeem(ctx, opts...)
	return oddStream{s, o}, err
}

func (s oddStream) Recv() (*pb.RedeemResponse, error) {
	resp, err := s.NodeService_RedeemClient.Recv()
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	if s.o.edit != nil && len(resp.GetResults()) > 0 {
		s.o.edit(resp)
		s.o.edit = nil
	}
	return resp, err
}

// An answer that fits no request ends its stream, and is nobody's.
func TestAnswersThatDoNotFit(t *testing.T) {
	for name, edit := range map[string]func(*pb.RedeemResponse){
		"too few":  func(r *pb.RedeemResponse) { r.Results = r.Results[1:] },
		"too many": func(r *pb.RedeemResponse) { r.Results = append(r.Results, r.Results[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) { l.api = &odd{NodeServiceClient: l.a.Client(), edit: edit} }, func(l *lab) {
				a := l.redeemNew()
				l.at(time.Second)
				l.want(a, 0)
				if s := l.a.Sessions(); len(s) != 1 || s[0].Grants != 2 {
					t.Errorf("sessions %+v, want one that was asked for again", s)
				}
			})
		})
	}
	q := &queue{}
	q.init(1)
	if _, err := q.land(0); err == nil {
		t.Error("an answer without a request is taken")
	}
}

// A grant that turns out too old is asked for again, with the same session id,
// a few times at most.
func TestRedeemAgain(t *testing.T) {
	// again is what a node does with a grant of unknown standing.
	again := func(l *lab, a *try) {
		done := a.Done
		a.Done = func(o Outcome) {
			if o.Grant != nil && l.Standing(o.Grant) == Unknown {
				l.Redeem(a.Attempt)
				return
			}
			done(o)
		}
		l.Redeem(a.Attempt)
	}
	old := &pb.Revision{Epoch: 77}
	t.Run("the second answer holds", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			n := 0
			l.a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult {
				if n++; n == 1 {
					return l.a.GrantAt(item, old)
				}
				return nil
			})
			a := l.try(l.a.Issue(wstest.Token{}))
			again(l, a)
			synctest.Wait()
			l.want(a, 0)
			if s := l.a.Sessions(); len(s) != 1 || s[0].Grants != 2 {
				t.Errorf("sessions %+v, want one that was asked for twice", s)
			}
			l.wantEnds(0, a)
		})
	})
	t.Run("no answer ever holds", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			l.a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return l.a.GrantAt(item, old) })
			a := l.try(l.a.Issue(wstest.Token{}))
			again(l, a)
			synctest.Wait()
			l.want(a, fenced)
			if n := len(l.a.Seen().Redeems); n != maxAsks {
				t.Errorf("asked %d times, want %d", n, maxAsks)
			}
			l.wantEnds(1, a)
		})
	})
	t.Run("refused meanwhile", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			n := 0
			l.a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult {
				if n++; n == 1 {
					return l.a.GrantAt(item, old)
				}
				return wstest.RefusalOf(pb.Reason_REASON_TOKEN_REVOKED)
			})
			a := l.try(l.a.Issue(wstest.Token{}))
			again(l, a)
			synctest.Wait()
			l.want(a, pb.Reason_REASON_TOKEN_REVOKED)
			l.at(unhurried)
			l.wantEnds(1, a)
		})
	})
	t.Run("its time does not begin again", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			l.a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return l.a.GrantAt(item, old) })
			a := l.try(l.a.Issue(wstest.Token{}))
			done := a.Done
			a.Done = func(o Outcome) {
				if o.Grant == nil {
					done(o)
					return
				}
				l.a.Hold(wstest.Redemptions, true)
				time.AfterFunc(3*time.Second, func() { l.Redeem(a.Attempt) })
			}
			l.Redeem(a.Attempt)
			l.at(5500 * time.Millisecond)
			l.want(a, unavailable)
			l.a.Hold(wstest.Redemptions, false)
			l.at(6 * time.Second)
			l.wantEnds(1, a)
		})
	})
}

// Without a lease nobody is asked for, with a stream or without.
func TestNoLeaseNoRedeem(t *testing.T) {
	inLab(t, func(l *lab) { l.a.Down(status.Error(codes.PermissionDenied, "disabled")) }, func(l *lab) {
		l.at(time.Second)
		a := l.grantNow()
		l.want(a, fenced)
		l.stop()
		b := l.try(l.a.Issue(wstest.Token{}))
		l.Redeem(b.Attempt)
		l.want(b, fenced)
		l.wantEnds(0, a, b)
	})
}

// The end of the client refuses what waits and what is under way.
func TestStopping(t *testing.T) {
	inLab(t, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, func(l *lab) {
		a := l.grantNow()
		l.stop()
		l.want(a, pb.Reason_REASON_STOPPING)
		b := l.try(l.a.Issue(wstest.Token{}))
		l.Redeem(b.Attempt) // the lease lasts
		l.want(b, pb.Reason_REASON_STOPPING)
	})
}

// late is an authority that takes no redemptions and no reports for a while.
type late struct {
	pb.NodeServiceClient
	takes func() bool
}

func (c late) ReportSessions(ctx context.Context, req *pb.ReportSessionsRequest, opts ...grpc.CallOption) (*pb.ReportSessionsResponse, error) {
	if !c.takes() {
		return nil, status.Error(codes.FailedPrecondition, "not attached")
	}
	return c.NodeServiceClient.ReportSessions(ctx, req, opts...)
}

func (c late) Redeem(ctx context.Context, opts ...grpc.CallOption) (pb.NodeService_RedeemClient, error) {
	if !c.takes() {
		return nil, status.Error(codes.FailedPrecondition, "not attached")
	}
	return c.NodeServiceClient.Redeem(ctx, opts...)
}

// A node that attaches again redeems and reports at once, however long its streams had to
// wait between their attempts by then: as after a partition that is healed.
func TestRedeemsAsSoonAsAttached(t *testing.T) {
	const healed = 10 * time.Second
	inLab(t, func(l *lab) {
		l.api = late{l.a.Client(), func() bool { return l.clock() >= healed }}
	}, func(l *lab) {
		ended := &try{Attempt: &Attempt{Session: [16]byte{5}}}
		l.Ended(ended.Session, pb.Reason_REASON_PEER_CLOSED, time.Now())
		l.at(healed)
		l.a.Break(status.Error(codes.Unavailable, "cut"))
		l.at(healed + 100*time.Millisecond) // attached again; their own wait would last until 12.15 s
		tried := l.redeemNew()
		l.at(healed + 200*time.Millisecond)
		l.want(tried, 0)
		l.wantEnds(1, ended)
	})
}
