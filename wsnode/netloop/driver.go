package netloop

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
)

// Driver drives connections in the best way that there is for each listener. Its
// methods are safe for concurrent use.
type Driver struct {
	portable *Portable
	loops    driver // nil where there are none
}

// driver is a way to drive the connections of some listeners.
type driver interface {
	// takes reports whether Serve can serve a listener.
	takes(l net.Listener) bool
	Serve(l net.Listener, tlsConfig *tls.Config) error
	broadcast(b *broadcast) bool
	LetNobodyIn()
	Stop()
	Close()
	Wait(ctx context.Context) error
	Queued() int
}

// NewDriver makes a driver of the connections that opener lets in.
func NewDriver(cfg Config, opener Opener, log *slog.Logger) *Driver {
	d := &Driver{portable: NewPortable(cfg, opener, log)}
	if cfg.Loops > 0 {
		d.loops = newLoops(cfg, opener, log, d.portable.shakes)
	}
	return d
}

// Serve accepts from l, over TLS if tlsConfig is not nil, until the driver is
// stopped or l is closed; then it returns nil. It may close l itself. When accept
// fails for a while, as without descriptors, it tries again; any other error of
// accept ends it and is returned.
func (d *Driver) Serve(l net.Listener, tlsConfig *tls.Config) error {
	if d.loops != nil && d.loops.takes(l) {
		return d.loops.Serve(l, tlsConfig)
	}
	return d.portable.Serve(l, tlsConfig)
}

// LetNobodyIn lets no connection in any more, and leaves those that there are as
// they are. Listeners are their owner's to close, before.
func (d *Driver) LetNobodyIn() {
	d.portable.LetNobodyIn()
	if d.loops != nil {
		d.loops.LetNobodyIn()
	}
}

// Stop lets no connection in any more, gives up those whose TLS handshake has
// not ended, and asks the machines of all others to end. Listeners are their
// owner's to close, before.
func (d *Driver) Stop() {
	d.portable.Stop()
	if d.loops != nil {
		d.loops.Stop()
	}
}

// Close cuts every connection off and waits until all are gone.
func (d *Driver) Close() {
	d.portable.Close()
	if d.loops != nil {
		d.loops.Close()
	}
}

// Wait waits until there is no connection, or ctx ends.
func (d *Driver) Wait(ctx context.Context) error {
	err := d.portable.Wait(ctx)
	if d.loops != nil {
		err = errors.Join(err, d.loops.Wait(ctx))
	}
	return err
}

// Handshakes counts the TLS handshakes that are under way, and those of them that
// wait for their peers.
func (d *Driver) Handshakes() (underWay, parked int) {
	s := d.portable.shakes
	return int(s.count.Load()), int(s.parked.Load())
}

// Queued is how many bytes of memory hold what waits for peers to read it.
func (d *Driver) Queued() int {
	n := d.portable.Queued()
	if d.loops != nil {
		n += d.loops.Queued()
	}
	return n
}
