package main

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// alertCredentials make a connection tell why the server refused a client
// certificate. In TLS 1.3 that alert comes after the client's handshake has
// succeeded (RFC 8446 section 4.4.2.4), and the server closes with it, so that
// the client's next write may fail as a broken pipe before anyone has read it.
type alertCredentials struct {
	credentials.TransportCredentials
}

// ClientHandshake wraps the connection that the handshake gives.
func (c alertCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return alertConn{conn}, info, nil
}

// Clone keeps the wrapping.
func (c alertCredentials) Clone() credentials.TransportCredentials {
	return alertCredentials{c.TransportCredentials.Clone()}
}

type alertConn struct{ net.Conn }

// alertWait bounds how long a failed write looks for an alert.
const alertWait = 200 * time.Millisecond

// Write reports the peer's alert, if there is one, instead of the failed write.
func (c alertConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err == nil || c.SetReadDeadline(time.Now().Add(alertWait)) != nil {
		return n, err
	}
	var alert *net.OpError // whose Op is crypto/tls's for alerts of the peer
	if _, readErr := c.Read(make([]byte, 1)); errors.As(readErr, &alert) && alert.Op == "remote error" {
		err = readErr
	}
	return n, err
}
