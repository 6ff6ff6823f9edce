package verify

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// Streams that fail are tried again ever later, but soon once the authority is
// found, and where that was while the last was under way.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{log: slog.New(slog.DiscardHandler)}
		var found event
		found.init()
		begin := time.Now()
		var at []int // milliseconds
		ctx, cancel := context.WithTimeout(t.Context(), 14*time.Second)
		defer cancel()
		time.AfterFunc(10*time.Second, found.happen)
		c.again(ctx, "test", func(context.Context) error {
			now := int(time.Since(begin).Milliseconds())
			at = append(at, now)
			if now == 11600 {
				found.happen()
			}
			return errors.New("refused")
		}, &found)
		want := []int{0, 50, 150, 350, 750, 1550, 3150, 6150, 9150, 10050, 10100, 10200, 10400, 10800, 11600, 11650, 11700, 11800, 12000, 12400, 13200}
		if !slices.Equal(at, want) {
			t.Errorf("tried at %v ms,\nwant %v", at, want)
		}
	})
}

// The authority is found when a connection comes about after others had failed,
// not when one comes about at once.
func TestReached(t *testing.T) {
	a := wstest.NewAuthority()
	serverTLS, clientTLS := wstest.TLS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Address = l.Addr().String()
	c, err := New(cfg, credentials.NewTLS(clientTLS), nil, &sockets{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go c.reach(ctx) // ends with ctx
	until := func(want connectivity.State) {
		t.Helper()
		for s := c.conn.GetState(); s != want; s = c.conn.GetState() {
			if want != connectivity.Idle {
				c.conn.Connect()
			}
			if !c.conn.WaitForStateChange(ctx, s) {
				t.Fatalf("the connection is %v, not %v", s, want)
			}
		}
	}
	found := c.reached.next()
	stop := a.ServeOn(t, l, serverTLS)
	until(connectivity.Ready)
	stop()
	until(connectivity.TransientFailure)
	select {
	case <-found:
		t.Error("the first connection came about at once: nothing was found")
	default:
	}
	if l, err = net.Listen("tcp", cfg.Address); err != nil {
		t.Fatal(err)
	}
	stop = a.ServeOn(t, l, serverTLS)
	select {
	case <-found:
	case <-ctx.Done():
		t.Error("the authority is there, and was not found")
	}
	found = c.reached.next()
	stop()
	if l, err = net.Listen("tcp", cfg.Address); err != nil { // before anybody connects
		t.Fatal(err)
	}
	until(connectivity.Idle)
	a.ServeOn(t, l, serverTLS)
	until(connectivity.Ready)
	time.Sleep(20 * time.Millisecond)
	select {
	case <-found:
		t.Error("no connection had failed since: nothing was found")
	default:
	}
}

// A node attaches as soon as the authority is reached, however long its streams had
// to wait between their attempts by then; what hangs on that does not begin before.
func TestAttachesAsSoonAsReached(t *testing.T) {
	const reached = 10 * time.Second
	inLab(t, func(l *lab) { l.a.Down(status.Error(codes.Unavailable, "away")) }, func(l *lab) {
		l.at(reached) // the stream's own wait would last until 12.15 s
		l.a.Down(nil)
		l.wantReady(false)
		l.reached.happen()
		l.at(reached + 60*time.Millisecond)
		l.wantReady(true)
	})
}
