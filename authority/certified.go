package authority

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// certified is a connection's TLS state with what its client certificate says,
// read once for all calls of the connection.
type certified struct {
	credentials.TLSInfo
	shown      bool // there is a verified certificate
	name       string
	generation uint32
	by         signature
	err        error        // what is wrong with it
	conn       *boundedConn // nil on other transports
}

// show says that a call on the connection was its caller's to make.
func (c *certified) show(credential string) error {
	if c.conn == nil {
		return nil
	}
	return c.conn.show(credential)
}

// signature tells of a certificate by which CA it is, and its end in Unix
// seconds, zero where that is not known.
type signature struct {
	ca   string
	ends int64
	nth  uint64 // the connection that it was shown on; zero before one was
}

// same reports whether both tell the same of a certificate.
func (s *signature) same(other *signature) bool { return s.ca == other.ca && s.ends == other.ends }

func signatureOf(c *storage.Credential) *signature {
	s := &signature{ca: c.SignedBy}
	if !c.CertificateEnds.IsZero() {
		s.ends = c.CertificateEnds.Unix()
	}
	return s
}

func certify(info credentials.TLSInfo, nth uint64) *certified {
	c := &certified{TLSInfo: info}
	if chains := info.State.VerifiedChains; len(chains) > 0 {
		c.shown = true
		c.name, c.generation, c.err = pki.CredentialOf(chains[0][0])
		issuer := chains[0][min(1, len(chains[0])-1)] // by its key, be it a root or vouched for
		c.by = signature{pki.ID(issuer), chains[0][0].NotAfter.Unix(), nth}
	}
	return c
}

// certifying are transport credentials whose connections are certified. Those that
// show no certificate must show another credential before long.
type certifying struct {
	credentials.TransportCredentials
	conns  *connections
	closed prometheus.Counter // connections that did not
	within time.Duration
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
	kept, who, err := c.conns.keep(conn, tls)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	if bounded, ok := raw.(*boundedConn); ok {
		who.conn = bounded
		if !who.shown {
			bounded.expectCredential(c.within, c.closed)
		}
	}
	return kept, who, nil
}

func (c certifying) Clone() credentials.TransportCredentials {
	return certifying{c.TransportCredentials.Clone(), c.conns, c.closed, c.within}
}

// connections are those that were made with a certificate, by CA, so that they
// end with the trust in it. Safe for concurrent use.
type connections struct {
	ca *pki.CA

	mu   sync.Mutex // guards what follows
	nth  uint64
	open map[string]map[*keptConn]struct{}
}

func newConnections(ca *pki.CA) *connections {
	return &connections{ca: ca, open: map[string]map[*keptConn]struct{}{}}
}

// keptConn is a connection that is forgotten once it is closed.
type keptConn struct {
	net.Conn
	conns *connections
	by    string // the CA
}

func (c *connections) keep(conn net.Conn, info credentials.TLSInfo) (net.Conn, *certified, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nth++
	who := certify(info, c.nth)
	if !who.shown {
		return conn, who, nil
	}
	// With mu held: whoever retires a CA then ends what is here, or this finds that
	// it was.
	if !c.ca.Trusts(who.by.ca) {
		return nil, nil, errors.New("client certificate of a CA that was retired meanwhile")
	}
	kept := &keptConn{conn, c, who.by.ca}
	if c.open[kept.by] == nil {
		c.open[kept.by] = map[*keptConn]struct{}{}
	}
	c.open[kept.by][kept] = struct{}{}
	return kept, who, nil
}

func (k *keptConn) Close() error {
	k.conns.mu.Lock()
	delete(k.conns.open[k.by], k)
	k.conns.mu.Unlock()
	return k.Conn.Close()
}

// closeUntrusted ends the connections that were made with certificates of CAs
// that are not trusted any more, and counts them.
func (c *connections) closeUntrusted() (closed int) {
	c.mu.Lock()
	var end []*keptConn
	for by, conns := range c.open {
		if c.ca.Trusts(by) {
			continue
		}
		for k := range conns {
			end = append(end, k)
		}
		delete(c.open, by)
	}
	c.mu.Unlock()
	for _, k := range end {
		_ = k.Conn.Close() // its reader finds out
	}
	return len(end)
}
