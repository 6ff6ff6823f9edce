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

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// Streams that fail are tried again ever later, but at once when the authority is
// found.
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
			at = append(at, int(time.Since(begin).Milliseconds()))
			return errors.New("refused")
		}, &found)
		want := []int{0, 50, 150, 350, 750, 1550, 3150, 6150, 9150, 10050, 10100, 10200, 10400, 10800, 11600, 13200}
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
	go c.reach(ctx) // ends with ctx, or when c is closed
	until := func(want connectivity.State) {
		t.Helper()
		for s := c.conn.GetState(); s != want; s = c.conn.GetState() {
			c.conn.Connect()
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
	a.ServeOn(t, l, serverTLS)
	select {
	case <-found:
	case <-ctx.Done():
		t.Error("the authority is there, and was not found")
	}
}
