package authority

import (
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
)

// certified is a connection's TLS state with what its client certificate says,
// read once for all calls of the connection.
type certified struct {
	credentials.TLSInfo
	shown      bool // there is a verified certificate
	name       string
	generation uint32
	ends       int64 // when it does, in Unix seconds
	err        error // what is wrong with it
}

func certify(info credentials.TLSInfo) *certified {
	c := &certified{TLSInfo: info}
	if chains := info.State.VerifiedChains; len(chains) > 0 {
		c.shown = true
		c.name, c.generation, c.err = pki.CredentialOf(chains[0][0])
		c.ends = chains[0][0].NotAfter.Unix()
	}
	return c
}

// certifying are transport credentials whose connections are certified.
type certifying struct {
	credentials.TransportCredentials
}

func (c certifying) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	tls, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(errors.New("transport without TLS"), conn.Close())
	}
	return conn, certify(tls), nil
}

func (c certifying) Clone() credentials.TransportCredentials {
	return certifying{c.TransportCredentials.Clone()}
}
