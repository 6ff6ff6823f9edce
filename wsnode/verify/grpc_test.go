package verify

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// The same over gRPC and TLS: attach, redeem, enforce, an authority that goes
// and comes back on its address, goodbye.
func TestOverGRPC(t *testing.T) {
	a := wstest.NewAuthority()
	serverTLS, clientTLS := wstest.TLS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	stop := a.ServeOn(t, l, serverTLS)
	cfg := DefaultConfig()
	cfg.Address = address
	s := &sockets{}
	c, err := New(cfg, credentials.NewTLS(clientTLS), [][16]byte{{1}, {2}}, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	ready := func() {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); c.Ready() != nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(c.Ready())
			}
		}
	}
	lab := &lab{Client: c, t: t, a: a, begin: time.Now()}
	redeem := func() {
		t.Helper()
		answered := make(chan struct{})
		x := lab.try(a.Issue(wstest.Token{}))
		done := x.Done
		x.Done = func(o Outcome) { done(o); close(answered) }
		c.Redeem(x.Attempt)
		<-answered
		lab.want(x, 0)
	}
	ready()
	if dead := a.Seen().Hellos[0].GetDeadInstanceIds(); len(dead) != 2 || dead[1][0] != 2 {
		t.Errorf("dead instances %v", dead)
	}
	redeem()
	a.Revoke(wstest.BySubject("acme", "a"))
	a.Await(t, "the acknowledgement", func(s *wstest.Seen) bool {
		n := len(s.Acknowledgements)
		return n > 0 && s.Acknowledgements[n-1].GetThrough().GetSequence() == 1
	})

	found := c.reached.next()
	stop()
	c.Ended([16]byte{5}, pb.Reason_REASON_PEER_CLOSED, time.Now())
	for s := c.conn.GetState(); s != connectivity.TransientFailure; s = c.conn.GetState() {
		c.conn.WaitForStateChange(ctx, s)
	}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	a.ServeOn(t, l, serverTLS)
	a.Await(t, "the report", func(s *wstest.Seen) bool { return len(s.Ended) == 1 })
	ready()
	select {
	case <-found:
	case <-time.After(10 * time.Second):
		t.Error("the authority is there, and was not found")
	}
	redeem()
	bye, cancelBye := context.WithTimeout(ctx, 10*time.Second)
	defer cancelBye()
	if err := c.Goodbye(bye); err != nil {
		t.Fatal(err)
	}
	if n := a.Seen().Goodbyes; n != 1 {
		t.Errorf("%d goodbyes, want 1", n)
	}
}
