package netloop

import (
	"crypto/tls"
	"crypto/x509"
	"runtime"
	"sync"
	"sync/atomic"
)

// shakes are the TLS handshakes under way, over all connections of a driver: those
// whose ClientHello has come. Each has a goroutine. On the event loops few of those
// compute at a time, so that no storm of them has the loops wait.
type shakes struct {
	most      int32
	count     atomic.Int32
	parked    atomic.Int32 // of count: those that wait for their peers
	computing chan struct{}
	all       sync.WaitGroup
}

func newShakes(cfg Config) *shakes {
	return &shakes{most: int32(cfg.Handshakes), computing: make(chan struct{}, max(runtime.GOMAXPROCS(0)-cfg.Loops, 1))}
}

// enter counts one more, if there may be one.
func (p *shakes) enter() bool {
	if p.count.Add(1) > p.most {
		p.count.Add(-1)
		return false
	}
	p.all.Add(1)
	return true
}

func (p *shakes) leave() {
	p.count.Add(-1)
	p.all.Done()
}

func (p *shakes) compute() { p.computing <- struct{}{} }
func (p *shakes) rest()    { <-p.computing }

// shownBy is the certificate that a client has shown in a handshake that is done, or
// nil.
func shownBy(over *tls.Conn) *x509.Certificate {
	if certs := over.ConnectionState().PeerCertificates; len(certs) > 0 {
		return certs[0]
	}
	return nil
}
