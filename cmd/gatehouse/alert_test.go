package main

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// brokenConn can't be written to any more; what can be read of it is readErr.
type brokenConn struct {
	net.Conn
	readErr error
}

func (brokenConn) Write([]byte) (int, error)         { return 0, syscall.EPIPE }
func (c brokenConn) Read([]byte) (int, error)        { return 0, c.readErr }
func (brokenConn) SetReadDeadline(t time.Time) error { return nil }

func TestFailedWriteTellsTheAlert(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: unknown certificate authority")}
	if _, err := (alertConn{brokenConn{readErr: alert}}).Write([]byte("x")); !errors.Is(err, alert) {
		t.Errorf("with an alert: %v", err)
	}
	for _, other := range []error{io.EOF, &net.OpError{Op: "read", Err: syscall.ECONNRESET}} {
		if _, err := (alertConn{brokenConn{readErr: other}}).Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("with %v: %v", other, err)
		}
	}
}
