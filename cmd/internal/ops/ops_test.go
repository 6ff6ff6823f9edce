package ops

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

func TestLogger(t *testing.T) {
	for _, c := range []struct {
		format string
		level  slog.Level
		want   []string // parts of the one line
	}{
		{"json", slog.LevelInfo, []string{`"level":"INFO","msg":"session closed","lasted":"1m30.5s","in":{"again_in":"50ms"}`}},
		{"text", slog.LevelInfo, []string{`msg="session closed" lasted=1m30.5s in.again_in=50ms`}},
		{"json", slog.LevelWarn, nil},
	} {
		var out bytes.Buffer
		cfg := LogConfig{Level: Level(c.level), Format: c.format}
		cfg.Logger(&out).Info("session closed", "lasted", 90*time.Second+500*time.Millisecond, slog.Group("in", "again_in", 50*time.Millisecond))
		for _, part := range c.want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: %s, want %s", c.format, out.String(), part)
			}
		}
		if c.want == nil && out.Len() > 0 {
			t.Errorf("%s: below its level, logged %s", c.format, out.String())
		}
	}
}

func TestListenTakesOnePath(t *testing.T) {
	l, err := Listen("127.0.0.1:0", "listeners[0].address")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var peer net.Dialer
	peer.SetMultipathTCP(true)
	c, err := peer.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	taken, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if many, err := taken.(*net.TCPConn).MultipathTCP(); many || err != nil {
		t.Errorf("a peer may come over several paths: %v, %v", many, err)
	}
}

func TestListenNamesItsFlag(t *testing.T) {
	l, err := Listen("127.0.0.1:0", "listeners[0].address")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	again, err := Listen(l.Addr().String(), "listeners[0].address")
	if err == nil {
		again.Close()
		t.Fatal("one address is listened on twice")
	}
	if want := l.Addr().String() + " is in use by another process; choose another address with listeners[0].address, or end the other"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s ...", err, want)
	}
}
