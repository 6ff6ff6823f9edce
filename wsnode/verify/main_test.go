package verify

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sockets is an Enforcer with as many live sessions as it is given.
type sockets struct {
	mu       sync.Mutex
	live     []*Identity
	enforced []Entry
	fences   int
	thinned  []float64 // the shares that Thin's functions were called with
	warned   []Entry
	fence    func() // called in Fence
	enforce  func() // called in Enforce
}

func (s *sockets) Enforce(entries []Entry) []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.enforce != nil && len(entries) > 0 {
		s.enforce()
	}
	s.enforced = append(s.enforced, entries...)
	counts := make([]Count, len(entries))
	for i := range entries {
		for j, who := range s.live {
			if who != nil && entries[i].Hits(who) {
				s.live[j] = nil
				counts[i].Closed++
			}
		}
	}
	return counts
}

func (s *sockets) Warn(e *Entry) (left func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warned = append(s.warned, *e)
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.live, func(who *Identity) bool { return who != nil && e.Hits(who) })
	}
}

func (s *sockets) Fence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fence != nil {
		s.fence()
	}
	s.fences++
	s.live = nil
}

func (s *sockets) Thin() func(float64) {
	return func(share float64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.thinned = append(s.thinned, share)
	}
}

func (s *sockets) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// have sets whose sockets there are.
func (s *sockets) have(live ...*Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = live
}

func (s *sockets) warnings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.warned)
}

// ends are the entries that were enforced.
func (s *sockets) ends() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.enforced)
}

func (s *sockets) fenced() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fences
}

// lab is a client and its authority, in a bubble whose time is the clock.
type lab struct {
	*Client
	t *testing.T
	a *wstest.Authority
	s *sockets
	// api is what the client calls; a itself if nil.
	api    pb.NodeServiceClient
	config Config
	logs   bytes.Buffer // one line each, of what is a warning or worse; read after stop
	begin  time.Time
	stop   func() // ends Run
}

// inLab runs test in a bubble. prepare may be nil; after it the client runs.
func inLab(t *testing.T, prepare, test func(l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, a: wstest.NewAuthority(), s: &sockets{}, config: DefaultConfig(), begin: time.Now()}
		l.a.HeartbeatInterval, l.a.SessionFence = time.Second, time.Minute
		l.config.Address = "in memory"
		if prepare != nil {
			prepare(l)
		}
		if l.api == nil {
			l.api = l.a.Client()
		}
		var err error
		if l.Client, err = Over(l.api, l.clock, l.config, nil, l.s, slog.New(slog.NewTextHandler(&l.logs, &slog.HandlerOptions{Level: slog.LevelWarn}))); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.Run(ctx)
		}()
		l.stop = sync.OnceFunc(func() {
			cancel()
			<-ended
		})
		defer l.stop()
		synctest.Wait()
		test(l)
	})
}

func (l *lab) clock() time.Duration { return time.Since(l.begin) }

// at sleeps until the bubble is as old as that, and everything has settled.
func (l *lab) at(age time.Duration) {
	l.t.Helper()
	if wait := age - time.Since(l.begin); wait >= 0 {
		time.Sleep(wait)
	} else {
		l.t.Fatalf("it is %v already", time.Since(l.begin))
	}
	synctest.Wait()
}

func (l *lab) wantReady(ready bool) {
	l.t.Helper()
	if got := l.Ready(); (got == nil) != ready {
		l.t.Fatalf("at %v: Ready is %v, want ready: %v", time.Since(l.begin), got, ready)
	}
}

// try is an attempt and its outcomes.
type try struct {
	*Attempt
	mu   sync.Mutex
	got  []Outcome
	when []time.Duration
}

func (l *lab) try(tok wstest.Issued) *try {
	var parsed token.Token
	if err := token.Parse([]byte(tok.Text), &parsed); err != nil {
		l.t.Fatal(err)
	}
	t := &try{Attempt: &Attempt{
		Token: parsed.ID, Digest: parsed.Secret.Digest(), Audience: "chat", ClientIP: netip.MustParseAddr("192.0.2.9"),
		UserAgent: []byte("agent"), Origin: []byte("https://app.example"),
	}}
	_, _ = rand.Read(t.Session[:])
	t.Done = func(o Outcome) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.got, t.when = append(t.got, o), append(t.when, l.clock())
	}
	return t
}

// redeem issues a token and tries it.
func (l *lab) redeemNew() *try {
	t := l.try(l.a.Issue(wstest.Token{}))
	l.Redeem(t.Attempt)
	return t
}

func (t *try) outcomes() ([]Outcome, []time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.got, t.when
}

// want wants exactly one outcome: a grant if reason is 0.
func (l *lab) want(t *try, reason pb.Reason) *Grant {
	l.t.Helper()
	got, _ := t.outcomes()
	if len(got) != 1 || (got[0].Grant != nil) != (reason == 0) || got[0].Reason != reason {
		l.t.Fatalf("at %v: outcomes %+v, want one, %v", time.Since(l.begin), got, reason.Label())
	}
	return got[0].Grant
}

// ends lists how often the end of each of the tries was reported.
func (l *lab) wantEnds(ends int, tries ...*try) {
	l.t.Helper()
	for i, t := range tries {
		n := 0
		for _, e := range l.a.Seen().Ended {
			if [16]byte(e.GetSessionId()) == t.Session {
				n++
			}
		}
		if n != ends {
			l.t.Fatalf("at %v: the end of session %d was reported %d times, want %d", time.Since(l.begin), i, n, ends)
		}
	}
}
